"""What a report is made of: records, predictions and bundles.

What a study's report is made of: its records, its ablations, its bundles, its learning curves and, where they are
still there, its data.

Reads the home and changes nothing in it; MLflow is not asked. What is missing is None, with the reason in words.

The predictions that a report judges: the best trial's out of fold, and of the test split what ensembles were built
for.

The test split is opened only for a study whose ensembles have been scored on it: a report is no reason to look. Which
ensemble is shown beside the mean and the best single member is said by ensemble.verdict.recommended. Reads files, fits
nothing.
"""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from harness.calibration.operating_points import ARGMAX, Answers, Rule, decide, said_out_of_fold, threshold, usual_rule
from harness.config.load import Study, check_study
from harness.data.prepare import Prepared, look
from harness.ensemble.bundle_files import read_about, read_plain
from harness.ensemble.embed import EncoderCache, read_encoders
from harness.ensemble.members import Member, read_oof
from harness.ensemble.postprocess import CALIBRATED
from harness.ensemble.score_table import PLAIN, of_document, recommended
from harness.errors import HarnessError, RequestError
from harness.metrics import METRICS, UNKNOWN, probabilities
from harness.search.compare import Side, compare_sides
from harness.store.arrays import unpack
from harness.store.files import read_json
from harness.store.home import Home
from harness.store.predictions import from_column
from harness.store.records import (
    LoggedEpoch,
    StudyRecord,
    best_trial,
    list_studies,
    original_of,
    ranked,
    read_epochs,
    read_trials,
    trained,
)
from harness.types import Dataset, Difference, Folds, Progress, TrialRecord

Floats = NDArray[np.float64]
OUT_OF_FOLD, TEST = "out of fold", "test split"


@dataclass(frozen=True)
class Predicted:
    """What one model says of one part of the data. n rows."""

    model: str
    part: str
    rows: NDArray[np.int64]
    """(n,) of the data set"""
    y: NDArray[np.int64]
    """(n,), or (n, C) of several labels"""
    p: Floats
    """(n, C)"""
    groups: NDArray[np.str_]
    said: NDArray[np.bool_]
    """(n, C) which classes it decides for"""
    rule: str
    """how it decides, in words"""
    fold: NDArray[np.int64] | None = None
    """(n,) which fold model predicted each row, of the out-of-fold part; None of the test split"""

    @property
    def title(self) -> str:
        return f"{self.model}, {self.part}"


@dataclass(frozen=True)
class Built:
    """A bundle of the study, by what it says of itself."""

    name: str
    path: Path
    about: Mapping[str, Any]

    @property
    def method(self) -> str:
        return str(self.about["method"])

    @property
    def row(self) -> Mapping[str, Any]:
        """Of its scores, its own."""
        return next(row for row in self.about["scores"] if row["kind"] != "single" and row["name"] == self.method)

    @property
    def on(self) -> str:
        """What it is judged on: `test`, `nested_full` or `none`."""
        return str(self.about["judged_on"])


def scored(row: Mapping[str, Any], on: str, metric: str) -> Mapping[str, Any] | None:
    """Of a row of a bundle's scores, the one that it is judged by: see Built.on. None where there is none."""
    found = None if on == "none" else row.get(on)
    score: Mapping[str, Any] | None = found[metric] if found else None
    return score


def trial_member(home: Home, study: str, trial: TrialRecord) -> Member:
    return Member(study, trial, home.run_artifacts(study, trial.run_id))


def trial_out_of_fold(member: Member, data: Prepared) -> Predicted:
    """Raises HarnessError where its files do not fit the study's rows and folds (members.read_oof)."""
    dataset, folds, development = data.dataset, data.folds, data.folds.development_rows()
    # fold by fold, the order in which training scored them: the same bootstrap, so the very same intervals
    rows = np.concatenate([folds.held_out_rows(k) for k in range(folds.k)])
    logits = read_oof([member], dataset, folds)[np.searchsorted(development, rows), 0]
    p = probabilities(logits, dataset.multilabel)
    answers = Answers(dataset.y[rows], p, dataset.groups[rows], folds.fold[rows])
    rule = usual_rule(dataset.classes, dataset.multilabel)
    said = said_out_of_fold(rule, answers, dataset.classes, dataset.multilabel)
    how = "the most probable class" if rule.kind == ARGMAX else f"{rule}, each fold by the threshold of the others"
    return Predicted(member.name, OUT_OF_FOLD, rows, answers.y, p, answers.groups, said, how, answers.fold)


