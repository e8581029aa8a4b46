"""How good predictions are: six metrics, each scored under many weightings of the rows at once.

A weighting is what a bootstrap replicate is, so intervals cost one sort, not one sort per replicate. Knows numpy and
nothing else: no folds, no groups, no files. A metric that is not defined is NaN, never 0.

Labels y are (N,) class numbers, or in a multi-label task (N, C) with 1, 0, and UNKNOWN where nobody said. Then every
class is a question of its own, p[:, c] is the probability of yes, and a metric is the plain mean over the classes of
its two-class form on the rows whose answer is known.

N: rows, C: classes, R: weightings.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Labels = NDArray[np.int64]
Floats = NDArray[np.float64]

UNKNOWN = -1
"""the label of a row that has none for this class (multi-label only)"""
SMALLEST_PROBABILITY = float(np.finfo(np.float64).eps)
"""log_loss counts a smaller probability as this one, as scikit-learn does"""


@dataclass(frozen=True)
class Metric:
    name: str
    higher_is_better: bool
    of: Callable[[Labels, Floats, Floats | None], Floats]
    """of(y (N,) or (N, C), p (N, C) probabilities, w (R, N) row weights >= 0, or None: each row once) -> (R,) values"""


def softmax(logits: NDArray[np.floating]) -> Floats:
    """Probabilities (..., C), float64, from logits (..., C)."""
    shifted = np.asarray(logits, dtype=np.float64)
    shifted = shifted - shifted.max(axis=-1, keepdims=True)
    exp = np.exp(shifted)
    return np.asarray(exp / exp.sum(axis=-1, keepdims=True))


def sigmoid(logits: NDArray[np.floating]) -> Floats:
    """1 / (1 + exp(-logits)), float64, without overflow."""
    wide = np.asarray(logits, dtype=np.float64)
    small = np.exp(-np.abs(wide))
    return np.asarray(np.where(wide >= 0, 1.0, small) / (1.0 + small))


def logit(p: NDArray[np.floating]) -> Floats:
    """log(p / (1 - p)), float64; probabilities of 0 and 1 are counted as SMALLEST_PROBABILITY away from it."""
    inside = np.clip(np.asarray(p, dtype=np.float64), SMALLEST_PROBABILITY, 1 - SMALLEST_PROBABILITY)
    return np.asarray(np.log(inside) - np.log1p(-inside))


def probabilities(logits: NDArray[np.floating], multilabel: bool) -> Floats:
    """(..., C) float64: a distribution over the classes, or in a multi-label task each class's own probability."""
    return sigmoid(logits) if multilabel else softmax(logits)


def score(y: Labels, p: Floats) -> dict[str, float]:
    """Every metric by name, each row counted once; NaN where one is not defined."""
    return {name: float(metric.of(y, p, None)[0]) for name, metric in METRICS.items()}


def mean_over_folds(metric: str, y: Labels, p: Floats, fold: NDArray[np.int64], w: Floats | None = None) -> Floats:
    """(R,) the metric of each fold's rows by itself, averaged over the folds with equal weights: what trials are ranked
    by. A shift in scale between fold models, which changes a pooled ranking metric, does not change it. NaN where the
    metric is not defined in one of the folds.

    y (N,) or (N, C), p (N, C) probabilities, fold (N,), w (R, N) row weights >= 0 or None. Raises KeyError for a
    metric that does not exist.
    """
    of = METRICS[metric].of
    values = []
    for k in np.unique(fold):
        here = fold == k
        values.append(of(y[here], p[here], None if w is None else np.asarray(w)[:, here]))
    return np.asarray(np.mean(values, axis=0)) if values else np.full(1 if w is None else len(w), np.nan)


def _whole(of: Callable[[Labels, Floats, Floats], Floats]) -> Callable[[Labels, Floats, Floats | None], Floats]:
    """`of` with weights filled in, NaN when there is no row or a row has no prediction."""

    def checked(y: Labels, p: Floats, w: Floats | None) -> Floats:
        y, p = np.asarray(y, dtype=np.int64), np.asarray(p, dtype=np.float64)
        weights = np.ones((1, len(y))) if w is None else np.asarray(w, dtype=np.float64)
        if p.ndim != 2 or weights.ndim != 2 or not len(y) == len(p) == weights.shape[1]:
            raise ValueError(f"shapes do not fit: y {y.shape}, p {p.shape}, w {weights.shape}")
        if len(y) == 0 or not np.isfinite(p).all():
            return np.full(len(weights), np.nan)
        return of(y, p, weights) if y.ndim == 1 else _mean_over_labels(of, y, p, weights)

    return checked


def _mean_over_labels(of: Callable[[Labels, Floats, Floats], Floats], y: Labels, p: Floats, w: Floats) -> Floats:
    """(R,) plain mean over the classes of a multi-label task; NaN where one of them is not defined."""
    if y.shape != p.shape:
        raise ValueError(f"shapes do not fit: y {y.shape}, p {p.shape}")
    values = []
    for c in range(y.shape[1]):
        known = y[:, c] != UNKNOWN
        yes = p[known, c]
        values.append(of(y[known, c], np.column_stack([1 - yes, yes]), w[:, known]))
    return np.asarray(np.mean(values, axis=0))


