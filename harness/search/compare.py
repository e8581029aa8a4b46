"""Is one study better than another, or one trial? Both on the same out-of-fold rows, with every paired test that fits.

A study is represented by its best trial, which was selected on these rows; the values corrected for it stand beside.
Per group (patient, lesion, case), studies of other images of the same groups can be compared, too.
Reads records and predictions; never the test split.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from harness.data.people import identities, read_people
from harness.errors import HarnessError, RequestError
from harness.metrics import METRICS, probabilities, score
from harness.search.corrected import Competition, Unknown, competition
from harness.stats.intervals import How, by_group, intervals
from harness.stats.optimism import Search, corrected_difference
from harness.stats.paired import McNemar, corrected_t, delong_difference, mcnemar, paired_difference
from harness.store.home import Home
from harness.store.predictions import from_column
from harness.store.records import StudyRecord, best_trial, no_best, original_of, ranked, read_trials, require_study
from harness.types import Difference, Interval, TrialRecord

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Side:
    """What is compared: a trial, given by its number or as the best of its study."""

    record: StudyRecord
    trial: TrialRecord
    best_of: int
    """complete trials that it was chosen from; 1 where its number was given"""
    asked: bool = False
    """whether its number was given"""


@dataclass(frozen=True)
class Predicted:
    """Out-of-fold predictions of trials of one study, by id. M: trials, N: rows, or groups by who they are."""

    ids: NDArray[np.str_]
    y: NDArray[np.int64]
    groups: NDArray[np.str_]
    """as their study numbers them: what is sorted and drawn by"""
    who: NDArray[np.str_]
    """who the groups are: what is matched by; the numbers themselves where both studies number the same data"""
    fold: NDArray[np.int64]
    p: Floats
    """(M, N, C)"""


@dataclass(frozen=True)
class Line:
    """One metric; differences are a minus b."""

    metric: str
    a: Interval
    b: Interval
    delta: Difference
    """of the means over folds; see stats.compare"""
    folds: Difference | None
    """corrected resampled t-test over the folds; None where the folds are not the same"""


@dataclass(frozen=True)
class Comparison:
    a: Side
    b: Side
    rows: int
    groups: int
    per_group: bool
    """whether groups were compared, each by what its study pools over its images, and not images"""
    same_folds: bool
    lines: list[Line]
    delong: Difference | None
    """AUROC in closed form; None unless there are two classes"""
    mcnemar: McNemar | None
    """accuracy; None in a multi-label task"""
    corrected: tuple[Interval, Interval, Interval] | None
    """a, b, a minus b of the search metric, corrected for 'best of M'; None where nothing was chosen"""
    notes: list[str]


def find_side(home: Home, text: str) -> Side:
    """`NAME` (its best trial) or `NAME/7` (or `NAME:7`). Raises RequestError where there is no such complete trial."""
    name, slash, number = text.replace(":", "/").partition("/")
    record = require_study(home, name)
    trials = read_trials(home, name)
    complete = [trial for trial in trials if trial.state == "complete"]
    if slash:
        found = next((trial for trial in complete if str(trial.number) == number), None)
        if found is None:
            listed = ", ".join(str(trial.number) for trial in complete) or "none"
            raise RequestError(f"{text}: study {name!r} has no complete trial {number!r}. Complete ones: {listed}")
        return Side(record, original_of(found, trials), 1, asked=True)
    metric = record.tree["search"]["metric"]
    best = best_trial(trials, metric)
    if best is None:
        raise RequestError(f"study {name!r} has {no_best(trials, metric)}. Go on with it: harness study resume {name}")
    return Side(record, best, len(ranked(trials, metric)))


def compare_sides(home: Home, a: Side, b: Side, reps: int = 2000, per_group: bool = False) -> Comparison:
    """Every metric of a and b with paired differences, on images or per group. Raises RequestError where their rows,
    or groups, are not the same."""
    if (a.record.name, a.trial.number) == (b.record.name, b.trial.number):
        raise RequestError(f"trial {a.trial.number} of {a.record.name} is compared with itself. Name another one.")
    notes: list[str] = []
    for side in (a, b) if per_group else ():
        _require_groups(side)
    named = _by_identity(home, a, b)
    left, right = (_read(home, side, [side.trial], per_group, named) for side in (a, b))
    left, right = _on_same_rows(a, b, left, right, notes, per_group)
    y, groups, seed = left.y, left.groups, a.record.tree["seed"]
    same_folds = a.record.folds_hash == b.record.folds_hash
    p_a, p_b = left.p[0], right.p[0]
    of_a, of_b = (intervals(y, one.p[0], groups, seed, fold=one.fold) for one in (left, right))
    by_fold = _fold_differences(left, p_a, p_b) if same_folds else None
    lines = []
    for metric in METRICS:
        delta = paired_difference(metric, y, p_a, p_b, groups, seed, reps, left.fold, right.fold)
        folds = None if by_fold is None else corrected_t(by_fold[metric], 1 / len(by_fold[metric]))
        lines.append(Line(metric, of_a[metric], of_b[metric], delta, folds))
    two_classes = y.ndim == 1 and p_a.shape[1] == 2
    delong = delong_difference(y == 1, p_a[:, 1], p_b[:, 1], groups) if two_classes else None
    found = mcnemar(p_a.argmax(axis=1) == y, p_b.argmax(axis=1) == y, groups) if y.ndim == 1 else None
    count, corrected = len(np.unique(groups)), _corrected(home, a, b, left.ids, notes, per_group, named)
    return Comparison(a, b, len(y), count, per_group, same_folds, lines, delong, found, corrected, notes)


def _require_groups(side: Side) -> None:
    data = side.record.tree["data"]
    missing = next((key for key in ("group", "per_group") if data[key] == "none"), None)
    if missing:
        raise RequestError(
            f"--per-group: study {side.record.name!r} says data.{missing}: none, so it scores no groups. Leave the "
            "option out to compare images."
        )


def _pooled(found: Predicted, side: Side) -> Predicted:
    """The groups of these rows, sorted by number, each with the probability that its study's data.per_group makes."""
    how: How = side.record.tree["data"]["per_group"]
    pooled = [by_group(found.y, p, found.groups, how) for p in found.p]
    y, _, names = pooled[0]
    fold = dict(zip(found.groups.tolist(), found.fold.tolist(), strict=True))  # a group is in one fold
    who = dict(zip(found.groups[::-1].tolist(), found.who[::-1].tolist(), strict=True))
    known = np.array([who[name] for name in names.tolist()], dtype=np.str_)
    folds = np.array([fold[name] for name in names.tolist()])
    whole = Predicted(known, y, names, known, folds, np.stack([p for _, p, _ in pooled]))
    return _take(whole, np.argsort(names))


