"""Tests of paired differences on the same rows: bootstrap, DeLong, McNemar, and the corrected resampled t-test.

Is one set of predictions better than another on the same rows? Paired differences, and Holm's correction.

What makes a patient easy or hard for both models cancels out: the interval is made from how much each patient moves the
difference. The p-value is that of a permutation test which swaps the predictions of the two models for whole groups:
were the models equal, every swap would be as likely as what was observed (Fisher 1935; for AUROC Venkatraman and Begg
1996, Braun and Alonzo 2008). Knows arrays only: no files, no torch.

N: rows, G: groups, R: swaps.

AUROC with its variance in closed form: a second opinion beside harness.stats.paired.

DeLong, DeLong and Clarke-Pearson 1988, with midranks instead of all pairs (Sun and Xu 2014), for groups with several
images after Obuchowski 1997, "Nonparametric analysis of clustered ROC curve data". Where every group has one image
the latter is the former. Two classes only. Knows arrays only: no folds, no files, no torch.

N: rows, M: models.

Do two models differ in how often they are right on the same rows? McNemar's test, exact, mid-p, and by groups.

Only rows that one model has right and the other wrong say anything. The exact and the mid-p test take rows for
independent draws, which images of one patient are not: where groups have several images, `clustered` is the one to
read. Knows arrays only.

N: rows.

Is one model better than another, judged by the folds? The corrected resampled t-test. Knows arrays only.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from harness.errors import RequestError, nearest
from harness.metrics import METRICS, UNKNOWN, Metric, logit, sigmoid
from harness.numbering import by_appearance
from harness.seeds import derive_seed
from harness.stats.coverage import difference_coverage
from harness.stats.influence import RANKING, influence
from harness.stats.intervals import (
    LEVEL,
    NOTHING,
    class_groups,
    difference_ends,
    fold_inflation,
    group_variance,
    moving_groups,
    no_interval,
    percentiles,
    spread,
    student_reach,
)
from harness.types import Difference, Interval

Floats = NDArray[np.float64]
Labels = NDArray[np.int64]
Names = NDArray[np.str_]

CELLS_AT_ONCE = 4_000_000
"""swaps are drawn in blocks of about this many signs"""


def paired_difference(
    metric: str,
    y: Labels,
    p_a: Floats,
    p_b: Floats,
    groups: Names,
    seed: int,
    reps: int = 2000,
    fold: NDArray[np.int64] | None = None,
    fold_b: NDArray[np.int64] | None = None,
) -> Difference:
    """The metric of a minus that of b, with its 95% interval and two-sided p-value.

    y (N,) or (N, C), p_a and p_b (N, C) probabilities for the same rows, groups (N,). The sign is that of a - b for
    every metric, also where lower is better. The p-value is the share of swaps of whole groups with a difference at
    least as large: of all 2^G where these are at most `reps`, else of `reps` drawn ones and the observed one (Phipson
    and Smyth 2010). It is never below 2 / 2^G for G groups, and 1 for predictions that never differ. For metrics of
    order each model's scores are replaced by their ranks first, so models with different scales can be swapped. The
    interval is the difference with t times its standard error over groups; near p = .05 it and p may disagree, and
    verdicts go by p.

    fold (N,): given where the rows are out-of-fold predictions of recipes trained once a fold. Then the value is the
    difference of the means over folds, and the variance over groups is multiplied by `intervals.fold_inflation`; the
    p-value is the larger one of Student's t with that variance and of the swaps. fold_b (N,): the folds of b where they
    are others than those of a; then nothing can be swapped, and the p-value is that of Student's t, not below 2 / 2^G.
    NaN, with the reason, where the metric is undefined or groups are too few. Raises RequestError for a metric that
    does not exist.
    """
    return paired_differences(metric, y, [(p_a, p_b)], groups, seed, reps, fold, fold_b)[0]


def paired_differences(
    metric: str,
    y: Labels,
    pairs: Sequence[tuple[Floats, Floats]],
    groups: Names,
    seed: int,
    reps: int = 2000,
    fold: NDArray[np.int64] | None = None,
    fold_b: NDArray[np.int64] | None = None,
) -> list[Difference]:
    """paired_difference for each pair, all under the same swaps. An array that is in several pairs is scored once."""
    require_metric(metric)
    y = np.asarray(y, dtype=np.int64)
    if fold_b is not None and (fold is None or np.array_equal(fold, fold_b)):
        if fold is None:
            raise ValueError("folds of b without folds of a")
        fold_b = None
    distinct = {id(p): _scale(metric, y, np.asarray(p, dtype=np.float64)) for pair in pairs for p in pair}
    scored = {key: _mean_influence(metric, y, p, fold) for key, p in distinct.items()}
    scored_b = scored
    if fold_b is not None:
        scored_b = {id(b): _mean_influence(metric, y, distinct[id(b)], fold_b) for _, b in pairs}
    inflation = max(fold_inflation(fold), fold_inflation(fold_b))
    numbered = by_appearance(groups)
    count = int(numbered.max(initial=-1)) + 1
    swapped = [np.zeros(count) for _ in pairs]
    found: list[Difference] = []
    for place, (a, b) in enumerate(pairs):
        (value_a, of_row_a), (value_b, of_row_b) = scored[id(a)], scored_b[id(b)]
        value = value_a - value_b
        reason = no_interval(metric, value, y, distinct[id(a)], numbered)
        if reason:
            found.append(Difference(value, NOTHING, NOTHING, NOTHING, reason=reason))
            continue
        if fold_b is None:
            swapped[place] = _swap_terms(metric, y, distinct[id(a)], distinct[id(b)], numbered, count, fold)
        student = _student(metric, y, value, of_row_a - of_row_b, numbered, inflation)
        if metric == "auprc" and fold is None and student.lo < student.hi:
            # its value is too skewed for a symmetrical interval
            one, other = (spread(metric, y, distinct[id(p)], numbered) for p in (a, b))
            lo, hi = difference_ends(one, other, LEVEL, _correlation(of_row_a, of_row_b, numbered))
            student = Difference(value, lo, hi, student.p)
        found.append(student)
    p_values = np.full(len(pairs), min(1.0, 2.0 / 2.0**count))
    if fold_b is None:
        p_values = swap_p_values(np.array(swapped).reshape(len(pairs), count), seed, reps)
    known = None
    if any(not one.reason for one in found):
        rarer = min(min(pair) for pair in class_groups(y, pairs[0][0], numbered))
        known = difference_coverage(metric, rarer, count < len(y))
    return [
        one if one.reason else Difference(one.value, one.lo, one.hi, _p_value(one.p, float(p), fold), known)
        for one, p in zip(found, p_values, strict=True)
    ]


def _p_value(student: float, swaps: float, fold: NDArray[np.int64] | None) -> float:
    """That of the swaps; for out-of-fold rows the larger of it and the one that counts the training of the folds."""
    return swaps if fold is None else max(student, swaps)


def _student(
    metric: str, y: Labels, value: float, of_row: Floats, numbered: NDArray[np.int64], inflation: float
) -> Difference:
    """A difference with an interval and a p-value of Student's t, its variance over groups times `inflation`."""
    from scipy.special import stdtr

    variance, freedom = group_variance(metric, y, of_row, numbered)
    freedom = min(freedom, 2 * moving_groups(np.bincount(numbered, of_row).astype(np.float64)))
    error = float(np.sqrt(variance * inflation))
    if error < 1e-12:
        return Difference(value, value, value, 1.0 if abs(value) < 1e-12 else 0.0)
    half = student_reach(LEVEL, freedom) * error
    return Difference(value, value - half, value + half, float(2 * stdtr(freedom, -abs(value) / error)))


