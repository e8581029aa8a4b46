"""Do two independent samples differ: scores here and at home, the share of a class, the distribution of a score?

Nobody is in both samples. Rows of one group depend on each other: groups are counted, or permuted, whole. Knows arrays
only.

N, M: rows of the two samples; R: replicates.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from harness.metrics import METRICS
from harness.records import Difference, Interval
from harness.seeds import derive_seed
from harness.stats.intervals import LEVEL, NOTHING, Spread, difference_ends, group_numbers, spread

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
    """Every metric here minus at home, with its 95% interval and p-value: see `apart`. NaN, with the reason, where a
    metric is not defined in one of them, or one has too few groups. seed and reps are not used: nothing is drawn."""
    found = {}
    numbers = [group_numbers(sample.groups)[0] for sample in (here, home)]
    for name in METRICS:
        mine, other = (spread(name, s.y, s.p, n) for s, n in zip((here, home), numbers, strict=True))
        found[name] = apart(mine, other)
    return found


def apart(one: Spread, other: Spread, correlation: float = 0.0) -> Difference:
    """The difference of a metric on two sets of rows, from its interval on each (Newcombe 1998, method 10; Zou and
    Donner 2008, with the correlation of the two where they share groups). The p-value is the level at which the
    interval of the difference ends at 0."""
    value = one.value - other.value
    reason = one.reason or other.reason
    if reason:
        return Difference(value, NOTHING, NOTHING, NOTHING, reason=reason)

    low, high = 0.0, 1.0
    for _ in range(40):  # the smallest level whose interval holds 0
        level = (low + high) / 2
        lo, hi = difference_ends(one, other, level, correlation)
        low, high = (low, level) if lo <= 0.0 <= hi else (level, high)
    lo, hi = difference_ends(one, other, LEVEL, correlation)
    return Difference(value, lo, hi, 1.0 if value == 0.0 else 1.0 - high)


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
