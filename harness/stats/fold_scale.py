"""Whether the models of different folds put their scores on different scales.

A constant that one fold model adds to its scores changes no order within its own fold, but mixes up rows of different
folds: the AUROC over all pooled rows falls, the mean of the folds' AUROCs stays. Where the scales agree both estimate
the same number, and it does not matter which patient is in which fold: the difference is compared with what it is after
whole groups have been dealt to the folds anew. Knows arrays only.

N: rows, C: classes, G: groups, K: folds.
"""

import numpy as np
from numpy.typing import NDArray

from harness.metrics import METRICS, UNKNOWN, mean_over_folds
from harness.seeds import derive_seed

Labels = NDArray[np.int64]
Floats = NDArray[np.float64]

PERMUTATIONS = 100
ERRORS = 2.0
"""standard deviations of the permuted differences by which the mean over folds has to exceed the pooled value"""
AT_ONCE = 1 << 20
"""rows of permutations that are held in memory at a time"""


def scale_gap(
    y: Labels, p: Floats, groups: NDArray[np.str_], fold: NDArray[np.int64], seed: int
) -> tuple[float, float]:
    """The mean over folds of the AUROC minus the pooled AUROC, and the standard deviation of that difference under
    exchange of groups between folds. NaN where it is not defined.

    y (N,) or (N, C), p (N, C) probabilities or scores, groups (N,) none of which is in two folds, fold (N,). Groups are
    exchanged among those of the same class (its largest label), so that folds stay as balanced as they are.
    """
    pooled = float(METRICS["auroc"].of(y, p, None)[0])
    gap = float(mean_over_folds("auroc", y, p, fold)[0]) - pooled
    if not np.isfinite(gap):
        return float("nan"), float("nan")
    _, first, of_row = np.unique(groups, return_index=True, return_inverse=True)
    label = np.zeros(len(first), dtype=np.int64)
    if y.ndim == 1:
        np.maximum.at(label, of_row, y)
    _, of_group = np.unique(fold[first], return_inverse=True)
    rng = np.random.default_rng(derive_seed(seed, "fold scale"))
    block, permuted = max(1, AT_ONCE // len(y)), np.empty(0)
    while (left := PERMUTATIONS - len(permuted)) > 0:
        dealt = np.tile(of_group, (min(block, left), 1))
        for c in np.unique(label):
            own = np.flatnonzero(label == c)
            dealt[:, own] = rng.permuted(dealt[:, own], axis=1)
        values = [_mean_over(dealt[:, of_row[rows]], one, score) for rows, one, score in _questions(y, p)]
        permuted = np.append(permuted, np.mean(values, axis=0) - pooled)
    known = permuted[np.isfinite(permuted)]
    return gap, float(np.sqrt(np.mean(known**2))) if len(known) > PERMUTATIONS / 2 else float("nan")


def _questions(y: Labels, p: Floats) -> list[tuple[NDArray[np.int64], NDArray[np.bool_], Floats]]:
    """(rows, whether positive, score) of each AUROC whose mean is reported, as harness.metrics has it."""
    if y.ndim == 2:
        known = [np.flatnonzero(y[:, c] != UNKNOWN) for c in range(y.shape[1])]
        return [(rows, y[rows, c] == 1, p[rows, c]) for c, rows in enumerate(known)]
    classes = [1] if p.shape[1] == 2 else list(range(p.shape[1]))
    return [(np.arange(len(y)), y == c, p[:, c]) for c in classes]


def _mean_over(fold: NDArray[np.int64], positive: NDArray[np.bool_], score: Floats) -> Floats:
    """(R,) the mean over folds of the AUROC, for R assignments of the rows to folds (R, N) that are numbered from 0.

    All rows are sorted once; a stable sort by fold keeps that order within each. Ties are counted for the positive
    rows in one order and against them in the other, so half on average.
    """
    k = int(fold.max()) + 1
    of_run = fold + k * np.arange(len(fold))[:, None]
    shape = (len(fold), k)
    ones = np.bincount(of_run[:, positive].ravel(), minlength=len(fold) * k).reshape(shape)
    zeros = np.bincount(of_run[:, ~positive].ravel(), minlength=len(fold) * k).reshape(shape)
    before = np.cumsum(zeros, axis=1) - zeros
    pairs = np.zeros(shape)
    for ties in (positive, ~positive):
        order = np.lexsort((ties, score))
        here = np.argsort(fold[:, order], axis=1, kind="stable")
        is_one = positive[order][here]
        run = np.take_along_axis(of_run[:, order], here, axis=1)
        below = np.cumsum(~is_one, axis=1) - before.ravel()[run]
        pairs += np.bincount(run.ravel(), (below * is_one).ravel(), len(fold) * k).reshape(shape) / 2
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray((pairs / (ones * zeros)).mean(axis=1))


def scales_disagree(y: Labels, p: Floats, groups: NDArray[np.str_], fold: NDArray[np.int64], seed: int) -> bool:
    """Whether the pooled AUROC falls short of the mean over folds by more than ERRORS standard deviations."""
    gap, error = scale_gap(y, p, groups, fold, seed)
    return bool(gap > ERRORS * error > 0)
