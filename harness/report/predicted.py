"""The predictions that a report judges: the best trial's out of fold, and of the test split what ensembles were built
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
from harness.data.prepare import Prepared
from harness.ensemble.bundle_files import read_about, read_plain
from harness.ensemble.embed import EncoderCache, read_encoders
from harness.ensemble.members import Member, read_oof
from harness.ensemble.postprocess import CALIBRATED
from harness.ensemble.score_table import PLAIN, of_document, recommended
from harness.errors import RequestError
from harness.metrics import UNKNOWN, probabilities
from harness.store.arrays import unpack
from harness.store.home import Home
from harness.store.predictions import from_column
from harness.store.records import StudyRecord
from harness.types import Dataset, Folds, TrialRecord

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
