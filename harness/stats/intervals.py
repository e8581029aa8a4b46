"""95% intervals of metrics by the group bootstrap: patients are drawn again, not images.

Rows of one group are not independent, so whole groups are resampled with replacement and a row counts as often as its
group was drawn (Field and Welsh 2007, "Bootstrapping clustered data"); the interval is between the 2.5% and the 97.5%
percentile of the replicates (Efron 1979). Where nothing went wrong on any row, every replicate is 1, and an interval
from 1 to 1 would claim certainty: then the lower end is the exact binomial one for n of n (Clopper and Pearson 1934).
Knows arrays only: no folds, no files, no torch.

N: rows, G: groups, R: replicates, C: classes.
"""

from collections.abc import Iterator
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from harness.metrics import METRICS
from harness.records import Interval
from harness.seeds import derive_seed

Floats = NDArray[np.float64]

LEVEL = 0.95
PERFECT = {"accuracy": False, "balanced_accuracy": True, "auroc": True, "auprc": True}
"""metrics that are 1 where nothing went wrong; whether the rarer class says how much was tried"""
KEPT_CELLS = 25_000_000
"""drawings of up to this many counts (50 MB) are kept for the next predictions on rows of as many groups"""
CELLS_AT_ONCE = 250_000
"""replicates are scored in blocks of about this many weights, which fit into the cache"""


def group_weights(groups: NDArray[np.str_], reps: int, seed: int) -> Floats:
    """(R, N) how often each row counts in each replicate: whole numbers, equal within a group.

    groups: (N,) any labels; only which rows share one matters, not the names.
    """
    counts, of_row = _draw(groups, reps, seed)
    return counts[:, of_row].astype(np.float64)


def weight_blocks(groups: NDArray[np.str_], reps: int, seed: int) -> Iterator[Floats]:
    """The rows of group_weights in blocks (r, N), for what would not fit into memory or cache at once."""
    counts, of_row = _draw(groups, reps, seed)
    step = max(16, CELLS_AT_ONCE // max(1, len(of_row)))
    for start in range(0, reps, step):
        yield counts[start : start + step, of_row].astype(np.float64)


def _draw(groups: NDArray[np.str_], reps: int, seed: int) -> tuple[NDArray[np.int16], NDArray[np.int64]]:
    """(R, G) how often each group was drawn, and (N,) the group number of each row, by first appearance."""
    _, first, of_row = np.unique(np.asarray(groups), return_index=True, return_inverse=True)
    n = len(first)
    by_appearance = np.empty(n, dtype=np.int64)
    by_appearance[np.argsort(first)] = np.arange(n)
    draw = _kept_counts if reps * n <= KEPT_CELLS else _counts
    return draw(n, reps, seed), by_appearance[of_row]


def _counts(n: int, reps: int, seed: int) -> NDArray[np.int16]:
    """(R, n) how often each of n things was drawn. Not to be written to."""
    counts = np.zeros((reps, n), dtype=np.int16)
    if n:
        rng = np.random.default_rng(derive_seed(seed, "bootstrap"))
        for replicate in counts:
            replicate[:] = np.bincount(rng.integers(0, n, n), minlength=n)
    counts.flags.writeable = False
    return counts


_kept_counts = lru_cache(maxsize=4)(_counts)
"""a table scores many predictions on the same rows: drawing takes longer than scoring"""


def percentiles(replicates: Floats) -> tuple[float, float]:
    """The ends of the 95% interval; replicates where the metric is undefined are left out.

    NaN when that is more than half of them: what is left would be a selection, not a sample.
    """
    defined = replicates[np.isfinite(replicates)]
    if len(defined) == 0 or 2 * len(defined) < len(replicates):
        return float("nan"), float("nan")
    lo, hi = np.quantile(defined, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(lo), float(hi)


def intervals(
    y: NDArray[np.int64], p: Floats, groups: NDArray[np.str_], seed: int, reps: int = 1000
) -> dict[str, Interval]:
    """Every metric with its 95% interval. The same seed gives the same interval.

    y (N,), p (N, C) probabilities, groups (N,). A single group has no interval: lo and hi are NaN.
    """
    values = {name: float(metric.of(y, p, None)[0]) for name, metric in METRICS.items()}
    nothing = float("nan")
    if len(np.unique(groups)) < 2:
        return {name: Interval(value, nothing, nothing) for name, value in values.items()}
    drawn = replicates(y, p, groups, seed, reps)
    found = {}
    for name, value in values.items():
        lo, hi = percentiles(drawn[name]) if np.isfinite(value) else (nothing, nothing)
        if name in PERFECT and lo == hi == 1.0:
            lo = ((1 - LEVEL) / 2) ** (1 / _tried(y, groups, rarest=PERFECT[name]))
        found[name] = Interval(value, lo, hi)
    return found


def replicates(y: NDArray[np.int64], p: Floats, groups: NDArray[np.str_], seed: int, reps: int) -> dict[str, Floats]:
    """(R,) values of every metric on groups drawn again; NaN where one is not defined on a draw."""
    blocks: dict[str, list[Floats]] = {name: [] for name in METRICS}
    for w in weight_blocks(groups, reps, seed):
        for name, metric in METRICS.items():
            blocks[name].append(metric.of(y, p, w))
    return {name: np.concatenate(values) for name, values in blocks.items()}


def _tried(y: NDArray[np.int64], groups: NDArray[np.str_], rarest: bool) -> int:
    """How many groups there are, or those of the class (of several labels: the answer) that the fewest have."""
    if not rarest:
        return len(np.unique(groups))
    columns = y[:, None] if y.ndim == 1 else y
    counts = [
        len(np.unique(groups[column == value])) for column in columns.T for value in np.unique(column[column >= 0])
    ]
    return min(counts)
