"""Intervals: bootstrap over groups, of scores by group, and of shares.

95% intervals of metrics over the drawing of patients: rows of one group depend on each other, so groups are counted.

The variance of a metric is that of its derivative summed over each group (harness.stats.influence). What is done with
it depends on the metric, and was chosen by simulation (benchmarks/coverage.py):

- auroc, auprc, accuracy, balanced_accuracy lie between 0 and 1, and their variance shrinks towards the ends. The
  interval holds the values that the observed one is not too far from, judged by the variance at THAT value (a score
  interval; for a share it is Wilson's of 1927, for an AUROC the variance is Hanley and McNeil's of 1982), times the
  ratio of the observed variance to that formula's with groups for rows (the design effect of Rao and Scott 1992). It
  neither collapses nor leaves the scale near 1.
- log_loss and brier are means of skewed values: Hall's transformation of the t statistic (Hall 1992, "On the removal of
  skewness by transformation"), by groups.

Student's t replaces the normal distribution. The group bootstrap below serves what has no such form (curves, corrected
bests). Knows arrays only: no files, no torch.

N: rows, G: groups, R: replicates, C: classes.

Scores per group (patient, lesion, case) beside those per image: one prediction and one label for each group.

A group's probability is the mean over its images, or per class the largest (then scaled to sum to 1 where classes
exclude each other). Its label: positive where any image is, for two classes and for each label of several; for more
classes the one that all its images have, and groups whose images differ are left out. Knows arrays only.

N: rows, G: groups, C: classes.

Shares of rows, such as sensitivity, with intervals that hold near 0 and 1 and for several images of one patient.

Wilson's score interval (Wilson 1927; recommended by Brown, Cai and DasGupta 2001) of independent rows. Where groups
have several rows, the number of rows is divided by the design effect, which is how much more the share varies than
that of independent rows would (Rao and Scott 1992, "A simple method for the analysis of clustered binary data"). At a
share of 0 or 1 nothing varies, and every group counts as one row. Knows arrays only.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from harness.metrics import METRICS, UNKNOWN, score
from harness.numbering import by_appearance
from harness.seeds import derive_seed
from harness.stats.coverage import interval_coverage
from harness.stats.influence import influence
from harness.types import Interval

Floats = NDArray[np.float64]
Labels = NDArray[np.int64]
Names = NDArray[np.str_] | NDArray[np.int64]

LEVEL = 0.95
FEWEST = 3
"""groups, and for metrics that compare classes groups of each class, below which there is no interval"""
BY_CLASS = ("auroc", "auprc", "balanced_accuracy")
"""metrics that need every class"""
LOSSES = ("log_loss", "brier")
PRIOR = {"auprc": 2.0}
"""groups that a design effect of 1 is worth beside the observed one, 1 for other metrics: with few errors, the observed
one says little"""
NOTHING = float("nan")
KEPT_CELLS = 25_000_000
"""drawings of up to this many counts (50 MB) are kept for the next predictions on rows of as many groups"""
CELLS_AT_ONCE = 250_000
"""replicates are scored in blocks of about this many weights, which fit into the cache"""


def intervals(
    y: Labels,
    p: Floats,
    groups: NDArray[np.str_],
    seed: int,
    reps: int = 1000,
    fold: NDArray[np.int64] | None = None,
) -> dict[str, Interval]:
    """Every metric with its 95% interval; without one where there are too few groups, and then with the reason.

    y (N,) or (N, C), p (N, C) probabilities, groups (N,). fold (N,): given where rows are out-of-fold predictions of
    several models; the interval is then wider by `fold_inflation`, because models of different folds share training
    rows. seed and reps are not used: nothing is drawn. They are kept for callers that choose them for all intervals.
    """
    numbered = by_appearance(groups)
    found = {name: spread(name, y, p, numbered, fold).interval() for name in METRICS}
    values = score(y, p)  # equal to the last digit to what is printed without an interval
    return {name: replace(one, value=values[name]) for name, one in found.items()}


@dataclass(frozen=True)
class Formula:
    """The variance that a metric would have if it were x and each group had one row: x (1 - x) times `alone` for a
    share; for an AUROC also what pairs of rows share (Hanley and McNeil 1982)."""

    alone: float
    positive: float = 0.0
    negative: float = 0.0

    def __call__(self, x: float) -> float:
        both = self.positive * (1 - x) / (2 - x) + self.negative * x / (1 + x)
        return x * (1 - x) * (self.alone + both)


@dataclass(frozen=True)
class Spread:
    """A metric, how much each group moves it, and what its interval is made from."""

    metric: str
    value: float
    moved: Floats
    """(G,) by group, summing to 0"""
    variance: float
    freedom: float
    formula: Formula
    inflation: float
    reason: str
    rarer: int
    """groups of the rarest class, or answer"""
    several: bool
    """whether a group has several rows"""
    parts: tuple["Spread", ...] = ()
    """of the balanced accuracy of exclusive classes: the share of each class that is recognised"""

    def interval(self) -> Interval:
        known = None if self.reason else interval_coverage(self.metric, self.value, self.rarer, self.several)
        return Interval(self.value, *self.ends(LEVEL), coverage=known, reason=self.reason)

    def ends(self, level: float) -> tuple[float, float]:
        if self.reason:
            return NOTHING, NOTHING
        if self.parts:
            return self._of_parts(level)
        reach = student_reach(level, self.freedom) * float(np.sqrt(self.inflation))
        if self.metric in LOSSES:
            return _skewed(self.value, self.moved, float(np.sqrt(self.variance)), reach, self.inflation)
        return _score_ends(self.value, self.formula, reach**2 * self.design_effect())

    def _of_parts(self, level: float) -> tuple[float, float]:
        """The mean of shares, from the interval of each (Newcombe 1998, Zou and Donner 2008); wider where groups have
        rows of several classes whose shares go up and down together."""
        ends = np.array([part.ends(level) for part in self.parts])
        values, own = (np.array([getattr(part, name) for part in self.parts]) for name in ("value", "variance"))
        count = len(values)
        together = max(1.0, self.variance * count**2 / float(own.sum())) if own.sum() > 0 else 1.0
        below, above = np.sqrt(together * ((ends - values[:, None]) ** 2).sum(axis=0)) / count
        return max(0.0, self.value - float(below)), min(1.0, self.value + float(above))

    def design_effect(self) -> float:
        """The variance over that of the formula, drawn towards 1 where few groups move the metric."""
        expected = self.formula(self.value)
        if expected <= 0.0 or self.variance <= 0.0:
            return 1.0
        moving = moving_groups(self.moved)
        prior = PRIOR.get(self.metric, 1.0)
        return (moving * self.variance / expected + prior) / (moving + prior)


def difference_ends(one: Spread, other: Spread, level: float, correlation: float) -> tuple[float, float]:
    """The interval of a metric of one minus that of the other, from that of each (Newcombe 1998, method 10), and
    the correlation of the two where they share groups (Zou and Donner 2008)."""
    value = one.value - other.value
    (lo, hi), (other_lo, other_hi) = one.ends(level), other.ends(level)
    down, up = (one.value - lo, other_hi - other.value), (hi - one.value, other.value - other_lo)
    below, above = (max(0.0, a * a + b * b - 2 * correlation * a * b) ** 0.5 for a, b in (down, up))
    return value - below, value + above


def spread(metric: str, y: Labels, p: Floats, groups: Names, fold: NDArray[np.int64] | None = None) -> Spread:
    """What the interval of one metric is made from. y (N,) or (N, C), p (N, C), groups (N,) names or numbers, fold (N,)
    or None."""
    value, of_row = influence(metric, y, p)
    numbered = by_appearance(groups)
    count = int(numbered.max(initial=-1)) + 1
    moved = np.bincount(numbered, of_row, count).astype(np.float64)
    reason = no_interval(metric, value, y, p, numbered)
    if reason:
        return Spread(metric, value, moved, NOTHING, NOTHING, Formula(NOTHING), 1.0, reason, 0, False)
    variance, freedom = group_variance(metric, y, of_row, numbered)
    rarer = min(min(pair) for pair in class_groups(y, p, numbered)) or count
    formula, inflation = _formula(metric, y, p, numbered), fold_inflation(fold)
    parts: tuple[Spread, ...] = ()
    if metric == "balanced_accuracy" and y.ndim == 1:
        of_class = [y == c for c in range(p.shape[1])]
        parts = tuple(
            replace(spread("accuracy", y[rows], p[rows], groups[rows]), inflation=inflation) for rows in of_class
        )
    several = count < len(y)
    return Spread(metric, value, moved, variance, freedom, formula, inflation, "", rarer, several, parts)


def class_groups(y: Labels, p: Floats, numbered: NDArray[np.int64]) -> list[tuple[int, int]]:
    """For each question (the class of two, each of more, each label) how many groups have rows with it, and without."""
    if y.ndim == 2:
        sides = [(y[:, c] == 1, y[:, c] == 0) for c in range(y.shape[1])]
    else:
        sides = [(y == c, y != c) for c in ([1] if p.shape[1] == 2 else range(p.shape[1]))]
    return [(_different(numbered[yes]), _different(numbered[no])) for yes, no in sides]


def _different(numbers: NDArray[np.int64]) -> int:
    return int(np.count_nonzero(np.bincount(numbers)))


def no_interval(metric: str, value: float, y: Labels, p: Floats, numbered: NDArray[np.int64]) -> str:
    """The code of why there is no interval; '' where there is one."""
    if len(y) == 0:
        return "no-rows"
    fewest = min(min(pair) for pair in class_groups(y, p, numbered))
    if not np.isfinite(value):
        return "one-class" if fewest == 0 else "undefined"
    count = int(numbered.max()) + 1
    if count < 2:
        return "one-group"
    if count < FEWEST or (metric in BY_CLASS and fewest < FEWEST):
        return "too-few-groups"
    return ""


def group_variance(metric: str, y: Labels, of_row: Floats, numbered: NDArray[np.int64]) -> tuple[float, float]:
    """The variance of a metric over the drawing of groups, from its derivative by row (N,), and its degrees of freedom.

    Of metrics that compare two classes each class has its own sample of groups, as in Obuchowski 1997: then the degrees
    of freedom are Satterthwaite's.
    """
    count = int(numbered.max()) + 1
    moved = np.bincount(numbered, of_row, count).astype(np.float64)
    if metric not in BY_CLASS or y.ndim == 2:
        return count / (count - 1) * float(moved @ moved), count - 1.0
    total, squares, own, fewest = 0.0, 0.0, 0.0, count
    for c in np.unique(y):
        here = y == c
        part = np.bincount(numbered[here], of_row[here], count).astype(np.float64)
        have = _different(numbered[here])
        fewest = min(fewest, have)
        mine = have / max(have - 1, 1) * float(part @ part)
        own += float(part @ part)
        total += mine
        squares += mine**2 / max(have - 1, 1)
    shared = count / (count - 1) * (float(moved @ moved) - own)  # groups with rows of several classes
    freedom = total**2 / squares if squares > 0 else fewest - 1.0
    return max(0.0, total + shared), min(freedom, count - 1.0)


def student_reach(level: float, freedom: float) -> float:
    """How many standard errors an interval of Student's t reaches to either side."""
    from scipy.special import stdtrit

    return float(stdtrit(freedom, (1 + level) / 2))


