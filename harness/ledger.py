"""What a study remembers of itself on disk: its spec, its state, one record per trial.

The ledger is the source of truth for stage 2 and for every table; MLflow shows the same to people. One process
writes at a time (the study's driver, under its lock); reading needs no lock, because writes are atomic.
"""

import dataclasses
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.errors import HarnessError, RequestError, nearest
from harness.home import Home, read_json, write_json
from harness.metrics import METRICS
from harness.types import Interval, TrialRecord, not_ranked, rank_value
from harness.words import number, plural

ORDER_METRICS = ("auroc", "auprc")
"""which depend on the order of the scores alone"""
LONGEST_TAG = 4900
"""characters; MLflow stores refuse tags above 5000"""


@dataclass(frozen=True)
class StudyRecord:
    name: str
    state: str
    """running, interrupted, complete, failed"""
    tree: dict[str, Any]
    """the study file, whole, with its ranges"""
    spec_hash: str
    data_hash: str
    folds_hash: str
    started: float
    """seconds since the epoch"""
    finished: float | None = None
    precision: dict[str, str] = dataclasses.field(default_factory=dict)
    """what `train.precision` came to, by backbone: fixed at the first trial, so that a resume computes the same"""
    corrected: dict[str, Any] | None = None
    """a records.Interval: the mean over folds of the best trial's search metric, corrected for having been chosen
    (search.corrected)"""
    audit_hash: str = ""
    """of what the audit found when the study was last run (data.audit); '' before there was one"""
    findings: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    """those findings, as `data audit --json` gives them"""
    starts: dict[str, str] = dataclasses.field(default_factory=dict)
    """what `study:NAME` meant for each backbone when the study began: {"study:NAME resnet18": "study:NAME/7"}"""
    weights: dict[str, str] = dataclasses.field(default_factory=dict)
    """SHA-256 of each file that model.weights meant when the study began: {"pretrained resnet18": "..."}; empty where
    it means none, and for a study of an earlier version"""
    caches: list[str] = dataclasses.field(default_factory=list)
    """the folders under Home.pixels that it reads"""
    ablates: str = ""
    """the study of whose trial this is an ablation; '' for a search, which it must not be taken for"""
    spent: float = 0.0
    """seconds that all its runs took until the last trial ended"""
    estimate: dict[str, Any] | None = None
    """records.Estimate of all its trials, made before the first"""
    made_with: dict[str, str] = dataclasses.field(default_factory=dict)
    """commit, machine and versions of the libraries when it was begun; empty for a study of an earlier version"""


def write_study(home: Home, record: StudyRecord) -> None:
    write_json(home.work(record.name) / "study.json", dataclasses.asdict(record))


def read_study(home: Home, name: str) -> StudyRecord | None:
    path = home.work(name) / "study.json"
    return _study(path) if path.exists() else None


def audit_tags(record: StudyRecord) -> dict[str, str]:
    """What the audit found, as tags of every MLflow run of a study: its hash, and one line for each finding."""
    if not record.audit_hash:
        return {}  # a study of an earlier version
    lines = [f"{one['severity']} {one['kind']}: {one['message']}" for one in record.findings]
    said = "\n".join(lines)
    if len(said) > LONGEST_TAG:
        said = said[: LONGEST_TAG - 40].rstrip() + f"\n... {len(lines)} findings in all"
    return {"harness.audit_hash": record.audit_hash, "harness.findings": said or "none"}


def count_test_reads(home: Home, study: str, scored: Sequence[tuple[str, Sequence[int | str]]]) -> int:
    """Note what is scored on a study's test split, as (method, members); returns how many different things have been
    by now. Each one more is a chance to choose by that split, and a split that was chosen by is none."""
    path = home.work(study) / "test_reads.json"
    reads: list[dict[str, Any]] = read_json(path) if path.exists() else []
    new = [{"method": method, "members": list(members)} for method, members in scored]
    reads += [one for one in new if one not in reads]
    write_json(path, reads)
    return len(reads)


def is_optimistic(tree: dict[str, Any]) -> bool:
    """Whether a study's folds pick their epoch on the very rows that they are scored on."""
    return bool(tree.get("train", {}).get("select") == "scored_fold")


