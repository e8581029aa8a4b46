"""Scores by subgroup, and unpaired differences between different rows.

How well a bundle does for each kind of patient, scanner or site, beside everybody else.

A column becomes a handful of kinds: sexes, age bands, scanners. Kinds with fewer than SMALLEST groups (patients) are
put together and not named: their score would be noise, and a handful of people could be recognised. Each kind is
compared with all other rows, and p-values are Holm's over all kinds: with twenty of them, one is far
off by chance. Knows arrays only.

N: rows.

Do two independent samples differ: scores here and at home, the share of a class, the distribution of a score?

Nobody is in both samples. Rows of one group depend on each other: groups are counted, or permuted, whole. Knows arrays
only.

N, M: rows of the two samples; R: replicates.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from harness.errors import RequestError, nearest
from harness.metrics import METRICS
from harness.numbering import by_appearance
from harness.seeds import derive_seed
from harness.stats.influence import row_values
from harness.stats.intervals import LEVEL, NOTHING, Spread, difference_ends, spread
from harness.stats.paired import holm
from harness.types import Difference, Interval

Floats = NDArray[np.float64]
Names = NDArray[np.str_]

ROW_MEANS = ("accuracy", "log_loss", "brier")
"""metrics that are a mean over rows"""


@dataclass(frozen=True)
class Sample:
    y: NDArray[np.int64]
    """(N,), or (N, C) of several labels"""
    p: Floats
    """(N, C) probabilities"""
    groups: Names


def unpaired_differences(here: Sample, home: Sample, seed: int, reps: int = 999) -> dict[str, Difference]:
    """Every metric here minus at home, with its 95% interval and p-value: see `apart`, `with_dealt_groups`. NaN, with
    the reason, where a metric is not defined in one of them, or one has too few groups."""
    found = {}
    numbers = [by_appearance(sample.groups) for sample in (here, home)]
    y, p = np.concatenate([here.y, home.y]), np.concatenate([here.p, home.p])
    everyone = np.concatenate([numbers[0], numbers[1] + numbers[0].max(initial=-1) + 1])
    inside = np.arange(len(y)) < len(here.y)
    for name in METRICS:
        mine, other = (spread(name, s.y, s.p, n) for s, n in zip((here, home), numbers, strict=True))
        found[name] = with_dealt_groups(apart(mine, other), name, y, p, everyone, inside, seed, reps)
    return found


def with_dealt_groups(
    found: Difference,
    metric: str,
    y: NDArray[np.int64],
    p: Floats,
    groups: NDArray[np.int64],
    inside: NDArray[np.bool_],
    seed: int,
    reps: int = 999,
) -> Difference:
    """The same difference, its p-value not below that of a permutation test: how often the mean over rows of the two
    sides differs at least as much when whole groups are dealt anew to them (Phipson and Smyth 2010 for the + 1).

    For metrics that are means over rows, whose rows can be very skewed: of six patients a site, Student's t found a
    difference of log losses where there was none in .18 of tables (Monte-Carlo error .06). Other metrics, tasks of
    several labels, and sides that share groups keep their p-value. y (N,), p (N, C), groups (N,) numbers from 0,
    inside (N,) rows of the first side.
    """
    count = int(groups.max(initial=-1)) + 1
    first = np.bincount(groups[inside], minlength=count) > 0
    shared = first & (np.bincount(groups[~inside], minlength=count) > 0)
    if found.reason or metric not in ROW_MEANS or y.ndim == 2 or shared.any():
        return found
    of_row = row_values(metric, np.asarray(y, dtype=np.int64), np.asarray(p, dtype=np.float64))
    sizes = np.bincount(groups, minlength=count).astype(np.float64)
    sums = np.bincount(groups, of_row - of_row.mean(), count)

    def apart_by(dealt: Floats) -> Floats:
        rows = dealt @ sizes
        total = dealt @ sums
        return np.asarray(np.abs(total / rows + total / (sizes.sum() - rows)))  # the sums of all groups add up to 0

    rng = np.random.default_rng(derive_seed(seed, "dealt", metric))
    drawn = rng.permuted(np.tile(first.astype(np.float64), (reps, 1)), axis=1)
    least = float(apart_by(first.astype(np.float64)[None])[0]) * (1 - 1e-10)
    p_dealt = (1 + int((apart_by(drawn) >= least).sum())) / (reps + 1)
    return replace(found, p=max(found.p, p_dealt))


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


SMALLEST = 5
"""groups; fewer are not shown by themselves"""
MOST_KINDS = 20
AGE_BANDS = ((0, 17), (18, 39), (40, 59), (60, 79), (80, 150))
NAMED = {"sex", "gender", "age", "ethnicity", "race", "skin", "scanner", "manufacturer", "vendor", "model", "device"}
NAMED |= {"site", "hospital", "center", "centre", "institution", "view", "position", "localization"}
"""a column is looked at unasked where its name holds one of these as a word"""
OTHER, UNKNOWN_KIND = "other (few each)", "not known"


@dataclass(frozen=True)
class Subgroup:
    column: str
    kind: str
    n: int
    groups: int
    positives: list[int]
    """rows of each class (of several labels: with each)"""
    score: Interval
    """the metric among these rows"""
    versus_rest: Difference
    """minus that of all other rows; NaN where one of the two has no score"""
    p_holm: float


def chosen_columns(attributes: pd.DataFrame, asked: list[str], private: tuple[str, ...]) -> list[str]:
    """The columns to divide by: those asked for, or those whose names say what they are and that have two kinds.

    Raises RequestError for a column that there is not, that tells people apart, or that has too many kinds.
    """
    known = [str(name) for name in attributes if name not in private]
    if not asked:
        return [name for name in known if _is_named(name) and _divides(attributes[name])]
    for name in asked:
        if name in private:
            raise RequestError(f"--by {name}: this is the study's label or group, which says who somebody is or has.")
        if name not in known:
            raise RequestError(
                f"--by {name}: there is no such column.{nearest(name, known)} There are {', '.join(known)}."
            )
        if kinds(name, attributes[name]) is None:
            raise RequestError(
                f"--by {name}: {attributes[name].nunique()} different values that are no numbers: too many for kinds "
                f"(at most {MOST_KINDS}), and they may tell people apart."
            )
    return list(dict.fromkeys(asked))


def _is_named(name: str) -> bool:
    words = re.split(r"[\W_]+", re.sub(r"([a-z])([A-Z])", r"\1 \2", name).lower())
    return bool(NAMED & set(words))


def _divides(cells: "pd.Series[str]") -> bool:
    found = kinds(str(cells.name), cells)
    return found is not None and len(set(found.tolist()) - {UNKNOWN_KIND}) > 1


def kinds(name: str, cells: "pd.Series[str]") -> NDArray[np.str_] | None:
    """(N,) the kind of each row: the cell itself, bands of ages, quarters of other numbers; None where the cells are
    too many words."""
    text = cells.fillna("").astype(str).str.strip()
    empty = (text == "").to_numpy()
    if "age" in re.split(r"[\W_]+", name.lower()):
        years = pd.to_numeric(text.str.replace(r"[yY]$", "", regex=True), errors="coerce").to_numpy(np.float64)
        if np.isfinite(years[~empty]).mean() > 0.9 if (~empty).any() else False:
            return _bands(years, [(low, high + 1, f"{low}-{high}") for low, high in AGE_BANDS])
    if text[~empty].nunique() <= MOST_KINDS:
        return np.where(empty, UNKNOWN_KIND, text.to_numpy(dtype=np.str_))
    numbers = pd.to_numeric(text, errors="coerce").to_numpy(np.float64)
    if not np.isfinite(numbers[~empty]).all():
        return None
    cuts = np.unique(np.quantile(numbers[~empty], [0, 0.25, 0.5, 0.75, 1]))
    last = len(cuts) - 2
    spans = [
        (low, np.inf if i == last else high, f"{low:g} to {high:g}") for i, (low, high) in enumerate(pairwise(cuts))
    ]
    return _bands(numbers, spans)


def _bands(numbers: NDArray[np.float64], spans: list[tuple[float, float, str]]) -> NDArray[np.str_]:
    found = np.full(len(numbers), UNKNOWN_KIND, dtype=object)
    for low, high, name in spans:
        found[(numbers >= low) & (numbers < high)] = name
    return found.astype(np.str_)


def subgroups(sample: Sample, columns: dict[str, NDArray[np.str_]], metric: str, seed: int) -> list[Subgroup]:
    """Every kind of every column (name -> (N,) kinds), in order of name. seed: of the groups that are dealt anew for
    p-values."""
    made = []
    for column, of_row in columns.items():
        merged = _merge_small(of_row, sample.groups)
        for kind in sorted(set(merged.tolist())):
            inside = merged == kind
            if len(np.unique(sample.groups[inside])) >= SMALLEST and not inside.all():
                made.append(_subgroup(column, kind, inside, sample, metric, seed))
    corrected = holm(np.array([one.versus_rest.p for one in made]))
    return [Subgroup(**{**vars(one), "p_holm": float(p)}) for one, p in zip(made, corrected, strict=True)]


def _merge_small(of_row: NDArray[np.str_], groups: NDArray[np.str_]) -> NDArray[np.str_]:
    small = [kind for kind in np.unique(of_row) if len(np.unique(groups[of_row == kind])) < SMALLEST]
    return np.where(np.isin(of_row, small), OTHER, of_row).astype(np.str_)


def _subgroup(column: str, kind: str, inside: NDArray[np.bool_], sample: Sample, metric: str, seed: int) -> Subgroup:
    y, p, groups = sample.y, sample.p, by_appearance(sample.groups)
    mine, rest = (spread(metric, y[rows], p[rows], groups[rows]) for rows in (inside, ~inside))
    classes = range(p.shape[1])
    counts = [int((y[inside] == c).sum() if y.ndim == 1 else (y[inside, c] == 1).sum()) for c in classes]
    difference = apart(mine, rest, _correlation(mine, rest, groups, inside))
    difference = with_dealt_groups(difference, metric, y, p, groups, inside, seed)
    count = len(np.unique(groups[inside]))
    return Subgroup(column, kind, int(inside.sum()), count, counts, mine.interval(), difference, float("nan"))


def _correlation(mine: Spread, rest: Spread, groups: NDArray[np.int64], inside: NDArray[np.bool_]) -> float:
    """Of a metric on these rows and on all others: 0 unless groups have rows in both."""
    if mine.reason or rest.reason or not (mine.variance > 0 and rest.variance > 0):
        return 0.0
    names = [list(dict.fromkeys(groups[rows].tolist())) for rows in (inside, ~inside)]  # by first appearance, as moved
    moves = [
        dict(zip(known, side.moved.tolist(), strict=True)) for known, side in zip(names, (mine, rest), strict=True)
    ]
    covariance = sum(move * moves[1].get(name, 0.0) for name, move in moves[0].items())
    return float(np.clip(covariance / np.sqrt(mine.variance * rest.variance), -1, 1))


def worst(found: list[Subgroup], metric: str) -> Subgroup | None:
    """The kind with the worst score; None where there are not two to compare."""
    scored = [one for one in found if np.isfinite(one.score.value)]
    if len(scored) < 2:
        return None
    pick: Callable[..., Subgroup] = min if METRICS[metric].higher_is_better else max
    return pick(scored, key=lambda one: one.score.value)
