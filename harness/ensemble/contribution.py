"""What each member gives to an ensemble: the ensemble's score less that of the same ensemble without the member.

Scored out of fold, by fits that never saw the row's fold. A member may be good and give nothing (others say the same),
or be weak and give much. Knows arrays only. M: members, N: rows, C: classes.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from harness.stats.paired import paired_differences
from harness.types import Interval

Floats = NDArray[np.float64]


def means_without(p: Floats) -> Floats:
    """(M, N, C) for each member the mean of the others, from p (N, M, C). Raises ValueError for a single member."""
    members = p.shape[1]
    if members < 2:
        raise ValueError("without its only member an ensemble is none")
    return np.asarray((p.sum(axis=1, keepdims=True) - p).swapaxes(0, 1) / (members - 1))


def contributions(
    metric: str,
    y: NDArray[np.int64],
    whole: Floats,
    without: Sequence[Floats],
    groups: NDArray[np.str_],
    seed: int,
    fold: NDArray[np.int64] | None = None,
    reason: str = "",
) -> list[Interval]:
    """M differences of the metric, the whole ensemble (N, C) minus it without a member (M arrays (N, C)), with the 95%
    interval of stats.compare.paired_differences. For log_loss and brier a useful member's difference is negative. NaN
    where the metric is not defined.

    fold (N,): given where the rows are out-of-fold predictions of several models. reason: the code of why these
    predictions are no estimate; the differences are then values without an interval.
    """
    nothing = float("nan")
    found = paired_differences(metric, y, [(whole, one) for one in without], groups, seed, fold=fold)
    if reason:
        return [Interval(one.value, nothing, nothing, reason=reason) for one in found]
    return [Interval(one.value, one.lo, one.hi, one.coverage, one.reason) for one in found]