def moving_groups(moved: Floats) -> float:
    """As many groups would give the variance of moved (G,) if all of them moved the metric by as much; 1 at least."""
    squares = moved**2
    most = float(squares.max(initial=0.0))
    return float((squares / most).sum() ** 2 / ((squares / most) ** 2).sum()) if most > 0 else 1.0


def fold_inflation(fold: NDArray[np.int64] | None) -> float:
    """By how much the variance over groups is multiplied for out-of-fold rows of K models: 1 + K / (K - 1).

    Models of different folds share training rows, so their errors go up and down together, which no drawing of held-out
    groups shows. There is no unbiased estimate of it (Bengio and Grandvalet 2004); this factor is that of Nadeau and
    Bengio (2003). Linear learners really trained in 5 folds on 40 and 100 patients, memorising and regularised, with
    signal and without (150 studies a cell, Monte-Carlo error .018): the true variance was 1.3 to 2.9 times that over
    groups. Without the factor, t intervals of AUROC and log loss covered .76 to .83, equal recipes had p below
    .05 in .11 to .26 of studies; with it .90 to .96, and .01 to .07. For average
    precision and accuracy it is wider than needed.
    """
    if fold is None:
        return 1.0
    k = len(np.unique(fold))
    return 1.0 + k / (k - 1) if k > 1 else 1.0


