"""Commands of data sets: scan, show, audit, decode, fetch, cache.

harness data: what a study would read, how it is divided, what is wrong with it, what the model would be shown.

harness data cache: decoded images and scans that are kept, and how to be rid of them.

harness data fetch: public data sets, by name or by address.
"""

import io
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from harness.cli.help import Commands
from harness.cli.options import Json, Sets, StudyFile, study_files
from harness.cli.streams import claim_stdout, print_json, show
from harness.output.terminal import note

if TYPE_CHECKING:
    from harness.config.load import Study
    from harness.data.cache import Cache

cache_app = Commands(help="Decoded images and scans that are kept.")

SHORT = 14
"""characters of a name in a table: its kind and enough of its key; --json has all"""


@cache_app.command("list", short_help="What is kept, how large, for which study.")
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


@cache_app.command("prune", short_help="Throw away what no study reads.")
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


def fetch(
    what: Annotated[str, typer.Argument(metavar="NAME|URL", help="A MedMNIST set, or the address of a file.")],
    to: Annotated[
        Path | None, typer.Option("--to", metavar="FOLDER", help="Where to put it; data, or data/medmnist.")
    ] = None,
    checksum: Annotated[
        str, typer.Option("--checksum", metavar="sha256:HEX", help="What the file must be; md5, sha1 and sha512 too.")
    ] = "",
    json: Json = False,
) -> None:
    """Download a data set; zip and tar archives are unpacked.

    A download that was cut off goes on where it stopped. MedMNIST sets by name, with the checksums that the project
    publishes: pathmnist, chestmnist, dermamnist, octmnist, pneumoniamnist, retinamnist, breastmnist, bloodmnist,
    tissuemnist, organamnist, organcmnist, organsmnist.
    """
    claim_stdout()
    from harness.data.download import MEDMNIST, find_source
    from harness.data.download import fetch as fetch_source
    from harness.errors import RequestError
    from harness.output.progress import step_progress
    from harness.store.home import open_home

    source = find_source(what, checksum)
    folder = to or Path("data/medmnist" if what in MEDMNIST else "data")  # where the shipped studies look
    if folder.exists() and not folder.is_dir():
        raise RequestError(f"--to {folder}: this is a file; name a folder.")
    with step_progress() as progress:
        done = fetch_source(source, folder, open_home(), progress)
    if json:
        print_json({"path": done.path, "new": done.new, "bytes": done.bytes, "sha256": done.sha256 or None})
        return
    show(f"{done.path}{'' if done.new else ' (it was there already)'}")
    if done.sha256 and not source.checksum:
        note(f"nothing was known to check it by. Next time: --checksum sha256:{done.sha256}")


app = Commands(help="The images and labels of a study.")
app.add_typer(cache_app, name="cache")
app.command("fetch", short_help="Download a public data set.")(fetch)


@app.command("scan", short_help="Read, check, divide and decode everything once.")
def scan(
    name: StudyFile,
    set_: Sets = None,
    force: Annotated[bool, typer.Option("--force", help="Read and decode unchanged files again, too.")] = False,
    json: Json = False,
) -> None:
    """Read every image and label of a study, divide them into folds, and keep the decoded pixels.

    Files that cannot be used are listed with their reasons. Exit code 2 when data.on_error says to refuse them.
    """
    claim_stdout()
    from harness.data.summary import scan_document
    from harness.store.home import open_home

    study = _load(name, set_)
    document = scan_document(study, open_home(), force)
    found = document["findings"]
    if json:
        print_json(document)
    else:
        _show_folds(document)
        _show_findings(found, "Every file can be used.")
    _refuse_blocking(found, study)
    if not json:
        show(f"\nNext: harness study run {name}")


@app.command("show", short_help="Classes by part, sizes, formats; as a page with --out.")
def show_(
    name: StudyFile,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="PAGE.html", help="Write a page with pictures and findings.")
    ] = None,
    set_: Sets = None,
    json: Json = False,
) -> None:
    """How many images of each class stand in each fold and in the held-out test split, their sizes and formats.

    With --out, the same and sample pictures, grey levels, the audit's findings and what augmentation does, as one HTML
    file that needs nothing else.
    """
    claim_stdout()
    from harness.data.summary import files_document, manifest_of, usable
    from harness.errors import RequestError
    from harness.store.home import open_home

    if out is not None and out.is_dir():
        raise RequestError(f"--out {out}: this is a folder; name a file, such as {out / 'data.html'}.")
    study, home = _load(name, set_), open_home()
    prepared, manifest = usable(study, home), manifest_of(study, home)
    document = files_document(study, prepared, manifest)
    if out is not None:
        from harness.report.data_page import dataset_page
        from harness.store.files import write_text

        write_text(out, dataset_page(study, prepared, manifest, study.spec.seed))
    if json:
        print_json({**document, "page": out})
        return
    _show_folds(document)
    _show_files(document)
    if out is not None:
        note(f"the page is {out}")


