"""What is said of an ensemble, or of all methods at once, as plain data: `ensemble build|show|list --json`."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.cli.output import note

if TYPE_CHECKING:
    from harness.ensemble.build import Built
    from harness.home import Home

ALL = "all"
"""the method that stands for every one that trains nothing"""
SAID = (
    *("scores", "delta_vs_single", "delta_vs_mean", "selection_minus_nested", "nested_minus_mean"),
    *("notes", "diversity", "contributions", "cost", "test_reads", "calibration", "decisions"),
)
"""what a bundle says of its scores, and how far to trust it"""


def saved_document(path: Path, about: Mapping[str, Any]) -> dict[str, Any]:
    """What `build --json` and `show --json` print of one ensemble, from its bundle.json."""
    same = {name: about[name] for name in ("study", "method", "metric")}
    said = {name: about[name] for name in SAID if name in about}
    return {**same, "bundle": path, "members": about["trials"], **said}


def table_document(documents: list[dict[str, Any]], built: "Built") -> dict[str, Any]:
    """What `--method all` prints: the rows of all once, then each ensemble as it would stand alone."""

    first = documents[0]
    rows = [*first["scores"], *(document["scores"][-1] for document in documents[1:])]
    return {
        **{name: first[name] for name in ("study", "metric", "members", "diversity", "contributions", "test_reads")},
        "method": ALL,
        "scores": rows,
        "ensembles": documents,
        "notes": verdict_together(first["metric"], built.results),
        "refused": built.refused,
    }


def saved_bundles(home: "Home", study: str | None) -> list[tuple["Path", dict[str, Any]]]:
    """(folder, bundle.json) of every finished bundle, of one study or of all, oldest first."""
    from harness.errors import HarnessError
    from harness.home import is_done, read_json

    folders = [home.bundles(study)] if study else sorted(home.bundles("any").parent.glob("*"))
    found = [bundle for folder in folders for bundle in folder.glob("*") if is_done(bundle)]
    found.sort(key=lambda bundle: (bundle / "DONE").stat().st_mtime)
    read = []
    for bundle in found:
        try:
            read.append((bundle, read_json(bundle / "bundle.json")))
        except (HarnessError, OSError) as error:  # one damaged bundle does not hide the others
            note(f"left out: {error}")
    return read