def _formula(metric: str, y: Labels, p: Floats, numbered: NDArray[np.int64]) -> Formula:
    """Of several questions the mean of their variances: that of their mean if they went up and down together."""
    pairs = np.array(class_groups(y, p, numbered), dtype=np.float64)
    m, n = pairs[:, 0], pairs[:, 1]
    if metric == "auroc":
        return Formula(*(float((shared / (m * n)).mean()) for shared in (np.ones(len(m)), n - 1, m - 1)))
    if metric == "auprc":
        return Formula(float((1 / m).mean()))
    if metric == "balanced_accuracy":
        return Formula(float(((1 / m + 1 / n) / 4).mean()))
    sizes = np.bincount(numbered).astype(np.float64)
    return Formula(float((sizes**2).sum() / sizes.sum() ** 2))


def _score_ends(value: float, formula: Formula, squared_reach: float) -> tuple[float, float]:
    """The values x between 0 and 1 around `value` with (value - x)^2 <= squared_reach * formula(x)."""
    if formula.positive == formula.negative == 0.0:  # Wilson 1927
        spread = squared_reach * formula.alone
        centre = (value + spread / 2) / (1 + spread)
        half = float(np.sqrt(spread * (value * (1 - value) + spread / 4))) / (1 + spread)
        lo, hi = centre - half, centre + half
    else:
        lo, hi = (_farthest(value, far, formula, squared_reach) for far in (0.0, 1.0))
    return (0.0 if lo < 1e-11 else lo), (1.0 if hi > 1 - 1e-11 else hi)


