"""Build, list, show and register ensembles: what programs and commands are given.

Build ensembles, and what is said of one or of all methods at once, as plain data: `ensemble build|show|list --json`.

One way for the command line and for programs (harness.api): prints nothing but notes and progress.

Register a bundle in MLflow: under which name, with which code. harness.track.mlflow_registry does it.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import RequestError
from harness.output.terminal import note
from harness.store.home import Home

if TYPE_CHECKING:
    from harness.ensemble.build import Built
    from harness.ensemble.bundle_files import About
    from harness.track.mlflow_registry import Registered

CROSS_FITTED, FULL = "cross-fitted", "full"
"""what `--nested` takes: the score that costs nothing, and the one that trains"""
ALL = "all"
"""the method that stands for every one that trains nothing"""
SAID = (
    *("scores", "judged_on", "delta_vs_single", "delta_vs_mean", "comparisons", "recommended", "members_chosen_from"),
    *("selection_minus_cross_fitted", "top"),
    *("notes", "diversity", "contributions", "cost", "test_reads", "calibration", "decisions"),
)
"""what a bundle says of its scores, and how far to trust it"""


@dataclass(frozen=True)
class Made:
    built: "Built"
    registered: "dict[Path, Registered]"
    """by bundle; what MLflow has not got is not among them"""
    document: dict[str, Any]


def make(
    home: "Home",
    method: str | None = None,
    studies: Sequence[str] = (),
    top: int = 5,
    seed: int | None = None,
    resamples: int = 10,
    decide: str | None = None,
    device: str = "auto",
    register: bool = True,
    reference: bool = True,
    nested: str = CROSS_FITTED,
) -> Made:
    """Build and save what `method` (one of them, or all; left out, the mean) gives over the best trials of `studies`,
    or of the newest completed one. nested: CROSS_FITTED, or FULL to train the members again. Raises RequestError for
    what the words do not fit, before anything is done."""
    from harness.calibration.operating_points import parse_rule
    from harness.ensemble.methods import require_method
    from harness.ensemble.names import WITHOUT_TRAINING
    from harness.errors import RequestError, nearest
    from harness.output.progress import step_progress
    from harness.store.files import read_json
    from harness.store.records import require_study

    if nested not in (CROSS_FITTED, FULL):
        raise RequestError(f"--nested {nested}: no such score.{nearest(nested, (FULL,))} Type --nested full.")
    if method is None:
        note("method mean: no --method was given. Others: harness ensemble build --method all")
        method = "mean"
    rule = None if decide is None else parse_rule(decide)
    methods = list(WITHOUT_TRAINING) if method == ALL else [method]
    for name in methods:
        require_method(name)
    named: list[str | None] = [*dict.fromkeys(studies)] or [None]
    records = [require_study(home, name) for name in named]
    if not studies:
        note(f"study {records[0].name} (the newest completed one)")
    with step_progress() as progress:
        from harness.ensemble.build import build

        use_seed = records[0].tree["seed"] if seed is None else seed
        built = build(
            home, records, methods, top, use_seed, device, progress, rule, resamples, reference, nested == FULL, note
        )
    if built.untracked:
        note(f"MLflow shows none of this: {built.untracked}")
    bundles = [result.bundle for result in built.results]
    registered = register_built(home, bundles) if register and not built.untracked else {}
    documents = [saved_document(path, read_json(path / "bundle.json")) for path in bundles]
    return Made(built, registered, table_document(documents, built) if method == ALL else documents[0])


def saved_document(path: Path, about: Mapping[str, Any]) -> dict[str, Any]:
    """What `build --json` and `show --json` print of one ensemble, from its bundle.json."""
    same = {name: about[name] for name in ("study", "method", "metric")}
    said = {name: about[name] for name in SAID if name in about}
    return {**same, "bundle": path, "members": about["trials"], **said}


def table_document(documents: list[dict[str, Any]], built: "Built") -> dict[str, Any]:
    """What `--method all` prints: the rows of all once, then each ensemble as it would stand alone."""
    from harness.ensemble.score_table import verdict_together

    shared = [note for note in documents[0]["notes"] if all(note in one["notes"] for one in documents)]
    first = documents[0]
    rows = [*first["scores"], *(document["scores"][-1] for document in documents[1:])]
    return {
        **{name: first[name] for name in ("study", "metric", "members", "diversity", "contributions", "test_reads")},
        **{name: first[name] for name in ("judged_on", "comparisons", "recommended", "members_chosen_from")},
        "method": ALL,
        "scores": rows,
        "ensembles": documents,
        "notes": [*verdict_together(first["metric"], built.results), *shared],
        "refused": built.refused,
    }


def saved_bundles(home: "Home", study: str | None) -> list[tuple["Path", dict[str, Any]]]:
    """(folder, bundle.json) of every finished bundle, of one study or of all, oldest first."""
    from harness.errors import HarnessError
    from harness.store.files import is_done, read_json

    folders = [home.bundles(study)] if study else sorted(home.bundles("any").parent.glob("*"))
    found = [bundle for folder in folders for bundle in folder.glob("*") if is_done(bundle)]
    found.sort(key=lambda bundle: (bundle / "DONE").stat().st_mtime)
    read = []
    for bundle in found:
        try:
            about = read_json(bundle / "bundle.json")
            if "recommended" not in about:
                note(f"left out: {bundle} was built by an earlier version, whose scores are not shown. Build it again.")
                continue
            read.append((bundle, about))
        except (HarnessError, OSError) as error:  # one damaged bundle does not hide the others
            note(f"left out: {error}")
    return read


def find_saved(home: "Home", bundle: str) -> tuple[Path, dict[str, Any]]:
    """(folder, bundle.json) of one of this home's bundles. Raises RequestError with the known ones."""
    from harness.errors import RequestError, listed, nearest

    known = {f"{path.parent.name}/{path.name}": (path, about) for path, about in saved_bundles(home, None)}
    wanted = Path(bundle).resolve()
    found = known.get(bundle.rstrip("/")) or next((pair for pair in known.values() if pair[0] == wanted), None)
    if found is None:
        raise RequestError(
            f"no ensemble {bundle!r} in {home.root}.{nearest(bundle, known)} "
            f"Known: {listed(known, 'harness ensemble list')}."
        )
    return found


