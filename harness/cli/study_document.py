"""What is said of a study, as plain data: `study run --json`, `study show --json`, `study list --json`."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from harness.cli.watch import Live
    from harness.home import Home
    from harness.ledger import StudyRecord
    from harness.types import TrialRecord


def study_document(record: "StudyRecord", trials: "list[TrialRecord]", live: "Live | None" = None) -> dict[str, Any]:
    """`study run --json` and `study show --json`. `best` is the trial with the best mean over folds of the metric
    (ledger.best_trial), or null; `front` the Pareto-optimal trials of a study with search.costs."""
    from harness.cli.watch import live_document
    from harness.ledger import best_trial, trial_notes
    from harness.search.front import front

    metric, costs = record.tree["search"]["metric"], record.tree["search"].get("costs", ())
    described = {trial.number: _trial_document(trial) for trial in trials}
    best = best_trial(trials, metric)
    return {
        "study": record.name,
        "state": record.state,
        "metric": metric,
        "trials": list(described.values()),
        "best": described[best.number] if best else None,
        "best_corrected": record.corrected,
        "notes": trial_notes(trials, metric),
        "front": [described[trial.number] for trial in front(trials, metric, costs)],
        **(live_document(live) if live else {}),
    }


def _trial_document(trial: "TrialRecord") -> dict[str, Any]:
    return {
        "number": trial.number,
        "state": trial.state,
        "params": trial.params,
        "cv": trial.cv,
        "cv_se": trial.cv_se,
        "oof": trial.oof,
        "fold_values": trial.fold_values,
        "seconds": trial.seconds,
        "run_id": trial.run_id,
        "reason": trial.reason or None,
        "notes": trial.notes,
        "optimistic": trial.optimistic,
        "costs": trial.costs,
        "infeasible": trial.infeasible,
        "same_as": trial.same_as,
        "deaths": trial.deaths,
        "logged": trial.logged,
    }


def study_rows(home: "Home") -> list[dict[str, Any]]:
    """The studies that can be run and those that ran, by name."""
    from harness.ledger import list_studies
    from harness.study.load import list_study_files

    ran = {record.name: record for record in list_studies(home) if not record.ablates}
    files = {path.stem: path for path in list_study_files()}
    return [_study_row(home, name, files.get(name), ran.get(name)) for name in sorted({*files, *ran})]


def _study_row(home: "Home", name: str, path: Path | None, record: "StudyRecord | None") -> dict[str, Any]:
    """What `study list` says about one study. A broken study file is a row that says so, not the end of the list."""
    from harness.cli.watch import look
    from harness.errors import RequestError
    from harness.ledger import best_trial, read_trials
    from harness.study.load import load_study
    from harness.words import number

    row = {"study": name, "state": "not run", "done": 0, "total": 0, "best": None, "description": "", "file": path}
    tree = record.tree if record else None
    if tree is None and path is not None:
        try:
            tree = load_study(str(path)).tree
        except RequestError as error:
            return {**row, "state": "broken", "description": str(error).splitlines()[0]}
    assert tree is not None
    row.update(total=tree["search"]["trials"], description=tree["description"].strip())
    if record is None:
        return row
    trials = read_trials(home, name)
    metric = tree["search"]["metric"]
    best = best_trial(trials, metric)
    row.update(state=look(home, record, ()).state, done=sum(trial.state != "running" for trial in trials))
    if best is not None:
        said = ", optimistic" if best.optimistic else ""
        row["best"] = f"{metric} {number(best.cv[metric])} (trial {best.number}{said})"
    return row