def _farthest(value: float, far: float, formula: Formula, squared_reach: float) -> float:
    near = value
    for _ in range(40):
        middle = (near + far) / 2
        if (value - middle) ** 2 <= squared_reach * formula(middle):
            near = middle
        else:
            far = middle
    return near


def _skewed(value: float, moved: Floats, error: float, reach: float, inflation: float) -> tuple[float, float]:
    """Hall's interval of a mean of skewed values."""
    if error < 1e-15:
        return value, value
    skew = float((moved**3).sum()) / float(moved @ moved) ** 1.5 / float(np.sqrt(inflation))

    def back(x: float) -> float:
        return float(3 / skew * (np.cbrt(1 + skew * (x - skew / 6)) - 1)) if abs(skew) > 1e-6 else x

    return max(0.0, value - error * back(reach)), value - error * back(-reach)


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
    of_row = by_appearance(groups)
    n = int(of_row.max(initial=-1)) + 1
    draw = _kept_counts if reps * n <= KEPT_CELLS else _counts
    return draw(n, reps, seed), of_row


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


def replicates(y: NDArray[np.int64], p: Floats, groups: NDArray[np.str_], seed: int, reps: int) -> dict[str, Floats]:
    """(R,) values of every metric on groups drawn again; NaN where one is not defined on a draw."""
    blocks: dict[str, list[Floats]] = {name: [] for name in METRICS}
    for w in weight_blocks(groups, reps, seed):
        for name, metric in METRICS.items():
            blocks[name].append(metric.of(y, p, w))
    return {name: np.concatenate(values) for name, values in blocks.items()}


How = Literal["none", "mean", "max"]
PREFIX = "group_"


