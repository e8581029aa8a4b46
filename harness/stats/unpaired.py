"""Do two independent samples differ: scores here and at home, the share of a class, the distribution of a score?

Nobody is in both samples, so each is resampled by itself. Rows of one group depend on each other: groups are drawn, or
permuted, whole. Knows arrays only.

N, M: rows of the two samples; R: replicates.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from harness.metrics import METRICS
from harness.records import Difference, Interval
from harness.seeds import derive_seed
from harness.stats.compare import of_replicates
from harness.stats.intervals import replicates

Floats = NDArray[np.float64]
Names = NDArray[np.str_]


@dataclass(frozen=True)
class Sample:
    y: NDArray[np.int64]
    """(N,), or (N, C) of several labels"""
    p: Floats
    """(N, C) probabilities"""
    groups: Names


def unpaired_differences(here: Sample, home: Sample, seed: int, reps: int = 2000) -> dict[str, Difference]:
    """Every metric here minus at home, by the bootstrap of two independent samples (Efron and Tibshirani 1993, section
    8.3). NaN where a metric is not defined in one of them, or one has a single group."""
    found = {}
    many = all(len(np.unique(sample.groups)) > 1 for sample in (here, home))
    drawn = [
        # seeds of their own: the same draws would go up and down together
        replicates(sample.y, sample.p, sample.groups, derive_seed(seed, name), reps) if many else {}
        for name, sample in (("here", here), ("home", home))
    ]
    for name, metric in METRICS.items():
        value = float(metric.of(here.y, here.p, None)[0] - metric.of(home.y, home.p, None)[0])
        apart = drawn[0][name] - drawn[1][name] if many else np.full(1, np.nan)
        found[name] = of_replicates(value, apart)
    return found


def share_difference(here: Interval, home: Interval) -> Interval:
    """The difference of two independent shares, its interval from theirs (Newcombe 1998, method 10)."""
    value = here.value - home.value
    down = np.hypot(here.value - here.lo, home.hi - home.value)
    up = np.hypot(here.hi - here.value, home.value - home.lo)
    return Interval(value, value - float(down), value + float(up))


@dataclass(frozen=True)
class Shift:
    statistic: float
    """the largest distance between the two distribution functions, 0..1"""
    p: float
    """by permutation of whole groups between the samples; NaN where one has none"""


def kolmogorov_smirnov(a: Floats, groups_a: Names, b: Floats, groups_b: Names, seed: int, reps: int = 999) -> Shift:
    """Are the scores a (N,) and b (M,) of one distribution? Two-sample statistic; the p-value counts how often it is as
    large when groups are dealt anew (Phipson and Smyth 2010 for the + 1)."""
    if not (len(a) and len(b)):
        return Shift(float("nan"), float("nan"))
    number_a = np.unique(groups_a, return_inverse=True)[1]
    number_b = np.unique(groups_b, return_inverse=True)[1] + number_a.max() + 1
    count_a, count = int(number_a.max()) + 1, int(number_b.max()) + 1
    scores = np.concatenate([a, b])
    order = np.argsort(scores, kind="stable")
    of_row = np.concatenate([number_a, number_b])[order]
    last = np.append(np.diff(scores[order]) > 0, True)  # equal scores enter together
    statistic = _distance(np.arange(count) < count_a, of_row, last)
    rng = np.random.default_rng(derive_seed(seed, "permutation"))
    as_large = 0
    for _ in range(reps):
        dealt = np.zeros(count, dtype=bool)
        dealt[rng.permutation(count)[:count_a]] = True
        as_large += _distance(dealt, of_row, last) >= statistic - 1e-12
    return Shift(statistic, (as_large + 1) / (reps + 1))


def _distance(first: NDArray[np.bool_], of_row: NDArray[np.int64], last: NDArray[np.bool_]) -> float:
    """The statistic where the groups `first` are one sample and the others the other."""
    mine = first[of_row]
    total = int(mine.sum())
    if total in (0, len(mine)):
        return 0.0
    steps = np.where(mine, 1 / total, -1 / (len(mine) - total))
    return float(np.abs(np.cumsum(steps)[last]).max())