def require_study(home: Home, name: str | None) -> StudyRecord:
    """The named study, or the newest completed one. Raises RequestError when there is none."""
    studies = list_studies(home)
    if name is None:
        completed = [study for study in studies if study.state == "complete" and not study.ablates]
        if not completed:
            raise RequestError(f"no completed study in {home.root}. Type: harness study run lr_aug_sweep")
        return max(completed, key=lambda study: study.finished or 0.0)
    record = read_study(home, name)
    if record is None:
        known = [study.name for study in studies]
        raise RequestError(
            f"study {name!r} has not run in {home.root}.{nearest(name, known)} "
            f"Type: harness study run {name}   (studies that ran: {', '.join(known) or 'none'})"
        )
    return record


def list_studies(home: Home) -> list[StudyRecord]:
    """Every study that ran in this home, by name."""
    files = sorted(home.work_root.glob("*/study.json"))
    return [_study(path) for path in files]


def _study(path: Path) -> StudyRecord:
    try:
        return StudyRecord(**read_json(path))
    except TypeError as error:
        raise HarnessError(
            f"{path} is no record of a study ({error}): another version of harness may have written it. "
            "Use that version, or move the folder away."
        ) from error


def write_trial(home: Home, study: str, record: TrialRecord) -> None:
    write_json(home.trial_record(study, record.number), dataclasses.asdict(record))


def read_trial(home: Home, study: str, number: int) -> TrialRecord | None:
    path = home.trial_record(study, number)
    return _trial(read_json(path)) if path.exists() else None


def read_trials(home: Home, study: str) -> list[TrialRecord]:
    """Every trial of a study, by number."""
    folder = home.work(study) / "trials"
    return sorted((_trial(read_json(path)) for path in folder.glob("*.json")), key=lambda trial: trial.number)


def ranked(trials: Iterable[TrialRecord], metric: str) -> list[TrialRecord]:
    """The trials that can be the best one, best first: those with a `rank_value` that keep their study's constraints
    and are no copy of another. Ties go to the earlier one."""
    sign = -1.0 if METRICS[metric].higher_is_better else 1.0
    sound = [trial for trial in trials if not trial.infeasible and trial.same_as is None]
    values = {trial.number: sign * rank_value(trial, metric) for trial in sound}
    defined = [trial for trial in sound if not math.isnan(values[trial.number])]
    return sorted(defined, key=lambda trial: (values[trial.number], trial.number))


def trial_notes(trials: Iterable[TrialRecord], metric: str) -> list[dict[str, Any]]:
    """What is to be known of the ranked trials' scores: a `code`, one line of `message`, and the numbers of the
    `trials`, the best first. Pooling mixes up the fold models' scales in metrics of order alone."""
    found = [trial for trial in ranked(trials, metric) if "fold-scale" in trial.notes and metric in ORDER_METRICS]
    if not found:
        return []
    first = found[0]
    several = f" and of {plural(len(found) - 1, 'other trial')}" if len(found) > 1 else ""
    message = (
        f"The fold models of trial {first.number}{several} disagree on the scale of their scores: trial "
        f"{first.number} has {metric} {number(first.cv[metric])} as the mean over folds, by which trials are ranked, "
        f"and {number(first.oof[metric].value)} pooled."
    )
    return [{"code": "fold-scale", "message": message, "trials": [trial.number for trial in found]}]


def no_best(trials: Iterable[TrialRecord], metric: str) -> str:
    """Why a study has no best trial: what it lacks, to stand behind `has`."""
    why = [f"trial {trial.number}: {reason}" for trial in trials if (reason := not_ranked(trial, metric))]
    more = f"; and {len(why) - 3} more" if len(why) > 3 else ""
    return f"no ranked trial ({'; '.join(why[:3])}{more})" if why else "no complete trial"


def best_trial(trials: Iterable[TrialRecord], metric: str) -> TrialRecord | None:
    """The first of `ranked`; None where there is none."""
    return next(iter(ranked(trials, metric)), None)


def _trial(data: dict[str, Any]) -> TrialRecord:
    data = _with_nan(data)
    return TrialRecord(**{**data, "oof": {name: Interval(**value) for name, value in data["oof"].items()}})


def _with_nan(data: dict[str, Any]) -> dict[str, Any]:
    def restore(node: Any) -> Any:
        if isinstance(node, dict):
            return {key: child if key in ("coverage", "reason") else restore(child) for key, child in node.items()}
        if isinstance(node, list):
            return [restore(child) for child in node]
        return math.nan if node is None else node

    return {
        key: restore(value) if key in ("cv", "cv_se", "oof", "fold_values") else value for key, value in data.items()
    }
