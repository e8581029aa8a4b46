"""Records of studies and trials on disk, their epochs, and which trials are best.

What a study remembers of itself on disk: its spec, its state, one record per trial.

These records are the source of truth for stage 2 and for every table; MLflow shows the same to people. One process
writes at a time (the study's driver, under its lock); reading needs no lock, because writes are atomic.

The log of a trial's epochs: one line of JSON each, added as it ends, read while it grows.

It is what learning curves come from when MLflow was away, what `study show` looks at while a study runs, and what an
early stop may compare with. The study's driver is the only writer. A line that a crash tore off is no line: readers
leave it out and the next writer cuts it off.

Which trials nothing beats in every objective at once. Pure functions; no Optuna.
"""

import dataclasses
import json
import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.errors import HarnessError, RequestError, nearest
from harness.metrics import METRICS
from harness.store.files import read_json, without_nan, write_json
from harness.store.home import Home
from harness.types import EpochReport, Interval, TrialRecord, not_ranked, rank_value

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


@dataclass(frozen=True)
class LoggedEpoch:
    at: float
    """when it was first reported, seconds since 1970: the time of its points in MLflow, however often they are sent"""
    report: EpochReport


def append_epoch(home: Home, study: str, number: int, epoch: LoggedEpoch) -> None:
    """Add a line, on disk when this returns. Raises OSError, of which ENOSPC is a full disk."""
    path = home.trial_epochs(study, number)
    path.parent.mkdir(parents=True, exist_ok=True)
    line = json.dumps(without_nan({"at": epoch.at, **asdict(epoch.report)}), allow_nan=False) + "\n"
    with open(path, "ab+") as file:
        _cut_torn_line(path, file.tell())
        file.write(line.encode())
        file.flush()
        os.fsync(file.fileno())


def read_epochs(home: Home, study: str, number: int) -> list[LoggedEpoch]:
    """The epochs of a trial by fold and number; [] where none has ended.

    An epoch that was trained again after a crash is there once: as it was trained last, at the time of the first.
    Raises HarnessError that names the file where a whole line is damaged.
    """
    found: dict[tuple[int, int], LoggedEpoch] = {}
    for line in read_all_epochs(home, study, number):
        key = (line.report.fold, line.report.epoch)
        found[key] = replace(line, at=found[key].at) if key in found else line
    return [found[key] for key in sorted(found)]


def read_all_epochs(home: Home, study: str, number: int) -> list[LoggedEpoch]:
    """Every line in the order of writing: an epoch as often as it was trained."""
    path = home.trial_epochs(study, number)
    if not path.exists():
        return []
    whole, _, _ = path.read_bytes().rpartition(b"\n")
    return [_parse(path, row, line) for row, line in enumerate(whole.split(b"\n"), 1) if line]


def parse_report(data: dict[str, Any]) -> EpochReport:
    """An epoch as JSON has it, with its nulls as what they stand for. Raises TypeError or KeyError."""
    data = dict(data)
    for name in ("val", "inner"):
        if data[name] is not None:
            data[name] = {metric: _number(value) for metric, value in data[name].items()}
    for name in ("train_loss", "val_loss", "lr", "seconds", *(["inner_loss"] if data["inner"] is not None else [])):
        data[name] = _number(data[name])
    return EpochReport(**data)


def _parse(path: Path, row: int, line: bytes) -> LoggedEpoch:
    try:
        data: dict[str, Any] = json.loads(line)
        return LoggedEpoch(data.pop("at"), parse_report(data))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise HarnessError(
            f"{path}, line {row} is damaged ({error}). It holds learning curves only, no scores: move the file away."
        ) from error


def _number(value: float | None) -> float:
    """JSON's null is NaN again."""
    return math.nan if value is None else value


def _cut_torn_line(path: Path, size: int) -> None:
    if not size:
        return
    with open(path, "rb+") as file:
        file.seek(size - 1)
        if file.read(1) != b"\n":
            file.seek(0)
            file.truncate(file.read().rfind(b"\n") + 1)


def is_on_front(losses: NDArray[np.float64]) -> NDArray[np.bool_]:
    """(n,) of (n, objectives), all to be small: True where no other is as small everywhere and smaller somewhere."""
    on = np.ones(len(losses), bool)
    for index, row in enumerate(losses):
        on[index] = not ((losses <= row).all(axis=1) & (losses < row).any(axis=1)).any()
    return on


def front(records: Iterable[TrialRecord], metric: str, costs: Sequence[str]) -> list[TrialRecord]:
    """The Pareto-optimal trials in metric and costs, by number; none in a study of the metric alone. Of trials with
    the same configuration the first one stands."""
    sign = -1.0 if METRICS[metric].higher_is_better else 1.0
    known = [record for record in ranked(records, metric) if all(name in record.costs for name in costs)]
    known.sort(key=lambda record: record.number)
    if not costs or not known:
        return []
    losses = np.array(
        [[sign * rank_value(record, metric), *(record.costs[name] for name in costs)] for record in known]
    )
    return [record for record, on in zip(known, is_on_front(losses), strict=True) if on]


def original_of(record: TrialRecord, records: Iterable[TrialRecord]) -> TrialRecord:
    """The trial that has the artifacts of this one: itself, unless it is a copy."""
    return next((one for one in records if one.number == record.same_as), record)


def trained(records: Iterable[TrialRecord]) -> list[TrialRecord]:
    """The complete trials that have checkpoints of their own."""
    return [record for record in records if record.state == "complete" and record.same_as is None]