def _by_identity(home: Home, a: Side, b: Side) -> bool:
    """Whether groups are matched by who they are in this home: their numbers mean the same in the same data only, and
    studies of earlier versions have none."""
    without = [read_people(home, side.record.name) is None for side in (a, b)]
    return a.record.data_hash != b.record.data_hash or without[0] != without[1]


def _read(home: Home, side: Side, trials: list[TrialRecord], per_group: bool = False, named: bool = False) -> Predicted:
    """The out-of-fold predictions of trials of one study, rows sorted by id. HarnessError where a file is gone."""
    k, several = side.record.tree["data"]["folds"], not isinstance(side.record.tree["data"]["label"], str)
    p, known = [], None
    for trial in trials:
        tables, folds = [], []
        for fold in range(k):
            path = home.fold(side.record.name, trial.run_id, fold) / "predictions.parquet"
            try:
                tables.append(pq.read_table(path))
            except OSError as error:
                raise HarnessError(
                    f"trial {trial.number} of {side.record.name}, fold {fold}: {path} cannot be read ({error}). "
                    "Restore it, or compare another trial."
                ) from error
            folds.append(np.full(len(tables[-1]), fold, np.int64))
        ids, groups = (
            np.concatenate([np.asarray(t[name].to_pylist(), np.str_) for t in tables]) for name in ("id", "group")
        )
        y, logits = (np.concatenate([_numbers(t[name], side, trial) for t in tables]) for name in ("y", "logits"))
        order = np.argsort(ids)
        if known is None:
            who = identities(home, side.record.name, ids, groups) if named else groups
            fold_of = np.concatenate(folds)
            known = (ids[order], y[order].astype(np.int64), groups[order], who[order], fold_of[order])
        p.append(probabilities(logits[order], several))
    assert known is not None
    found = Predicted(*known, np.stack(p))
    return _pooled(found, side) if per_group else found


