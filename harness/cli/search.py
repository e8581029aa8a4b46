"""harness study importance and plots: what a search tells of its keys. Read-only, also while the study runs."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from harness.cli.options import NewestStudy
from harness.cli.output import claim_stdout, print_json, show
from harness.output.terminal import note

if TYPE_CHECKING:
    from harness.config.load import Study
    from harness.search.importance import Importance
    from harness.store.home import Home
    from harness.types import TrialRecord

Method = Annotated[str, typer.Option("--method", metavar="M", help="ped_anova or fanova.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")]


def importance(name: NewestStudy = None, method: Method = "ped_anova", json: Json = False) -> None:
    """Which searched keys made the difference, from the trials so far."""
    claim_stdout()
    from harness.output.tables import table
    from harness.store.home import open_home

    study, _, found, warning = read_importances(open_home(), name, method)
    if json:
        print_json(importance_document(study, method, found, warning))
        return
    rows = [[one.name, "not ranked" if one.value is None else f"{one.value:.3f}", str(one.trials)] for one in found]
    show(f"study {study.name}: importance for {study.spec.search.metric} ({method})")
    show(table(["key", "share", "trials"], rows, right=["share", "trials"]))
    if any(one.value is None for one in found):
        show("\nNot ranked: what stands in some trials only, or never varied.")
    if warning:
        show(f"\n{warning}")
    show(f"\nAn importance is no effect. For effects with intervals: harness study ablate {study.name}")


def plots(
    name: NewestStudy = None,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Where to write the page.")] = Path("plots"),
    method: Method = "ped_anova",
    json: Json = False,
) -> None:
    """History, importances, parallel coordinates, slices and contours of a search, as one HTML page."""
    claim_stdout()
    from harness.config.space import Choice
    from harness.errors import RequestError
    from harness.metrics import METRICS
    from harness.report.search import Axis, Row, Search, search_page
    from harness.search.importance import scored_trials
    from harness.store.files import write_text
    from harness.store.home import open_home

    if out.exists() and not out.is_dir():
        raise RequestError(f"--out {out}: this is a file; name a folder, such as {out.with_suffix('')}-plots.")
    study, trials, found, warning = read_importances(open_home(), name, method)
    metric = study.spec.search.metric
    axes = [
        Axis(key, False, tuple(str(option) for option in range_.options))
        if isinstance(range_, Choice)
        else Axis(key, range_.log, ())
        for key, range_ in study.space.items()
    ]
    rows = [Row(trial.number, trial.params, trial.cv[metric]) for trial in scored_trials(trials, metric)]
    if not rows:
        raise RequestError(f"study {study.name} has no scored trial yet. Type: harness study run {study.name}")
    told = [(one.name, one.value, one.trials) for one in found]
    higher = METRICS[metric].higher_is_better
    page = search_page(f"{study.name}: the search", Search(metric, higher, axes, rows, [], told, warning))
    path = out / f"{study.name}.html"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, page)
    if warning:
        note(warning)
    if json:
        print_json({"study": study.name, "page": path, "warning": warning or None})
    else:
        show(f"{path}")


def importance_document(study: "Study", method: str, found: "list[Importance]", warning: str) -> dict[str, Any]:
    """`study importance --json`."""
    keys = [{"name": one.name, "importance": one.value, "trials": one.trials} for one in found]
    return {"study": study.name, "method": method, "keys": keys, "warning": warning or None}


def read_importances(
    home: "Home", name: str | None, method: str
) -> "tuple[Study, list[TrialRecord], list[Importance], str]":
    """The study, its records, its importances and what is to be said against them."""
    from harness.config.load import check_study
    from harness.errors import RequestError, nearest
    from harness.search.importance import caution, importances
    from harness.store.records import read_trials, require_study

    if method not in ("ped_anova", "fanova"):
        raise RequestError(f"--method {method}: write ped_anova or fanova.{nearest(method, ['ped_anova', 'fanova'])}")
    record = require_study(home, name)
    study = check_study(record.tree, f"study {record.name} as it was begun")
    trials = read_trials(home, record.name)
    if not study.space:
        raise RequestError(f"study {study.name} searches nothing: its file has no range.")
    found = importances(study, trials, "ped_anova" if method == "ped_anova" else "fanova")
    return study, trials, found, caution(study, trials)