CODE = Path(__file__).parents[1] / "predict" / "mlflow_model.py"
NEEDED = ("torch", "torchvision", "timm", "numpy", "scikit-learn", "xgboost")
"""packages whose versions a model names: this program itself is not in the public index"""


def model_name(about: "About") -> str:
    """harness-STUDY-METHOD"""
    return f"harness-{about.study}-{about.method}"


def register(home: Home, bundle: Path, name: str | None = None) -> "Registered":
    """The next version of `name`, or of harness-STUDY-METHOD. Raises StoreAway where MLflow does not answer,
    RequestError for what is no name or no bundle. Checks no hash: whoever serves it does."""
    from harness.ensemble.bundle_files import read_about
    from harness.track.mlflow_registry import register_bundle

    if name is not None and not re.fullmatch(r"[\w.-]+", name):
        raise RequestError(f"--name {name!r} is no name for a model: use letters, digits, and . _ - only.")
    plain, about = read_about(bundle)
    requirements = [f"{package}=={about.versions[package].partition('+')[0]}" for package in NEEDED]
    tags = {f"harness.{key}": str(plain[key]) for key in ("study", "method", "commit", "data_hash")}
    return register_bundle(home, about.study, name or model_name(about), bundle, CODE, requirements, tags)


def register_built(home: "Home", bundles: Iterable[Path]) -> dict[Path, "Registered"]:
    """Register what was just built. Where MLflow is away the bundles stand all the same, and a note says so."""
    from harness.track.mlflow_registry import Registered
    from harness.track.mlflow_store import StoreAway

    found: dict[Path, Registered] = {}
    for path in bundles:
        try:
            found[path] = register(home, path)
        except StoreAway as error:
            note(f"{path.name} is not registered: {error}")
            note(f"When MLflow answers again, type: harness ensemble register {path.parent.name}/{path.name}")
    return found