def _correlation(of_row_a: Floats, of_row_b: Floats, numbered: NDArray[np.int64]) -> float:
    """Of two metrics, over the drawing of groups."""
    a, b = np.bincount(numbered, of_row_a), np.bincount(numbered, of_row_b)
    size = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / size if size > 0 else 0.0


def _scale(metric: str, y: Labels, p: Floats) -> Floats:
    """For metrics of order the ranks, from 0 to 1, of each column's scores; of several labels among the known rows."""
    if metric not in RANKING or not np.isfinite(p).all():
        return p
    from scipy.stats import rankdata

    if y.ndim == 1:
        columns = p[:, 1:] if p.shape[1] == 2 else p
        ranks = (rankdata(columns, axis=0) - 0.5) / len(p)
        return np.hstack([1 - ranks, ranks]) if p.shape[1] == 2 else np.asarray(ranks)
    ranks = p.copy()
    for c in range(y.shape[1]):
        known = y[:, c] != UNKNOWN
        ranks[known, c] = (rankdata(p[known, c]) - 0.5) / max(1, int(known.sum()))
    return ranks


def _mean_influence(metric: str, y: Labels, p: Floats, fold: NDArray[np.int64] | None) -> tuple[float, Floats]:
    """The metric, of `fold` its mean over folds, and (N,) derivatives."""
    if fold is None:
        return influence(metric, y, p)
    values, moved = [], np.empty(len(y))
    names = np.unique(fold)
    for k in names:
        here = fold == k
        value, moved_here = influence(metric, y[here], p[here])
        values.append(value)
        moved[here] = moved_here / len(names)
    return (float(np.mean(values)) if values else NOTHING), moved


