"""harness data cache: decoded images and scans that are kept, and how to be rid of them."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from harness.cli.help import Commands
from harness.cli.output import claim_stdout, print_json, show
from harness.cli.study import Json
from harness.output.terminal import note

if TYPE_CHECKING:
    from harness.data.cache import Cache

app = Commands(help="Decoded images and scans that are kept.")

SHORT = 14
"""characters of a name in a table: its kind and enough of its key; --json has all"""


@app.command("list", short_help="What is kept, how large, for which study.")
def list_(json: Json = False) -> None:
    """What is kept under mlruns/pixels: kind, size, last use, and the studies that read it."""
    claim_stdout()
    from harness.data.cache import list_caches
    from harness.store.home import open_home

    home = open_home()
    caches = list_caches(home)
    if json:
        print_json({"folder": str(home.pixels), "caches": [_document(cache) for cache in caches]})
        return
    if not caches:
        show(f"Nothing is kept in {home.pixels}.")
        return
    _show(caches)
    show(f"\n{_size(sum(cache.bytes for cache in caches))} in {home.pixels}")
    if any(not cache.studies for cache in caches):
        show("What no study reads can go: harness data cache prune --dry-run")


@app.command("prune", short_help="Throw away what no study reads.")
def prune_(
    days: Annotated[
        float | None, typer.Option("--days", metavar="N", help="Also what was not used for N days.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    json: Json = False,
) -> None:
    """Throw away scans and decoded images that no study reads; never what is in use.

    All of it is made again from the images when it is needed.
    """
    claim_stdout()
    from harness.data.cache import prune
    from harness.store.home import open_home

    done = prune(open_home(), days, dry_run)
    freed = sum(cache.bytes for cache in done.gone)
    if json:
        kept = [{**_document(cache), "reason": reason} for cache, reason in done.kept]
        pruned = [_document(cache) for cache in done.gone]
        print_json({"dry_run": dry_run, "bytes": freed, "pruned": pruned, "kept": kept})
        return
    if done.gone:
        _show(done.gone)
        show(f"\n{_size(freed)} {'would be freed' if dry_run else 'freed'}.")
    else:
        show("Nothing to throw away.")
    for cache, reason in done.kept:
        note(f"kept {cache.name.lstrip('.')[:SHORT]}: {reason}")


def _document(cache: "Cache") -> dict[str, Any]:
    from datetime import UTC, datetime

    used = datetime.fromtimestamp(cache.last_used, UTC).isoformat(timespec="seconds")
    return {
        "name": cache.name,
        "kind": cache.kind,
        "holds": cache.holds,
        "bytes": cache.bytes,
        "last_used": used,
        "studies": list(cache.studies),
        "in_use": cache.in_use,
    }


def _show(caches: "list[Cache]") -> None:
    import time

    from harness.output.format import duration
    from harness.output.tables import table

    now = time.time()
    rows = [
        [
            cache.name.lstrip(".")[:SHORT],
            cache.holds,
            _size(cache.bytes),
            f"{duration(max(0.0, now - cache.last_used))} ago",
            ", ".join(cache.studies) or "-",
        ]
        for cache in caches
    ]
    show(table(["name", "holds", "size", "last used", "studies"], rows))


def _size(count: int) -> str:
    """3.1 MB"""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= factor:
            return f"{count / factor:.1f} {unit}"
    return f"{count} bytes"