def by_group(y: Labels, p: Floats, groups: NDArray[np.str_], how: How) -> tuple[Labels, Floats, NDArray[np.str_]]:
    """(labels, probabilities, names) of the groups, in the order in which they first appear.

    y (N,) or (N, C), p (N, C), groups (N,) -> (G,) or (G, C), (G, C), (G,).
    """
    names, first, of_row = np.unique(groups, return_index=True, return_inverse=True)
    order = np.argsort(first, kind="stable")
    place = np.empty(len(names), dtype=np.int64)
    place[order] = np.arange(len(names))
    of_row = place[of_row]
    shape = (len(names), p.shape[1])
    if how == "max":
        pooled = np.full(shape, -np.inf)
        np.maximum.at(pooled, of_row, p)
        if y.ndim == 1 and p.shape[1] == 2:
            pooled[:, 0] = 1 - pooled[:, 1]  # what is looked for is the positive class
        elif y.ndim == 1:
            pooled /= pooled.sum(axis=1, keepdims=True)
    else:
        pooled = np.zeros(shape)
        np.add.at(pooled, of_row, p)
        pooled /= np.bincount(of_row, minlength=len(names))[:, None]
    highest = np.full((len(names), *y.shape[1:]), UNKNOWN, dtype=np.int64)
    np.maximum.at(highest, of_row, y)
    keep = np.ones(len(names), dtype=bool)
    if y.ndim == 1 and p.shape[1] > 2:
        lowest = np.full(len(names), p.shape[1], dtype=np.int64)
        np.minimum.at(lowest, of_row, y)
        keep = lowest == highest
    return highest[keep], pooled[keep], names[order][keep]


def all_intervals(
    y: Labels,
    p: Floats,
    groups: NDArray[np.str_],
    seed: int,
    how: How,
    fold: NDArray[np.int64] | None = None,
) -> dict[str, Interval]:
    """Every metric per image, and as `group_NAME` per group, each with its 95% interval.

    fold (N,): the fold of out-of-fold rows, see harness.stats.intervals; a group is in one fold.
    Nothing per group where `how` is none, or where no group has two images: the numbers would be the same.
    """
    found = intervals(y, p, groups, seed, fold=fold)
    if how == "none" or len(np.unique(groups)) == len(groups):
        return found
    group_y, group_p, names = by_group(y, p, groups, how)
    if not len(names):
        return found
    of_group = None if fold is None else dict(zip(groups.tolist(), fold.tolist(), strict=True))
    group_fold = None if of_group is None else np.array([of_group[name] for name in names.tolist()])
    per_group = intervals(group_y, group_p, names, seed, fold=group_fold)
    return found | {f"{PREFIX}{name}": per_group[name] for name in METRICS}


def share(hit: NDArray[np.bool_], groups: NDArray[np.str_]) -> Interval:
    """The share of True among the rows (n,) with its 95% interval; NaN without rows."""
    n = len(hit)
    if n == 0:
        return Interval(math.nan, math.nan, math.nan)
    value = float(hit.mean())
    lo, hi = wilson(value, effective_size(hit, groups))
    return Interval(value, lo, hi)


def wilson(value: float, n: float) -> tuple[float, float]:
    """The 95% score interval of a share observed over n independent rows (n need not be whole)."""
    center = (value + Z**2 / (2 * n)) / (1 + Z**2 / n)
    half = Z / (1 + Z**2 / n) * math.sqrt(value * (1 - value) / n + Z**2 / (4 * n**2))
    return max(0.0, center - half), min(1.0, center + half)


def effective_size(hit: NDArray[np.bool_], groups: NDArray[np.str_]) -> float:
    """How many independent rows the rows are worth: n / design effect, at most n."""
    n, value = len(hit), float(hit.mean())
    _, of_row = np.unique(groups, return_inverse=True)
    sizes = np.bincount(of_row)
    count = len(sizes)
    if count == n:
        return float(n)
    if value in (0.0, 1.0) or count < 2:
        return float(count)
    apart = np.bincount(of_row, hit.astype(np.float64)) - value * sizes
    variance = count / (count - 1) * float((apart**2).sum()) / n**2
    return n / max(1.0, variance / (value * (1 - value) / n))


Z = 1.959963984540054
"""97.5% quantile of the normal distribution"""
