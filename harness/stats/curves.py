"""ROC and precision-recall curves with 95% bands: whole groups are drawn again, as for every interval.

A curve is told on a fixed grid, so that replicates and classes can be averaged place by place ("vertical averaging",
Fawcett 2006, "An introduction to ROC analysis"): sensitivity at a share of false alarms, straight between thresholds as
the area is; precision of the smallest set of rows that reaches a share found, in steps as average precision is. A band
holds 95% of the replicates at each place by itself, not whole curves. Knows arrays only.

N: rows, G: places of the grid, R: replicates.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from harness.metrics import UNKNOWN
from harness.stats.intervals import LEVEL, intervals, weight_blocks
from harness.types import Interval

Floats = NDArray[np.float64]
Names = NDArray[np.str_]
At = Callable[[Floats, Floats], Floats]


@dataclass(frozen=True)
class Question:
    """One class against the rest, or one of several labels, on the n of N rows whose answer is known."""

    of: str
    rows: NDArray[np.int64]
    positive: NDArray[np.bool_]
    """(n,)"""
    score: Floats
    """(n,) higher for positives"""


GRID = np.linspace(0.0, 1.0, 101)
REPS = 500
"""a band is looked at, not quoted"""
FEWEST = 2
"""groups with, and without: below this there is no band"""


@dataclass(frozen=True)
class Curve:
    x: Floats
    """(G,) share of false alarms, or share found"""
    y: Floats
    """(G,) share found, or precision; NaN where nobody, or everybody, is positive"""
    lo: Floats
    """(G,) NaN where there is no band"""
    hi: Floats


def questions(y: NDArray[np.int64], p: Floats, classes: Sequence[str]) -> list[Question]:
    """What probabilities p (N, C) answer by yes or no. y (N,): the positive one of two classes, each of more against
    the rest; y (N, C): each label where it is known."""
    every = np.arange(len(y))
    if y.ndim == 1:
        asked = [1] if len(classes) == 2 else range(len(classes))
        return [Question(classes[c], every, y == c, p[:, c]) for c in asked]
    known = [np.flatnonzero(y[:, c] != UNKNOWN) for c in range(len(classes))]
    return [Question(name, known[c], y[known[c], c] == 1, p[known[c], c]) for c, name in enumerate(classes)]


def roc(asked: Sequence[Question], groups: Names, seed: int) -> Curve:
    """Of one question, or the plain mean over several. groups (N,)."""
    return _curve(asked, groups, seed, _found_at)


def precision_recall(asked: Sequence[Question], groups: Names, seed: int) -> Curve:
    return _curve(asked, groups, seed, _precision_at)


def areas(
    question: Question, groups: Names, seed: int, fold: NDArray[np.int64] | None = None
) -> tuple[Interval, Interval]:
    """AUROC and AUPRC (average precision): what a study of two classes would be scored by. groups (N,), fold (N,): see
    intervals.intervals."""
    p = np.column_stack([1 - question.score, question.score])
    own = None if fold is None else fold[question.rows]
    found = intervals(question.positive.astype(np.int64), p, groups[question.rows], seed, fold=own)
    return found["auroc"], found["auprc"]


def _curve(asked: Sequence[Question], groups: Names, seed: int, at: At) -> Curve:
    parts = [_curve_of_one(one, groups, seed, at) for one in asked]
    y = np.mean([value for value, _ in parts], axis=0)
    nothing = np.full(len(GRID), np.nan)
    few = min(len(np.unique(groups[one.rows[side]])) for one in asked for side in (one.positive, ~one.positive))
    if few < FEWEST:
        return Curve(GRID, y, nothing, nothing)
    drawn = np.mean([replicates for _, replicates in parts], axis=0)
    kept = drawn[np.isfinite(drawn).all(axis=1)]
    if 2 * len(kept) < len(drawn):  # as for intervals: what is left would be a selection
        return Curve(GRID, y, nothing, nothing)
    lo, hi = np.quantile(kept, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    return Curve(GRID, y, lo, hi)


def _curve_of_one(question: Question, groups: Names, seed: int, at: At) -> tuple[Floats, Floats]:
    """(G,) the curve, and (R, G) those of the replicates. Rows are sorted once, highest score first."""
    order = np.argsort(-question.score, kind="stable")
    positive, score = question.positive[order], question.score[order]
    mine = question.rows[order]
    ends = np.flatnonzero(np.append(np.diff(score) != 0, True)) if len(score) else np.zeros(0, np.int64)

    def told(w: Floats) -> Floats:
        """`w` (N,) in sorted order; the curve at thresholds below each run of equal scores."""
        hits, alarms = (np.append(0.0, np.cumsum(w * side)[ends]) for side in (positive, ~positive))
        return at(hits, alarms) if hits[-1] > 0 and alarms[-1] > 0 else np.full(len(GRID), np.nan)

    drawn = [told(row[mine]) for w in weight_blocks(groups, REPS, seed) for row in w]
    return told(np.ones(len(order))), np.array(drawn).reshape(-1, len(GRID))


def _found_at(hits: Floats, alarms: Floats) -> Floats:
    return np.asarray(np.interp(GRID, alarms / alarms[-1], hits / hits[-1]))


def _precision_at(hits: Floats, alarms: Floats) -> Floats:
    found, said = hits[1:] / hits[-1], hits[1:] + alarms[1:]
    place = np.searchsorted(found, np.maximum(GRID - 1e-9, 1e-12))  # none found is no precision: the first that finds
    return np.asarray(hits[1:][place] / said[place])