def _numbers(column: Any, side: Side, trial: TrialRecord) -> NDArray[np.float64]:
    found = from_column(column)
    if found is None:
        raise HarnessError(f"the predictions of trial {trial.number} of {side.record.name} are damaged.")
    return found


def _same_people(a: Side, b: Side) -> bool:
    """Whether a group's name means the same in both: made of the same column of the same folder."""
    return all(
        a.record.tree["data"][key] == b.record.tree["data"][key] and a.record.tree["data"][key] != "none"
        for key in ("root", "group")
    )


def _on_same_rows(
    a: Side, b: Side, left: Predicted, right: Predicted, notes: list[str], per_group: bool
) -> tuple[Predicted, Predicted]:
    """Both on the rows that both have predicted out of fold. Raises RequestError with what differs."""
    names = f"{a.record.name} and {b.record.name}"
    classes = [list(side.record.tree["data"]["classes"] or []) for side in (a, b)]
    if left.p.shape[2] != right.p.shape[2] or left.y.shape[1:] != right.y.shape[1:] or classes[0] != classes[1]:
        raise RequestError(f"{names} answer different questions: their classes are {classes[0]} and {classes[1]}.")
    same_data = a.record.data_hash == b.record.data_hash
    if not same_data and per_group and not _same_people(a, b):
        raise RequestError(
            f"{names} name their groups by other columns or in other folders (data.root, data.group), so a group of "
            "the one may be nobody of the other. Only studies of the same groups can be compared."
        )
    if not same_data and not per_group and not np.array_equal(left.ids, right.ids):
        shared = len(np.intersect1d(left.ids, right.ids))
        pooled = " Type --per-group to compare the groups of both." if _same_people(a, b) else ""
        raise RequestError(
            f"{names} were run on different data: {len(left.ids)} and {len(right.ids)} development rows, {shared} with "
            f"the same name. Only models that predicted the same rows can be compared: run one study again on the "
            f"other's data.{pooled}"
        )
    rows = "groups" if per_group else "rows"
    ids, of_left, of_right = np.intersect1d(left.ids, right.ids, return_indices=True)
    order = np.argsort(of_left)  # the rows stay in the order of their own study, which is the same in every home
    ids, of_left, of_right = ids[order], of_left[order], of_right[order]
    if len(ids) < len(left.ids) or len(ids) < len(right.ids):
        notes.append(
            f"The studies divide their data differently: {len(ids)} {rows} are development {rows} of both (of "
            f"{len(left.ids)} and {len(right.ids)}), and these are compared."
        )
    left, right = _take(left, of_left), _take(right, of_right)
    for what, one, other in (("labels", left.y, right.y), ("groups", left.who, right.who)):
        differs = (one != other).reshape(len(ids), -1).any(axis=1)
        if differs.any():
            first = "" if per_group else f", first {ids[differs][0]!r}"  # who somebody is is never said
            raise RequestError(
                f"{names} were run on different data: the {what} of {int(differs.sum())} {rows} differ{first}. Only "
                f"models that predicted the same {rows} can be compared."
            )
    if not len(ids):
        raise RequestError(f"{names} have no development {rows} in common.")
    if a.record.folds_hash != b.record.folds_hash:
        notes.append(
            "The folds are not the same, so the two were trained on different rows: each is scored over its own folds, "
            "and there is no test over folds."
        )
    return left, right