def _swap_terms(
    metric: str,
    y: Labels,
    a: Floats,
    b: Floats,
    numbered: NDArray[np.int64],
    count: int,
    fold: NDArray[np.int64] | None,
) -> Floats:
    """(G,) what each group adds to the difference; a swap of the group turns the sign.

    Of both models' rows together the derivative of the metric, of a minus that of b, twice. For every metric but auprc
    the difference after any swaps is exactly the sum of these terms with their signs; for auprc it is to third order.
    """
    terms = np.zeros(len(y))
    names = [None] if fold is None else list(np.unique(fold))
    for k in names:
        here = np.ones(len(y), dtype=bool) if fold is None else fold == k
        n = int(here.sum())
        _, moved = influence(metric, np.concatenate([y[here], y[here]]), np.concatenate([a[here], b[here]]))
        terms[here] = 2 * (moved[:n] - moved[n:]) / len(names)
    return np.asarray(np.bincount(numbered, terms, count), dtype=np.float64)


def swap_p_values(terms: Floats, seed: int, reps: int) -> Floats:
    """(M,) two-sided p-values of M sums of terms (M, G), over random signs of the groups: the share of sign vectors
    whose sum is at least as far from 0 as the observed one. All sign vectors where there are at most `reps`."""
    if not len(terms):
        return np.zeros(0)
    size = np.abs(terms).sum(axis=1)
    least = np.abs(terms.sum(axis=1)) - 1e-10 * size
    moving = np.flatnonzero((np.abs(terms) > 1e-14 * size.max()).any(axis=0))
    terms = terms[:, moving]
    count = len(moving)
    if 2.0**count <= reps:
        signs = 1.0 - 2.0 * ((np.arange(2**count)[:, None] >> np.arange(count)) & 1)
        return np.asarray((np.abs(signs @ terms.T) >= least).mean(axis=0))
    rng = np.random.default_rng(derive_seed(seed, "swaps"))
    as_large, step = np.ones(len(terms)), max(1, CELLS_AT_ONCE // count)
    for start in range(0, reps, step):
        bits = rng.integers(0, 2, (min(step, reps - start), count), dtype=np.int8)
        as_large += (np.abs((1.0 - 2.0 * bits) @ terms.T) >= least).sum(axis=0)
    return np.asarray(as_large / (reps + 1))


def require_metric(name: str) -> Metric:
    """Raises RequestError with the nearest name and those there are."""
    if name not in METRICS:
        raise RequestError(f"metric {name!r} does not exist.{nearest(name, METRICS)} Known: {', '.join(METRICS)}.")
    return METRICS[name]


def of_replicates(value: float, replicates: Floats) -> Difference:
    """A difference with its percentile interval and the p-value that inverts it, from bootstrap replicates (R,) of it:
    for differences of what the functions above do not know. Twice the smaller share of replicates on either side of 0,
    each side counted with one more (Davison and Hinkley 1997, section 4.2). NaN where more than half of them, or the
    difference itself, are not defined."""
    lo, hi = percentiles(replicates)
    if not (np.isfinite(lo) and np.isfinite(value)):
        return Difference(value, float("nan"), float("nan"), float("nan"))
    defined = replicates[np.isfinite(replicates)]
    below, above = int((defined <= 0).sum()), int((defined >= 0).sum())
    return Difference(value, lo, hi, min(1.0, 2.0 * (min(below, above) + 1) / (len(defined) + 1)))


def holm(p_values: Floats) -> Floats:
    """(n,) p-values corrected for their number (Holm 1979, step-down). NaN stays NaN and is not counted as a test.
    Raises ValueError for what is no p-value."""
    p = np.asarray(p_values, dtype=np.float64)
    if ((p < 0) | (p > 1)).any():
        raise ValueError(f"p-values lie between 0 and 1, not at {np.nanmin(p)} or {np.nanmax(p)}")
    corrected = np.full(p.shape, np.nan)
    tests = np.flatnonzero(~np.isnan(p))
    order = tests[np.argsort(p[tests], kind="stable")]
    corrected[order] = np.minimum(1.0, np.maximum.accumulate(p[order] * np.arange(len(order), 0, -1)))
    return corrected


def delong_interval(positive: NDArray[np.bool_], score: Floats, groups: NDArray[np.str_]) -> Interval:
    """The AUROC of one model with its 95% interval on the logit scale, by Student's t with one degree of freedom less
    than the rarer class has groups.

    positive (N,), score (N,) higher for positives, groups (N,). NaN where a class is absent; without an interval where
    a class has fewer than two groups, or where every pair is ordered rightly (or wrongly): then nothing varies, and the
    interval of harness.stats.intervals is the one to read.
    """
    auroc, covariance = auroc_covariance(positive, score[None], groups)
    value, error = float(auroc[0]), float(np.sqrt(covariance[0, 0]))
    if not np.isfinite(error):
        return Interval(value, error, error, reason="one-class" if np.isnan(value) else "too-few-groups")
    if not 0.0 < value < 1.0:
        return Interval(value, float("nan"), float("nan"), reason="no-variation")
    fewest = min(len(np.unique(groups[side])) for side in (positive, ~positive))
    half = student_reach(LEVEL, fewest - 1) * error / (value * (1 - value))
    lo, hi = sigmoid(logit(np.array([value])) + np.array([-half, half]))
    return Interval(value, float(lo), float(hi))


def delong_difference(positive: NDArray[np.bool_], a: Floats, b: Floats, groups: NDArray[np.str_]) -> Difference:
    """AUROC of a minus that of b on the same rows, with its 95% interval and two-sided p-value.

    positive (N,), a and b (N,) scores, groups (N,). p is 1 where both rank all rows alike.
    """
    from scipy.stats import norm

    auroc, covariance = auroc_covariance(positive, np.stack([a, b]), groups)
    value = float(auroc[0] - auroc[1])
    variance = float(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1])
    if not np.isfinite(variance):
        return Difference(value, variance, variance, variance)
    error = float(np.sqrt(max(0.0, variance)))
    if error < 1e-12:  # the same ranks, to rounding
        return Difference(value, value, value, 1.0 if abs(value) < 1e-12 else 0.0)
    half = float(norm.ppf((1 + LEVEL) / 2)) * error
    return Difference(value, value - half, value + half, float(2 * norm.sf(abs(value) / error)))


