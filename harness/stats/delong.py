"""AUROC with its variance in closed form: a second opinion beside harness.stats.compare.

DeLong, DeLong and Clarke-Pearson 1988, with midranks instead of all pairs (Sun and Xu 2014), for groups with several
images after Obuchowski 1997, "Nonparametric analysis of clustered ROC curve data". Where every group has one image
the latter is the former. Two classes only. Knows arrays only: no folds, no files, no torch.

N: rows, M: models.
"""

import numpy as np
from numpy.typing import NDArray

from harness.metrics import logit, sigmoid
from harness.stats.intervals import LEVEL, student_reach
from harness.types import Difference, Interval

Floats = NDArray[np.float64]


def delong_interval(positive: NDArray[np.bool_], score: Floats, groups: NDArray[np.str_]) -> Interval:
    """The AUROC of one model with its 95% interval on the logit scale, by Student's t with one degree of freedom less
    than the rarer class has groups.

    positive (N,), score (N,) higher for positives, groups (N,). NaN where a class is absent; without an interval where
    a class has fewer than two groups, or where every pair is ordered rightly (or wrongly): then nothing varies, and the
    interval of harness.stats.intervals is the one to read.
    """
    auroc, covariance = auroc_covariance(positive, score[None], groups)
    value, error = float(auroc[0]), float(np.sqrt(covariance[0, 0]))
    if not np.isfinite(error):
        return Interval(value, error, error, reason="one-class" if np.isnan(value) else "too-few-groups")
    if not 0.0 < value < 1.0:
        return Interval(value, float("nan"), float("nan"), reason="no-variation")
    fewest = min(len(np.unique(groups[side])) for side in (positive, ~positive))
    half = student_reach(LEVEL, fewest - 1) * error / (value * (1 - value))
    lo, hi = sigmoid(logit(np.array([value])) + np.array([-half, half]))
    return Interval(value, float(lo), float(hi))


def delong_difference(positive: NDArray[np.bool_], a: Floats, b: Floats, groups: NDArray[np.str_]) -> Difference:
    """AUROC of a minus that of b on the same rows, with its 95% interval and two-sided p-value.

    positive (N,), a and b (N,) scores, groups (N,). p is 1 where both rank all rows alike.
    """
    from scipy.stats import norm

    auroc, covariance = auroc_covariance(positive, np.stack([a, b]), groups)
    value = float(auroc[0] - auroc[1])
    variance = float(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1])
    if not np.isfinite(variance):
        return Difference(value, variance, variance, variance)
    error = float(np.sqrt(max(0.0, variance)))
    if error < 1e-12:  # the same ranks, to rounding
        return Difference(value, value, value, 1.0 if abs(value) < 1e-12 else 0.0)
    half = float(norm.ppf((1 + LEVEL) / 2)) * error
    return Difference(value, value - half, value + half, float(2 * norm.sf(abs(value) / error)))


def auroc_covariance(positive: NDArray[np.bool_], scores: Floats, groups: NDArray[np.str_]) -> tuple[Floats, Floats]:
    """AUROCs (M,) of M models on the same rows and their covariance (M, M). scores (M, N)."""
    models = len(scores)
    nothing = np.full((models, models), np.nan)
    m, n = int(positive.sum()), int((~positive).sum())
    if m == 0 or n == 0:
        return np.full(models, np.nan), nothing
    above, below = _placements(positive, scores)
    auroc = above.mean(axis=1)
    _, of_row = np.unique(groups, return_inverse=True)
    count = int(of_row.max()) + 1
    # per group: how far its positives, and its negatives, are from the mean, (M, G)
    x = np.stack([np.bincount(of_row[positive], row - value, count) for row, value in zip(above, auroc, strict=True)])
    y = np.stack([np.bincount(of_row[~positive], row - value, count) for row, value in zip(below, auroc, strict=True)])
    with_positive, with_negative = len(np.unique(of_row[positive])), len(np.unique(of_row[~positive]))
    if min(with_positive, with_negative) < 2:
        return auroc, nothing
    s10 = with_positive / (with_positive - 1) / m * (x @ x.T)
    s01 = with_negative / (with_negative - 1) / n * (y @ y.T)
    s11 = count / (count - 1) * (x @ y.T)
    return auroc, np.asarray(s10 / m + s01 / n + (s11 + s11.T) / (m * n))


def _placements(positive: NDArray[np.bool_], scores: Floats) -> tuple[Floats, Floats]:
    """(M, positives) the share of negatives below each positive and (M, negatives) the share of positives above each
    negative, ties counted half."""
    from scipy.stats import rankdata

    everyone = rankdata(scores, axis=1)
    m, n = int(positive.sum()), int((~positive).sum())
    above = (everyone[:, positive] - rankdata(scores[:, positive], axis=1)) / n
    below = 1.0 - (everyone[:, ~positive] - rankdata(scores[:, ~positive], axis=1)) / m
    return np.asarray(above), np.asarray(below)