def _ratio(above: Floats, below: Floats) -> Floats:
    """above / below, NaN where below is 0."""
    return np.asarray(np.divide(above, below, out=np.full(np.shape(below), np.nan), where=below > 0))


def _one_class_auroc(positive: NDArray[np.bool_], s: Floats, w: Floats) -> Floats:
    """(R,) P(score of a positive > score of a negative) + P(equal) / 2: Mann-Whitney's U, ties counted half.

    Each positive needs the weight of the negatives below it and of those at its own score, which are two look-ups in
    the cumulative weights of the sorted negatives.
    """
    order = np.flatnonzero(~positive)[np.argsort(s[~positive], kind="stable")]
    negatives = s[order]
    rows = np.flatnonzero(positive)
    below = np.zeros((len(w), len(order) + 1))
    np.cumsum(w[:, order], axis=1, out=below[:, 1:])
    low = np.searchsorted(negatives, s[rows], side="left")
    high = np.searchsorted(negatives, s[rows], side="right")
    w_positive = w[:, rows]
    if (low == high).all():  # no ties: one look-up says both
        half_pairs = 2.0 * np.einsum("rn,rn->r", w_positive, below[:, low])
    else:
        half_pairs = np.einsum("rn,rn->r", w_positive, below[:, low] + below[:, high])
    return _ratio(half_pairs, 2.0 * w_positive.sum(axis=1) * below[:, -1])


def _one_class_average_precision(positive: NDArray[np.bool_], s: Floats, w: Floats) -> Floats:
    """(R,) sum over thresholds of (rise in recall) * precision, scikit-learn's average_precision_score.

    Rows of equal score enter together: each positive is given the precision at the end of its own run of ties.
    """
    order = np.argsort(-s, kind="stable")
    sorted_s = -s[order]
    all_above = np.cumsum(w[:, order], axis=1)
    positive_above = np.cumsum(w[:, order] * positive[order], axis=1)
    rows = np.flatnonzero(positive)
    end = np.searchsorted(sorted_s, -s[rows], side="right") - 1
    total = all_above[:, end]
    precision = np.divide(positive_above[:, end], total, out=np.zeros_like(total), where=total > 0)
    w_positive = w[:, rows].sum(axis=1)
    value = _ratio(np.einsum("rn,rn->r", w[:, rows], precision), w_positive)
    # with no negative row every precision is 1 whatever the scores are: not a measurement
    value[w[:, ~positive].sum(axis=1) <= 0] = np.nan
    return value


def _macro(
    one_class: Callable[[NDArray[np.bool_], Floats, Floats], Floats],
) -> Callable[[Labels, Floats, Floats], Floats]:
    """Two classes: of class 1. More: the plain mean over classes, one against the rest; NaN when a class is absent."""

    def of(y: Labels, p: Floats, w: Floats) -> Floats:
        classes = [1] if p.shape[1] == 2 else list(range(p.shape[1]))
        return np.asarray(np.mean([one_class(y == c, p[:, c], w) for c in classes], axis=0))

    return of


def _weighted_mean(values: Floats, w: Floats) -> Floats:
    """(R,) mean over rows of values (N,) under each weighting."""
    return _ratio(w @ values, w.sum(axis=1))


def _accuracy(y: Labels, p: Floats, w: Floats) -> Floats:
    """Share of rows whose most probable class is theirs (of equally probable ones the first is taken)."""
    return _weighted_mean((p.argmax(axis=1) == y).astype(np.float64), w)


def _balanced_accuracy(y: Labels, p: Floats, w: Floats) -> Floats:
    """Plain mean over classes of the share of the class's rows that are recognised; NaN when a class is absent."""
    one_hot = np.eye(p.shape[1])[y]
    hit = (p.argmax(axis=1) == y).astype(np.float64)
    return np.asarray(_ratio(w @ (one_hot * hit[:, None]), w @ one_hot).mean(axis=1))


def _log_loss(y: Labels, p: Floats, w: Floats) -> Floats:
    """Mean of -log of the true class's probability, in nats."""
    own = np.clip(p[np.arange(len(y)), y], SMALLEST_PROBABILITY, 1.0)
    return _weighted_mean(-np.log(own), w)


def _brier(y: Labels, p: Floats, w: Floats) -> Floats:
    """Two classes: mean of (p_1 - y)^2, in 0..1. More: mean over rows of the sum over classes, in 0..2 (Brier 1950)."""
    if p.shape[1] == 2:
        return _weighted_mean((p[:, 1] - y) ** 2, w)
    return _weighted_mean(((p - np.eye(p.shape[1])[y]) ** 2).sum(axis=1), w)


METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("auroc", True, _whole(_macro(_one_class_auroc))),
        Metric("auprc", True, _whole(_macro(_one_class_average_precision))),
        Metric("accuracy", True, _whole(_accuracy)),
        Metric("balanced_accuracy", True, _whole(_balanced_accuracy)),
        Metric("log_loss", False, _whole(_log_loss)),
        Metric("brier", False, _whole(_brier)),
    )
}
"""Every metric of the project, by the name it has in study files, tables and MLflow."""


def is_higher_better(metric: str) -> bool:
    return METRICS[metric].higher_is_better