def auroc_covariance(positive: NDArray[np.bool_], scores: Floats, groups: NDArray[np.str_]) -> tuple[Floats, Floats]:
    """AUROCs (M,) of M models on the same rows and their covariance (M, M). scores (M, N)."""
    models = len(scores)
    nothing = np.full((models, models), np.nan)
    m, n = int(positive.sum()), int((~positive).sum())
    if m == 0 or n == 0:
        return np.full(models, np.nan), nothing
    above, below = _placements(positive, scores)
    auroc = above.mean(axis=1)
    _, of_row = np.unique(groups, return_inverse=True)
    count = int(of_row.max()) + 1
    # per group: how far its positives, and its negatives, are from the mean, (M, G)
    x = np.stack([np.bincount(of_row[positive], row - value, count) for row, value in zip(above, auroc, strict=True)])
    y = np.stack([np.bincount(of_row[~positive], row - value, count) for row, value in zip(below, auroc, strict=True)])
    with_positive, with_negative = len(np.unique(of_row[positive])), len(np.unique(of_row[~positive]))
    if min(with_positive, with_negative) < 2:
        return auroc, nothing
    s10 = with_positive / (with_positive - 1) / m * (x @ x.T)
    s01 = with_negative / (with_negative - 1) / n * (y @ y.T)
    s11 = count / (count - 1) * (x @ y.T)
    return auroc, np.asarray(s10 / m + s01 / n + (s11 + s11.T) / (m * n))


