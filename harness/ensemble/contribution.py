"""What each member gives to an ensemble: the ensemble's score less that of the same ensemble without the member.

Scored out of fold, by fits that never saw the row's fold, with an interval over the drawing of groups. A member may be
good and give nothing (others say the same), or be weak and give much. Knows arrays only.
M: members, N: rows, C: classes, R: replicates.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from harness.metrics import METRICS
from harness.records import Interval
from harness.stats.intervals import percentiles, weight_blocks

Floats = NDArray[np.float64]

REPS = 300
"""replicates: M differences are made, and a second digit of their intervals is enough"""


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
    reps: int = REPS,
) -> list[Interval]:
    """M differences of the metric, the whole ensemble (N, C) minus it without a member (M arrays (N, C)), with 95%
    intervals by the paired group bootstrap. For log_loss and brier a useful member's difference is negative. NaN where
    the metric is not defined, and no interval where there is a single group."""
    of = METRICS[metric].of
    nothing = float("nan")
    values = [float(of(y, whole, None)[0] - of(y, one, None)[0]) for one in without]
    if len(np.unique(groups)) < 2:
        return [Interval(value, nothing, nothing) for value in values]
    blocks = []
    for w in weight_blocks(groups, reps, seed):
        score = of(y, whole, w)
        blocks.append(np.stack([score - of(y, one, w) for one in without]))
    replicates = np.concatenate(blocks, axis=1)
    return [
        Interval(value, *(percentiles(row) if np.isfinite(value) else (nothing, nothing)))
        for value, row in zip(values, replicates, strict=True)
    ]