def trial_on_test(home: Home, member: Member, data: Prepared, seen: Predicted, device: str) -> Predicted:
    """The mean of its fold models, its thresholds chosen on `seen`, the same trial's predictions out of fold."""
    dataset, folds, rows = data.dataset, data.folds, data.folds.test_rows()
    cache = EncoderCache(home, member.study, dataset, data.pixels, device)
    metas = read_encoders([member], dataset, folds)[0]
    logits = [cache.outputs(meta, member.weights(meta.fold), {"test": rows})[0].logits for meta in metas]
    p = np.mean([probabilities(one, dataset.multilabel) for one in logits], axis=0)
    rule = usual_rule(dataset.classes, dataset.multilabel)
    said, how = _by_rule(rule, seen, p, dataset)
    return Predicted(member.name, TEST, rows, dataset.y[rows], p, dataset.groups[rows], said, how)


def _by_rule(rule: Rule, seen: Predicted, p: Floats, dataset: Dataset) -> tuple[NDArray[np.bool_], str]:
    if rule.kind == ARGMAX:
        return np.eye(p.shape[1], dtype=bool)[p.argmax(axis=1)], "the most probable class"
    if not dataset.multilabel:
        positive = p[:, 1] >= threshold(rule, seen.y, seen.p[:, 1])
        return np.column_stack([~positive, positive]), f"{rule}, chosen out of fold"
    cuts = []
    for c in range(p.shape[1]):
        known = seen.y[:, c] != UNKNOWN
        cuts.append(threshold(rule, seen.y[known, c], seen.p[known, c]))
    return p >= np.array(cuts), f"{rule}, chosen out of fold"


def built_ensembles(home: Home, record: StudyRecord) -> tuple[list[Built], list[str]]:
    """The study's finished bundles by name, and why others are left out, in sentences."""
    built, left_out = [], []
    for place in sorted(home.bundles(record.name).glob("*/bundle.json")):
        try:
            about, _ = read_about(place.parent)
            if (about.get("data_hash"), about.get("folds_hash")) != (record.data_hash, record.folds_hash):
                raise RequestError(f"{place.parent.name} was built on other data or folds than the study has now.")
            one = Built(place.parent.name, place.parent, about)
            if "recommended" not in about:
                raise RequestError(f"{place.parent.name} was built by an earlier version. Build it again.")
            scored(one.row, one.on, str(about["metric"]))
        except (RequestError, KeyError, StopIteration, TypeError) as error:
            left_out.append(f"The bundle {place.parent.name} is left out: {error or 'its scores cannot be read.'}")
            continue
        built.append(one)
    return built, left_out


def best_built(built: Sequence[Built], metric: str) -> Built | None:
    """The ensemble that is recommended over the plain mean; None where none is."""
    of_metric = [one for one in built if one.about["metric"] == metric]
    best = recommended([of_document(one.about) for one in of_metric])
    own = [one for one in of_metric if one.method == best and one.about["delta_vs_mean"]["verdict"] == "better"]
    return None if best == PLAIN else next(iter(own), None)


def mean_beside(built: Sequence[Built], best: Built | None) -> Built | None:
    """The plain mean, of the same number of members where there is one."""
    means = [one for one in built if one.method == "mean"]
    same = [one for one in means if best is not None and one.about.get("top") == best.about.get("top")]
    return next(iter(same or means), None)


def ensemble_on_test(one: Built, dataset: Dataset, folds: Folds) -> Predicted:
    """Probabilities as they were scored, X"""
    file = "predictions.parquet"
    table = pq.read_table(io.BytesIO(read_plain(one.path.resolve(), file, one.about["files"][file])))
    test = np.array(table["split"].to_pylist()) == "test"
    y, p, rows = from_column(table["y"]), from_column(table["probabilities"]), folds.test_rows()
    if y is None or p is None or not np.array_equal(y[test], dataset.y[rows]) or p.shape[1] != len(dataset.classes):
        raise RequestError(f"{one.path}/{file} does not hold the study's test rows. Build the ensemble again.")
    p = p[test].astype(np.float64)
    decisions = one.about.get("decisions")
    if decisions is None:
        raise RequestError(f"{one.path}/bundle.json has no decisions. Build the ensemble again.")
    said = decide(decisions, dataset.classes, dataset.multilabel, _calibrated(one, p))
    how = "the most probable class" if decisions["default"] == ARGMAX else f"{decisions['default']}, chosen out of fold"
    name = "the plain mean" if one.method == "mean" else one.method
    return Predicted(name, TEST, rows, dataset.y[rows], p, dataset.groups[rows], said, how)


def _calibrated(one: Built, p: Floats) -> Floats:
    """(T, C) what the bundle answers of the test rows, by fits that did not read the row; the raw `p` where it has no
    calibration."""
    file = f"calibration/{CALIBRATED}"
    if one.about.get("calibration") is None:
        return p
    found = unpack(read_plain(one.path.resolve(), file, one.about["files"][file]), file).get("test")
    if found is None or found.shape != p.shape:
        raise RequestError(f"{one.path}/{file} does not hold the study's test rows. Build the ensemble again.")
    return found.astype(np.float64)


