"""harness study importance and plots: what a search tells of its keys. Read-only, also while the study runs."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harness.cli.options import NewestStudy
from harness.cli.output import claim_stdout, print_json, show
from harness.cli.study import Json
from harness.output.terminal import note
from harness.search.optuna_export import importance_document, read_importances

if TYPE_CHECKING:
    pass

Method = Annotated[str, typer.Option("--method", metavar="M", help="ped_anova or fanova.")]


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
    from harness.search.optuna_export import scored_trials
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
