"""How much each row moves a metric: the derivative of the metric with respect to the weight of the row.

Summed over the rows of a group and squared, these give the variance of the metric over the drawing of groups (the
infinitesimal jackknife, Efron 1982; of an AUROC it is the variance of DeLong et al. 1988, with groups of several rows
that of Obuchowski 1997). One sort replaces a thousand replicates. Knows arrays only.

N: rows, C: classes.
"""

import numpy as np
from numpy.typing import NDArray

from harness.metrics import SMALLEST_PROBABILITY, UNKNOWN

Floats = NDArray[np.float64]
Labels = NDArray[np.int64]
RANKING = ("auroc", "auprc")
"""metrics that use nothing but the order of the rows"""


def influence(metric: str, y: Labels, p: Floats) -> tuple[float, Floats]:
    """The metric and (N,) its derivative with respect to the weight of each row, all weights being 1. It sums to 0.
    NaN where the metric is not defined.

    y (N,) or (N, C), p (N, C) probabilities.
    """
    y, p = np.asarray(y, dtype=np.int64), np.asarray(p, dtype=np.float64)
    undefined = float("nan"), np.full(len(y), np.nan)
    if len(y) == 0 or not np.isfinite(p).all():
        return undefined
    if y.ndim == 1:
        return _of_one_task(metric, y, p)
    values, moves = [], np.zeros(len(y))
    for c in range(y.shape[1]):
        known = y[:, c] != UNKNOWN
        if not known.any():
            return undefined
        yes = p[known, c]
        value, moved = _of_one_task(metric, y[known, c], np.column_stack([1 - yes, yes]))
        values.append(value)
        moves[known] += moved / y.shape[1]
    return float(np.mean(values)), moves


def _of_one_task(metric: str, y: Labels, p: Floats) -> tuple[float, Floats]:
    if metric in RANKING:
        of = auroc_influence if metric == "auroc" else _average_precision_influence
        asked = [1] if p.shape[1] == 2 else range(p.shape[1])
        found = [of(y == c, p[:, c]) for c in asked]
        return float(np.mean([value for value, _ in found])), np.mean([moved for _, moved in found], axis=0)
    if metric == "balanced_accuracy":
        hit = (p.argmax(axis=1) == y).astype(np.float64)
        count = np.bincount(y, minlength=p.shape[1]).astype(np.float64)
        if (count == 0).any():
            return float("nan"), np.full(len(y), np.nan)
        recall = np.bincount(y, hit, minlength=p.shape[1]) / count
        return float(recall.mean()), (hit - recall[y]) / count[y] / p.shape[1]
    of_row = row_values(metric, y, p)
    value = float(of_row.mean())
    return value, (of_row - value) / len(y)


def row_values(metric: str, y: Labels, p: Floats) -> Floats:
    """(N,) what each row adds to a metric that is a mean over rows."""
    if metric == "accuracy":
        return np.asarray(p.argmax(axis=1) == y, dtype=np.float64)
    if metric == "log_loss":
        return np.asarray(-np.log(np.clip(p[np.arange(len(y)), y], SMALLEST_PROBABILITY, 1.0)))
    if p.shape[1] == 2:
        return np.asarray((p[:, 1] - y) ** 2)
    return np.asarray(((p - np.eye(p.shape[1])[y]) ** 2).sum(axis=1))


def auroc_influence(positive: NDArray[np.bool_], s: Floats) -> tuple[float, Floats]:
    """AUROC of scores s (N,), ties counted half, and (N,) derivatives."""
    of_positive, of_negative = s[positive], s[~positive]
    m, n = len(of_positive), len(of_negative)
    if m == 0 or n == 0:
        return float("nan"), np.full(len(s), np.nan)
    below, above = np.sort(of_negative), np.sort(of_positive)
    won = (below.searchsorted(of_positive, "left") + below.searchsorted(of_positive, "right")) / (2 * n)
    lost = 1 - (above.searchsorted(of_negative, "left") + above.searchsorted(of_negative, "right")) / (2 * m)
    value = float(won.mean())
    moved = np.empty(len(s))
    moved[positive] = (won - value) / m
    moved[~positive] = (lost - value) / n
    return value, moved


def _average_precision_influence(positive: NDArray[np.bool_], s: Floats) -> tuple[float, Floats]:
    """Average precision of scores s (N,), rows of equal score entering together, and (N,) derivatives."""
    m = int(positive.sum())
    if m in (0, len(s)):
        return float("nan"), np.full(len(s), np.nan)
    order = np.argsort(-s, kind="stable")
    end = np.flatnonzero(np.append(np.diff(s[order]) != 0, True))  # the last row of each run of equal scores
    found = np.cumsum(positive[order])[end].astype(np.float64)
    told = (end + 1).astype(np.float64)
    hits = np.diff(found, prepend=0.0)
    value = float((hits * found / told).sum() / m)
    later = np.cumsum((hits / told)[::-1])[::-1] / m
    later_squared = np.cumsum((hits * found / told**2)[::-1])[::-1] / m
    run = np.empty(len(s), dtype=np.int64)
    run[order] = np.searchsorted(end, np.arange(len(s)))
    moved = -later_squared[run]
    moved[positive] += later[run[positive]] + ((found / told)[run[positive]] - value) / m
    return value, moved