@dataclass(frozen=True)
class Collected:
    home: Home
    record: StudyRecord
    study: Study
    trials: list[TrialRecord]
    """by number"""
    chosen: TrialRecord | None
    """the trial that the report is about: the one asked for, or the best; None where none is complete"""
    asked: bool
    """whether that trial was asked for"""
    runner_up: TrialRecord | None
    """the best but the chosen one"""
    lead: Difference | None
    """of the chosen trial over the runner-up, paired, in the search metric"""
    built: list[Built]
    ablations: list[Mapping[str, Any]]
    """tables as `study ablate --json` gives them"""
    epochs: dict[int, list[LoggedEpoch]]
    """by trial, of those that have any"""
    data: Prepared | None
    notes: list[str]
    """what could not be read, and why"""

    @property
    def name(self) -> str:
        return self.record.name

    @property
    def metric(self) -> str:
        return str(self.record.tree["search"]["metric"])

    @property
    def higher(self) -> bool:
        return METRICS[self.metric].higher_is_better

    @property
    def ranked(self) -> list[TrialRecord]:
        """The trials that can be the best, in their order."""
        return ranked(self.trials, self.metric)

    @property
    def complete(self) -> list[TrialRecord]:
        """The trials with checkpoints of their own: the ranked ones in their order, then the others by number."""
        places = {trial.number: place for place, trial in enumerate(self.ranked)}
        return sorted(trained(self.trials), key=lambda one: (places.get(one.number, len(places)), one.number))

    @property
    def raced(self) -> list[TrialRecord]:
        """Those that the best was chosen among: complete, or stopped early because others were better."""
        own = [trial for trial in self.trials if trial.same_as is None]
        return [trial for trial in own if trial.state in ("complete", "pruned")]

    @property
    def classes(self) -> tuple[str, ...]:
        return self.data.dataset.classes if self.data else tuple(map(str, self.record.tree["data"]["classes"] or ()))


def collect(home: Home, record: StudyRecord, trial: int | None, progress: Progress) -> Collected:
    """Everything for the report of a study, or of one of its trials. Raises RequestError where that is not there."""
    study = check_study(record.tree, f"study {record.name} as it was begun")
    trials, notes = read_trials(home, record.name), []
    metric = study.spec.search.metric
    best = best_trial(trials, metric)
    chosen = best if trial is None else _asked(record, trials, trial)
    others = [one for one in trials if chosen is not None and one.number != chosen.number]
    runner_up = best_trial(others, metric)
    lead = None
    if chosen is not None and chosen.state == "complete" and runner_up is not None:
        try:
            found = compare_sides(home, Side(record, chosen, 1), Side(record, runner_up, 1))
            line = next(line for line in found.lines if line.metric == metric)
            lead = line.delta
        except HarnessError as error:
            notes.append(f"Trials {chosen.number} and {runner_up.number} could not be compared: {error}")
    built, left_out = built_ensembles(home, record)
    data = _data(home, record, study, progress, notes)
    epochs = {one.number: read_epochs(home, record.name, one.number) for one in trials if one.same_as is None}
    return Collected(
        home, record, study, trials, chosen, trial is not None, runner_up, lead, built,
        ablations(home, record.name), {number: found for number, found in epochs.items() if found},
        data, [*notes, *left_out],
    )  # fmt: skip


def _asked(record: StudyRecord, trials: list[TrialRecord], number: int) -> TrialRecord:
    found = next((one for one in trials if one.number == number), None)
    if found is None:
        listed = ", ".join(str(one.number) for one in trials) or "none"
        raise RequestError(f"--trial {number}: study {record.name!r} has no such trial. It has: {listed}")
    return original_of(found, trials)


def ablations(home: Home, name: str) -> list[Mapping[str, Any]]:
    """The finished tables, by trial."""
    places = [home.work(one.name) / "table.json" for one in list_studies(home) if one.ablates == name]
    found = [read_json(place)["table"] for place in places if place.exists()]
    return sorted(found, key=lambda table: int(table["trial"]))


def _data(home: Home, record: StudyRecord, study: Study, progress: Progress, notes: list[str]) -> Prepared | None:
    try:
        found = look(study.spec.data, study.spec.seed, home, progress)
    except (HarnessError, OSError) as error:
        notes.append(f"The data are not there to be looked at: {error}")
        return None
    if (found.dataset.data_hash, found.folds.folds_hash) != (record.data_hash, record.folds_hash):
        notes.append(f"The data under {study.spec.data.root} have changed since the study ran, and are not shown.")
        return None
    return found