@app.command("audit", short_help="Look for what makes scores lie.")
def audit(name: StudyFile, set_: Sets = None, json: Json = False) -> None:
    """Look for what makes scores lie: groups in two parts, duplicates, conflicting labels, shortcuts.

    Exit code 2 when a finding blocks the study.
    """
    claim_stdout()
    from harness.data.summary import findings_of
    from harness.store.home import open_home

    study = _load(name, set_)
    findings = findings_of(study, open_home())
    if json:
        print_json({"study": study.name, "findings": findings})
    else:
        _show_findings(findings, f"Nothing was found wrong with the images of {study.name}.")
    _refuse_blocking(findings, study)


def _load(name: str, sets: list[str] | None) -> "Study":
    from harness.config.load import load_study

    return load_study(name, sets)


def _refuse_blocking(findings: list[dict[str, Any]], study: "Study") -> None:
    from harness.errors import RequestError

    blocking = [finding for finding in findings if finding["severity"] == "block"]
    if not blocking:
        return
    from harness.data.audit import way_out

    kinds = [finding["kind"] for finding in blocking]
    unreadable = [finding for finding in blocking if finding["kind"] == "unreadable"]
    only_files = len(unreadable) == len(blocking)
    what_to_type = " Leave unusable files out with: --set data.on_error=drop" if only_files else way_out(kinds)
    what = "1 finding blocks" if len(blocking) == 1 else f"{len(blocking)} findings block"
    listed = "".join(f"\n  {finding['kind']}: {finding['message']}" for finding in blocking)
    raise RequestError(f"{what} study {study.name}:{listed}\nCorrect the files or the labels.{what_to_type}")


def _show_folds(document: dict[str, Any]) -> None:
    from harness.output.format import plural
    from harness.output.tables import table

    show(f"{plural(document['rows'], 'image')} of {plural(document['groups'], 'group')} in {document['root']}")
    for condition, rows in document["filtered"].items():
        show(f"{plural(rows, 'row')} left out by data.where, {condition}")
    show("")
    classes = document["classes"]
    rows = [
        [part["part"], str(part["rows"]), str(part["groups"]), *(str(part["counts"][label]) for label in classes)]
        for part in document["parts"]
    ]
    columns = ["part", "images", "groups", *classes]
    show(table(columns, rows, right=columns[1:]))


def _show_files(document: dict[str, Any]) -> None:
    """Sizes, formats, modes and what was left out, a line each."""
    from harness.output.format import plural

    def ends(side: str) -> str:
        low, high = document["sizes"][side]["min"], document["sizes"][side]["max"]
        return f"{low}" if low == high else f"{low} to {high}"

    different = document["sizes"]["different"]
    kinds = "all of one size" if different == 1 else plural(different, "different size")
    show("")
    show(f"size    {ends('width')} wide, {ends('height')} high ({kinds}), in pixels")
    for title, key in (("format", "formats"), ("mode", "modes")):
        show(f"{title:<7} {', '.join(f'{kind} {count:,}' for kind, count in document[key].items())}")
    for reason, count in document["left_out"].items():
        show(f"left out, {reason}: {count:,}")


def _show_findings(findings: list[dict[str, Any]], without: str) -> None:
    show("")
    if not findings:
        show(without)
    for finding in findings:
        show(f"{finding['severity']:<5} {finding['kind']}: {finding['message']}")


@app.command("decode", short_help="What the model would be shown of a file, as PNG.")
def decode(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="An image: PNG, JPEG, DICOM.")],
    out: Annotated[Path, typer.Option("--out", metavar="PNG", help="Where to write it.")],
    study: Annotated[
        str | None,
        typer.Option("--study", metavar="NAME|FILE", autocompletion=study_files, help="Decode as this study does."),
    ] = None,
    set_: Sets = None,
    json: Json = False,
) -> None:
    """Write what the model would be shown of one file, before augmentation and normalisation.

    Keys under data.decode can be set: --set data.decode.size=256 --set data.decode.window=[40,80].
    """
    claim_stdout()
    from PIL import Image

    from harness.config.load import check_study, load_study, parse_override
    from harness.config.space import fill
    from harness.errors import RequestError, Unreadable
    from harness.images.decode import decode as decode_file
    from harness.store.files import write_bytes

    if study is not None:
        how = load_study(study, set_).spec.data.decode
    else:
        plain_study = {"name": "decode", "data": {"root": ".", "group": "none"}, "search": {"trials": 1}}
        values = dict(parse_override(text) for text in set_ or [])
        how = check_study(fill(plain_study, values), "--set").spec.data.decode
    if out.is_dir():
        raise RequestError(f"--out {out}: this is a folder; name a file, such as {out / 'shown.png'}.")
    try:
        pixels = decode_file(file, how)
    except Unreadable as error:
        raise RequestError(f"{file}: {error.reason}") from error
    stored = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(stored, "PNG")
    write_bytes(out, stored.getvalue())
    height, width, channels = pixels.shape
    if json:
        print_json({"file": file, "out": out, "width": width, "height": height, "channels": channels})
    else:
        note(f"{out}: {width} x {height} pixels, {'grey' if channels == 1 else 'RGB'}")