def _placements(positive: NDArray[np.bool_], scores: Floats) -> tuple[Floats, Floats]:
    """(M, positives) the share of negatives below each positive and (M, negatives) the share of positives above each
    negative, ties counted half."""
    from scipy.stats import rankdata

    everyone = rankdata(scores, axis=1)
    m, n = int(positive.sum()), int((~positive).sum())
    above = (everyone[:, positive] - rankdata(scores[:, positive], axis=1)) / n
    below = 1.0 - (everyone[:, ~positive] - rankdata(scores[:, ~positive], axis=1)) / m
    return np.asarray(above), np.asarray(below)


@dataclass(frozen=True)
class McNemar:
    """How often only one of two models is right."""

    only_a: int
    """rows that a has right and b wrong"""
    only_b: int
    exact: float
    """two-sided binomial p-value; as if rows were independent"""
    mid_p: float
    """the same, with half the weight on what was observed (Fagerland, Lydersen and Laake 2013), which they recommend;
    as if rows were independent"""
    clustered: float
    """p-value that lets images of one group depend on each other (Durkalski et al. 2003); each group counts alike,
    however many images it has. NaN below two groups"""
    statistic: float
    """of `clustered`: chi-squared with one degree of freedom"""


def mcnemar(right_a: NDArray[np.bool_], right_b: NDArray[np.bool_], groups: NDArray[np.str_]) -> McNemar:
    """right_a and right_b (N,): whether each model has the row right; groups (N,)."""
    from scipy.stats import binom, chi2

    only_a, only_b = int((right_a & ~right_b).sum()), int((right_b & ~right_a).sum())
    discordant, fewer = only_a + only_b, min(only_a, only_b)
    exact = min(1.0, 2 * float(binom.cdf(fewer, discordant, 0.5)))
    mid_p = 1.0 if only_a == only_b else exact - float(binom.pmf(fewer, discordant, 0.5))
    _, of_row = np.unique(groups, return_inverse=True)
    sizes = np.bincount(of_row)
    if len(sizes) < 2:
        return McNemar(only_a, only_b, exact, mid_p, float("nan"), float("nan"))
    shares = np.bincount(of_row, right_a.astype(np.float64) - right_b) / sizes
    spread = float((shares**2).sum())
    statistic = float(shares.sum()) ** 2 / spread if spread else 0.0
    return McNemar(only_a, only_b, exact, mid_p, float(chi2.sf(statistic, 1)), statistic)


def corrected_t(differences: NDArray[np.float64], held_out: float) -> Difference:
    """The mean of paired differences over J folds or splits, with its 95% interval and two-sided p-value.

    Nadeau and Bengio 2003, "Inference for the generalization error": two folds share most of their training rows, so
    their differences vary less than those of independent data would. The variance 1 / J becomes
    1 / J + held_out / (1 - held_out).

    differences (J,); held_out: the share of rows that each split holds out, 1 / K for K folds. NaN below two
    differences, or where one is not defined; p is 1 where all are 0.
    """
    from scipy.stats import t as student

    count = len(differences)
    nothing = float("nan")
    if count < 2 or not np.isfinite(differences).all():
        return Difference(float(np.mean(differences)) if count else nothing, nothing, nothing, nothing)
    value = float(differences.mean())
    error = float(np.sqrt((1 / count + held_out / (1 - held_out)) * differences.var(ddof=1)))
    if error == 0.0:
        return Difference(value, value, value, 1.0 if value == 0.0 else nothing)
    half = float(student.ppf((1 + LEVEL) / 2, count - 1)) * error
    return Difference(value, value - half, value + half, float(2 * student.sf(abs(value) / error, count - 1)))