def _take(found: Predicted, rows: NDArray[np.int64]) -> Predicted:
    return Predicted(
        found.ids[rows], found.y[rows], found.groups[rows], found.who[rows], found.fold[rows], found.p[:, rows]
    )


def _fold_differences(rows: Predicted, p_a: Floats, p_b: Floats) -> dict[str, Floats]:
    """(K,) a minus b of each metric, fold by fold."""
    parts = [rows.fold == fold for fold in np.unique(rows.fold)]
    of_a, of_b = ([score(rows.y[part], p[part]) for part in parts] for p in (p_a, p_b))
    return {m: np.array([one[m] - other[m] for one, other in zip(of_a, of_b, strict=True)]) for m in METRICS}


def _corrected(
    home: Home, a: Side, b: Side, ids: NDArray[np.str_], notes: list[str], per_group: bool, named: bool
) -> tuple[Interval, Interval, Interval] | None:
    """'Best of M' against 'best of L', scored on rows that did not choose them."""
    try:
        found = [competition(home, side.record, side.trial.number if side.asked else None) for side in (a, b)]
    except Unknown as why:
        notes.append(f"There are no values corrected for having been chosen: {why.reason}.")
        return None
    if all(one.number == 1 for one in found):
        return None
    metrics = [side.record.tree["search"]["metric"] for side in (a, b)]
    if metrics[0] != metrics[1]:
        notes.append(f"Best by {metrics[0]} and best by {metrics[1]}: no common metric to correct for that choice.")
        return None
    if a.best_of != b.best_of:
        more = a if a.best_of > b.best_of else b
        notes.append(
            f"The best of {a.best_of} is compared with the best of {b.best_of}: that choice favours "
            f"{more.record.name}. The corrected difference accounts for it."
        )
    left, right = (_matched(home, one, side, ids, per_group, named) for one, side in zip(found, (a, b), strict=True))
    return corrected_difference(metrics[0], left[0], left[1], left[2], left[3], right[3])


def _matched(
    home: Home, found: Competition, side: Side, ids: NDArray[np.str_], per_group: bool, named: bool
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.str_], Search]:
    """(labels, folds, groups, predictions) of what a side was chosen among, on the rows, or groups, compared, in their
    order."""
    who = identities(home, side.record.name, found.ids, found.groups) if named else found.groups
    rows = Predicted(found.ids, found.y, found.groups, who, found.fold, found.search.p)
    rows = _pooled(rows, side) if per_group else rows
    place = {name: row for row, name in enumerate(rows.ids.tolist())}
    rows = _take(rows, np.array([place[name] for name in ids.tolist()], np.int64))
    return rows.y, rows.fold, rows.groups, replace(found.search, p=rows.p)


def comparison_document(found: "Comparison") -> dict[str, Any]:
    """`study compare --json`."""
    corrected = None
    if found.corrected:
        metric = found.a.record.tree["search"]["metric"]
        corrected = dict(zip(("a", "b", "delta"), found.corrected, strict=True)) | {"metric": metric}
    return {
        "a": _side(found.a),
        "b": _side(found.b),
        "rows": found.rows,
        "groups": found.groups,
        "per_group": found.per_group,
        "same_folds": found.same_folds,
        "metrics": found.lines,
        "delong": found.delong,
        "mcnemar": found.mcnemar,
        "corrected": corrected,
        "notes": found.notes,
    }


def _side(side: "Side") -> dict[str, Any]:
    return {
        "study": side.record.name,
        "trial": side.trial.number,
        "best_of": side.best_of,
        "optimistic": side.trial.optimistic,
        "params": side.trial.params,
    }
