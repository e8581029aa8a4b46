"""What the best of many trials is worth: its score on rows that did not choose it.

The best of M trials is partly lucky, and the more trials, the luckier. Knows arrays only.
"""

import numpy as np
from numpy.typing import NDArray

from harness.records import Interval
from harness.stats.compare import require_metric
from harness.stats.intervals import percentiles, weight_blocks

Floats = NDArray[np.float64]


def best_corrected(
    metric: str, y: NDArray[np.int64], p: Floats, groups: NDArray[np.str_], seed: int, reps: int = 500
) -> Interval:
    """The score of 'take the best of M' by bootstrap bias corrected cross-validation (BBC-CV).

    Tsamardinos, Greasidou and Borboudakis 2018, "Bootstrapping the out-of-sample predictions for efficient and accurate
    cross-validation", algorithm 5: in each replicate the trial that is best on the drawn groups is scored on the groups
    that were not drawn. Value: the mean over replicates; interval: their 2.5% and 97.5% percentiles.

    y (N,), p (M, N, C) out-of-fold probabilities of every complete trial, groups (N,). NaN where it is not defined; a
    trial that lacks a row is never the best. Raises RequestError for a metric that does not exist, ValueError for no
    trials.
    """
    return _summary(_honest(metric, y, p, groups, seed, reps))


def corrected_difference(
    metric: str,
    y: NDArray[np.int64],
    p_a: Floats,
    p_b: Floats,
    groups: NDArray[np.str_],
    seed: int,
    reps: int = 500,
) -> tuple[Interval, Interval, Interval]:
    """'The best of M' of study a, that of study b, and a minus b, each corrected as by `best_corrected`.

    p_a (M, N, C) and p_b (L, N, C) on the same rows. Both studies choose on the same drawn groups and are scored on the
    same left-out ones, so the difference is paired.
    """
    a, b = (_honest(metric, y, p, groups, seed, reps) for p in (p_a, p_b))
    return _summary(a), _summary(b), _summary(a - b)


def _honest(metric: str, y: NDArray[np.int64], p: Floats, groups: NDArray[np.str_], seed: int, reps: int) -> Floats:
    """(R,) per drawing of groups: the score of the trial that is best on them, on the groups that were not drawn."""
    if not len(p):
        raise ValueError("there is no best of no trials")
    if len(np.unique(groups)) < 2:
        return np.full(reps, np.nan)
    scored = require_metric(metric)
    of, sign = scored.of, 1.0 if scored.higher_is_better else -1.0
    honest = []
    for drawn in weight_blocks(groups, reps, seed):
        left_out = (drawn == 0).astype(np.float64)
        inside = np.stack([of(y, one, drawn) for one in p])
        outside = np.stack([of(y, one, left_out) for one in p])
        chosen = np.where(np.isfinite(inside), sign * inside, -np.inf).argmax(0)
        scores = outside[chosen, np.arange(len(chosen))]
        honest.append(np.where(np.isfinite(inside).any(0), scores, np.nan))
    return np.concatenate(honest)


def _summary(replicates: Floats) -> Interval:
    lo, hi = percentiles(replicates)
    return Interval(float(np.nanmean(replicates)) if np.isfinite(lo) else float("nan"), lo, hi)
