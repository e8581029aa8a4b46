"""What the best of many trials is worth: its value corrected for having been chosen on the rows that it is scored on.

The best of M trials is partly lucky: the more trials the luckier, and a sampler that proposes what looked good climbs
the luck, too. The correction is a linear mixed model (best linear unbiased prediction: Robinson 1991, "That BLUP is a
good thing") of every value that was seen, those of stopped trials included:

    value of trial t on fold k = m + u_t + e_tk

e is the noise of having these patients and no others. Its covariance between any two trials is known from their
predictions: placements for the AUROC (DeLong et al. 1988), the jackknife over groups otherwise. u is by how much the
trials really differ. Its covariance is taken to be (s^2 - 1) times that of e, so that one number s^2 says whether the
trials differ by more than their noise, and what is left of the best one's lead over m is the share 1 - 1 / s^2. s^2 is
averaged over its posterior under the scale-invariant prior ds / s on all s > 0: the rule of Efron and Morris 1973
without truncation. Where the trials differ by less than their noise, the correction may go beyond their mean, and must,
to be right on average.

The likelihood of the values is the same however trials were proposed and stopped, as long as that depended on these
values. A sampler that looks at ranks decides the same at any m and s, so that the correction is unbiased at each of
them and not only on average over them. Selection and Bayes: Efron 2011, "Tweedie's formula and selection bias". For a
search that does not look at its results the bootstrap of Tsamardinos et al. 2018 (BBC-CV) corrects the same; after one
that does, and without the trials that were stopped, what it says is too high (benchmarks/optimism.py).

Knows arrays only. M: trials, N: rows, K: folds, C: classes, G: groups, D: searched keys.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from harness.stats.paired import require_metric
from harness.types import Interval

Floats = NDArray[np.float64]
Labels = NDArray[np.int64]

SPREADS = np.exp(np.linspace(np.log(0.05), np.log(200.0), 24))
"""grid of s^2"""
LENGTHS = (0.1, 0.2, 0.3, 0.5, 0.8, 1.3)
"""over which distances of the unit cube the noise of two trials is alike: the one that fits best is taken"""
MOST_ALIKE = 0.98
"""largest correlation that the noise of two trials trained independently is believed to have"""
HOPELESS = 4.0
"""standard errors behind the best trial from which on another one is no rival"""
MOST_TRIALS = 400
MOST_VALUES = 900
"""values of single folds that are modelled as such; beyond that each trial is one value"""
MOST_BLOCKS = 100
"""groups that are left out one at a time; where there are more, as many blocks of them"""
MOST_PAIRS = 20_000_000
"""cells of the table trials x positives x negatives up to which the interaction of DeLong's variance is taken out"""
Z95 = 1.959964


@dataclass(frozen=True)
class Search:
    """What one search has seen, on rows and folds that all its trials share."""

    p: Floats
    """(M, N, C) probabilities; NaN on the rows of folds that a trial did not finish"""
    candidates: NDArray[np.bool_] | None = None
    """(M,) trials that could be chosen; the others are their rivals only. None: all. What is not finished never is."""
    points: Floats | None = None
    """(M, D) where each trial lies in the unit cube of the searched keys, NaN where a key does not stand. None: not
    known, then any two trials are taken to be equally alike."""
    parents: NDArray[np.int64] | None = None
    """(M,) the trial, earlier in this list, whose fold models this one's started from; -1 for none. None: none did."""


@dataclass(frozen=True)
class _Fit:
    value: float
    variance: float
    weights: Floats
    """(M, K) by which the noise of each value enters the corrected one"""


def best_corrected(metric: str, y: Labels, fold: Labels, groups: NDArray[np.str_], search: Search) -> Interval:
    """The mean over folds of `metric` of the best candidate, corrected for the choice, with its 95% interval.

    y (N,) or (N, C), fold (N,), groups (N,). The best candidate is the one with the best mean over folds; with no rival
    nothing was chosen, and its value is the corrected one. NaN with a reason where the noise is not known:
    `no-complete-trial`, `too-few-groups` (in no fold can a group be left out) or `no-noise` (no value would differ with
    other patients: all are perfect). Raises RequestError for a metric that does not exist, ValueError for no trials.
    """
    found = _fit(metric, y, fold, groups, search)
    return found if isinstance(found, Interval) else _interval(metric, found.value, found.variance)


def corrected_difference(
    metric: str, y: Labels, fold: Labels, groups: NDArray[np.str_], a: Search, b: Search
) -> tuple[Interval, Interval, Interval]:
    """The best of search a, that of search b, and a minus b, each corrected as by `best_corrected`.

    Both on the same rows, so that the noise that they have in common is no part of the interval of the difference.
    `fold` is that of a; where b was divided otherwise, the same rows are looked at in the folds of a.
    """
    fits = [_fit(metric, y, fold, groups, one) for one in (a, b)]
    of = [one if isinstance(one, Interval) else _interval(metric, one.value, one.variance) for one in fits]
    left, right = fits
    if isinstance(left, Interval) or isinstance(right, Interval):
        reason = next(one.reason for one in of if one.reason)
        nothing = float("nan")
        return of[0], of[1], Interval(nothing, nothing, nothing, reason=reason)
    both = np.concatenate([a.p, b.p])
    shared = _noise(metric, y, fold, groups, both)
    cut = len(a.p)
    across = np.where(np.isfinite(shared), shared, 0.0)[:, :cut, cut:]
    common = float(np.einsum("tk,ktu,uk->", left.weights, across, right.weights))
    most = float(np.sqrt(left.variance * right.variance))
    variance = left.variance + right.variance - 2 * float(np.clip(common, -most, most))
    value, half = left.value - right.value, Z95 * float(np.sqrt(max(variance, 0.0)))
    return of[0], of[1], Interval(value, value - half, value + half)


def _interval(metric: str, value: float, variance: float) -> Interval:
    """Normal, cut at the ends of the metric's scale."""
    low, high = (0.0, 1.0) if require_metric(metric).higher_is_better else (0.0, np.inf)
    half = Z95 * float(np.sqrt(variance))
    lo, middle, hi = np.clip([value - half, value, value + half], low, high).tolist()
    return Interval(middle, lo, hi)


def _fit(metric: str, y: Labels, fold: Labels, groups: NDArray[np.str_], search: Search) -> _Fit | Interval:
    scored = require_metric(metric)
    p = np.asarray(search.p, dtype=np.float64)
    if not len(p):
        raise ValueError("there is no best of no trials")
    x = fold_values(metric, y, p, fold)
    may = np.asarray(np.isfinite(x).all(axis=1))
    may = may if search.candidates is None else may & search.candidates
    if not may.any():
        return _nothing("no-complete-trial")
    best = int(np.where(may, (1.0 if scored.higher_is_better else -1.0) * x.mean(axis=1), -np.inf).argmax())
    keep = _kept(np.asarray(np.isfinite(x).any(axis=1)), best, search.parents)
    x, p = x[keep], p[keep]
    points = None if search.points is None else search.points[keep]
    parents = np.full(len(x), -1) if search.parents is None else _renumbered(search.parents, keep)
    noise = _noise(metric, y, fold, groups, p)
    pooled = _pooled(noise)
    if not np.isfinite(np.diag(pooled)).any():
        return _nothing("too-few-groups")
    if not np.nanmean(np.diag(pooled)) > 1e-12:
        return _nothing("no-noise")
    place = int(np.flatnonzero(keep == best)[0])
    noise_of = _smoothed(pooled, points, parents)
    near = np.flatnonzero(_compete(x, noise_of, place, scored.higher_is_better) | _line_of(place, parents))
    x, pooled, keep = x[near], pooled[np.ix_(near, near)], keep[near]
    noise_of = _smoothed(pooled, None if points is None else points[near], _renumbered(parents, near))
    place = int(np.flatnonzero(keep == best)[0])
    expected, _, _ = _predict(x, noise_of, place)
    scale = _scale(metric, y, fold, expected, x)
    expected, variance, of_best = _predict(x, noise_of * np.outer(scale, scale), place)
    weights = np.zeros((len(search.p), x.shape[1]))
    weights[keep] = of_best
    return _Fit(float(expected[place]), variance, weights)


def _compete(x: Floats, noise: Floats, best: int, higher: bool) -> NDArray[np.bool_]:
    """(M,) whether a trial is less than HOPELESS standard errors behind the best one on the folds that it finished. The
    others could not have been chosen, and by how much they differ says nothing of how much those do that could."""
    seen = np.isfinite(x)
    count = seen.sum(axis=1)
    gap = np.where(seen, x[best] - x, 0.0).sum(axis=1) / count * (1.0 if higher else -1.0)
    spread = np.diag(noise) + noise[best, best] - 2 * noise[best]
    return np.asarray(gap <= HOPELESS * np.sqrt(np.maximum(spread, 0.0) / count))


def _line_of(trial: int, parents: NDArray[np.int64]) -> NDArray[np.bool_]:
    """(M,) the trial and those that it descends from."""
    found = np.zeros(len(parents), dtype=bool)
    while trial >= 0:
        found[trial] = True
        trial = int(parents[trial])
    return found


def _scale(metric: str, y: Labels, fold: Labels, expected: Floats, x: Floats) -> Floats:
    """(M,) by which a trial's standard error differs from the common one, because values near 1 vary less: the square
    root of what their variance at the expected value says (AUROC: Hanley and McNeil 1982), so half-way to it on the
    logarithm, since the expected value is itself uncertain. 1 for losses."""
    if not require_metric(metric).higher_is_better:
        return np.ones(len(x))
    a = np.clip(expected, np.nanmin(np.nanmean(x, axis=1)), np.nanmax(np.nanmean(x, axis=1)))
    a = np.clip(a, 0.01, 0.995)
    variance = a * (1 - a)
    if metric == "auroc" and y.ndim == 1:
        counts = np.bincount(y) / len(np.unique(fold))
        m, n = float(counts.min()), float(counts.max())
        a = np.maximum(a, 0.5)
        variance = a * (1 - a) + (m - 1) * (a / (2 - a) - a * a) + (n - 1) * (2 * a * a / (1 + a) - a * a)
    return np.asarray((variance / variance.mean()) ** 0.25)


def _nothing(reason: str) -> Interval:
    nothing = float("nan")
    return Interval(nothing, nothing, nothing, reason=reason)


def fold_values(metric: str, y: Labels, p: Floats, fold: Labels) -> Floats:
    """(M, K) the metric of each trial on each fold's rows; NaN where it is not defined or the fold not finished."""
    of = require_metric(metric).of
    parts = [np.flatnonzero(fold == k) for k in np.unique(fold)]
    return np.array([[float(of(y[part], one[part], None)[0]) for part in parts] for one in p]).reshape(len(p), -1)


def _kept(seen: NDArray[np.bool_], best: int, parents: NDArray[np.int64] | None) -> NDArray[np.int64]:
    """Trials with a value. Of more than MOST_TRIALS the best, those that it descends from, and an even spread."""
    rows = np.flatnonzero(seen)
    if len(rows) <= MOST_TRIALS:
        return rows
    chain = [best]
    while parents is not None and parents[chain[-1]] >= 0:
        chain.append(int(parents[chain[-1]]))
    spread = rows[np.arange(MOST_TRIALS) * len(rows) // MOST_TRIALS]
    return np.unique([*spread.tolist(), *chain])


def _renumbered(parents: NDArray[np.int64], keep: NDArray[np.int64]) -> NDArray[np.int64]:
    place = {int(old): new for new, old in enumerate(keep.tolist())}
    return np.array([place.get(int(parents[old]), -1) for old in keep.tolist()])


def _noise(metric: str, y: Labels, fold: Labels, groups: NDArray[np.str_], p: Floats) -> Floats:
    """(K, M, M) covariance over patients of the trials' values on each fold; NaN where it is not known."""
    folds = np.unique(fold)
    found = np.full((len(folds), len(p), len(p)), np.nan)
    two = metric == "auroc" and y.ndim == 1 and p.shape[2] == 2
    for place, k in enumerate(folds):
        part = np.flatnonzero(fold == k)
        seen = np.flatnonzero(np.isfinite(p[:, part]).all(axis=(1, 2)))
        if not len(seen):
            continue
        inside = p[np.ix_(seen, part)]
        if two:
            covariance = _auroc_noise(y[part] == 1, inside[:, :, 1], groups[part])
        else:
            covariance = _jackknife(metric, y[part], inside, groups[part])
        found[place][np.ix_(seen, seen)] = covariance
    return found


def _auroc_noise(positive: NDArray[np.bool_], scores: Floats, groups: NDArray[np.str_]) -> Floats:
    """(M, M) covariance of AUROCs. DeLong's estimate counts the interaction of positives and negatives twice, which
    in a fold of a few patients is a tenth of it; here it is counted once."""
    from harness.stats.paired import auroc_covariance

    _, covariance = auroc_covariance(positive, scores, groups)
    m, n = int(positive.sum()), int((~positive).sum())
    if not np.isfinite(covariance).all() or len(scores) * m * n > MOST_PAIRS:
        return covariance
    above, below = scores[:, positive, None], scores[:, None, ~positive]
    wins = (above > below) + 0.5 * (above == below)
    rest = wins - wins.mean(axis=2, keepdims=True) - wins.mean(axis=1, keepdims=True) + wins.mean((1, 2))[:, None, None]
    rows, columns = (_indicator(groups[part]) for part in (positive, ~positive))
    whole = (rows @ rest @ columns.T).reshape(len(scores), -1)
    g, h = len(rows), len(columns)
    twice = whole @ whole.T / (m * n) ** 2 * (g * h / ((g - 1) * (h - 1)))
    return np.asarray(covariance - twice)


def _indicator(groups: NDArray[np.str_]) -> Floats:
    """(G, N) 1 where a row is of a group."""
    names, of_row = np.unique(groups, return_inverse=True)
    return np.asarray(np.arange(len(names))[:, None] == of_row[None], dtype=np.float64)


def _jackknife(metric: str, y: Labels, p: Floats, groups: NDArray[np.str_]) -> Floats:
    """(M, M) covariance of a metric, by leaving out one group (or block of groups) at a time."""
    of = require_metric(metric).of
    names, of_row = np.unique(groups, return_inverse=True)
    blocks = min(len(names), MOST_BLOCKS)
    nothing = np.full((len(p), len(p)), np.nan)
    if blocks < 3:
        return nothing
    weights = (np.arange(blocks)[:, None] != (of_row % blocks)[None]).astype(np.float64)
    left = np.stack([of(y, one, weights) for one in p])
    left = left[:, np.isfinite(left).all(axis=0)]
    if left.shape[1] < 3:
        return nothing
    centred = left - left.mean(axis=1, keepdims=True)
    return np.asarray((blocks - 1) / left.shape[1] * centred @ centred.T)


def _pooled(noise: Floats) -> Floats:
    """(M, M) the mean over the folds that two trials have in common; NaN where they have none."""
    count = np.isfinite(noise).sum(axis=0)
    total = np.where(np.isfinite(noise), noise, 0.0).sum(axis=0)
    return np.asarray(np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0))


def _smoothed(pooled: Floats, points: Floats | None, parents: NDArray[np.int64]) -> Floats:
    """(M, M) the noise of one fold as it enters the model.

    With more trials than patients a sample covariance has directions in which there seems to be no noise, and least
    squares would build on them. So all trials have one variance, and the correlation of two trials is a function
    a + b exp(-d^2 / 2 l^2) of their distance d, fitted to the sample correlations of all pairs (a variogram, as in
    kriging). A trial that started from another's networks has its parent's noise, as far as their predictions agree.
    """
    spread = np.sqrt(np.where(np.diag(pooled) > 0, np.diag(pooled), np.nan))
    correlation = pooled / np.outer(spread, spread)
    trials = len(pooled)
    own = np.flatnonzero(parents < 0)
    square = np.zeros((trials, trials)) if points is None else _squared_distances(points)
    alike = _by_distance(correlation[np.ix_(own, own)], square[np.ix_(own, own)])
    smooth = np.eye(trials)
    smooth[np.ix_(own, own)] = alike
    for child in np.flatnonzero(parents >= 0).tolist():  # a parent stands before its children
        parent = int(parents[child])
        seen = correlation[child, parent]
        kinship = float(np.clip(seen, 0.0, 0.999)) if np.isfinite(seen) else MOST_ALIKE
        known = [*own[own < child].tolist(), *own[own > child].tolist()]
        known += [other for other in np.flatnonzero(parents >= 0).tolist() if other < child]
        smooth[child, known] = smooth[known, child] = kinship * smooth[parent, known]
    return np.asarray(float(np.nanmean(np.diag(pooled))) * smooth)


def _squared_distances(points: Floats) -> Floats:
    """(M, M) mean over the keys times their number; a key that stands in one of two trials only counts 1/4."""
    gap = np.square(points[:, None] - points[None])
    known = np.isfinite(points)
    missing = np.where(known[:, None] ^ known[None], 0.25, 0.0)
    return np.asarray(np.where(np.isfinite(gap), gap, missing).sum(axis=2))


def _by_distance(correlation: Floats, square: Floats) -> Floats:
    """(M, M) a + b exp(-square / 2 l^2) off the diagonal, fitted by least squares over a, b >= 0 and LENGTHS."""
    upper = np.triu_indices(len(correlation), 1)
    seen = np.isfinite(correlation[upper])
    r, d = np.clip(correlation[upper][seen], -0.95, 0.999), square[upper][seen]
    found = (np.inf, 1.0, 0.0, 0.0)
    for length in LENGTHS:
        near = np.exp(-d / (2 * length**2))
        a, b = _line(near, r)
        error = float(np.square(r - a - b * near).sum())
        if error < found[0] - 1e-12:
            found = (error, length, a, b)
    _, length, a, b = found
    smooth = a + b * np.exp(-square / (2 * length**2))
    np.fill_diagonal(smooth, 1.0)
    return np.asarray(smooth)


def _line(x: Floats, y: Floats) -> tuple[float, float]:
    """(a, b) of y = a + b x by least squares, kept to what correlations of noise can be."""
    if not len(y):
        return 0.5, 0.0
    spread = float(np.square(x - x.mean()).sum())
    b = float(((x - x.mean()) * (y - y.mean())).sum()) / spread if spread > 1e-9 else 0.0
    if b <= 0:
        return float(np.clip(y.mean(), 0.0, MOST_ALIKE)), 0.0
    a = float(np.clip(y.mean() - b * x.mean(), 0.0, MOST_ALIKE))
    return a, float(np.clip(b, 0.0, MOST_ALIKE - a))


def _predict(x: Floats, noise: Floats, best: int) -> tuple[Floats, float, Floats]:
    """Corrected values (M,) of all trials from values x (M, K) and the noise of one fold (M, M); of trial `best` also
    the variance and the weights (M, K) of every value in it.

    What was seen has covariance W + s^2 F: F is the noise of a mean over all K folds, W what the noise of single folds,
    or of the folds that a trial has finished, adds to it.
    """
    trials, folds = x.shape
    if trials == 1:
        return x.mean(axis=1), float(noise[0, 0] / folds), np.full(x.shape, 1 / folds)
    done = np.isfinite(x)
    trial, fold = np.nonzero(done)
    if done.all() or len(trial) > MOST_VALUES:
        trial, seen, of_fold = np.arange(trials), np.nanmean(x, axis=1), done / done.sum(axis=1, keepdims=True)
    else:
        seen, of_fold = x[trial, fold], np.eye(folds)[fold]
    full = noise / folds
    between = full[np.ix_(trial, trial)]
    within = noise[np.ix_(trial, trial)] * (of_fold @ of_fold.T) - between
    values, variances, chances, weights = [], [], [], []
    for s2 in SPREADS:
        lower = np.linalg.cholesky(within + s2 * between + 1e-6 * full[0, 0] * np.eye(len(seen)))
        solved = np.linalg.solve(lower, np.column_stack([np.ones(len(seen)), seen, (s2 - 1) * full[trial]]))
        a, r, c = solved[:, 0], solved[:, 1], solved[:, 2:]
        information = float(a @ a)
        middle = float(a @ r) / information
        left, own = r - a * middle, c[:, best]
        beyond = 1 - float(a @ own)
        values.append(middle + c.T @ left)
        variances.append(max(0.0, (s2 - 1) * full[best, best] - float(own @ own)) + beyond**2 / information)
        weights.append(np.linalg.solve(lower.T, own + a * beyond / information))
        likelihood = -float(np.log(np.diag(lower)).sum()) - 0.5 * float(np.log(information) + left @ left)
        chances.append(likelihood + 0.5 * float(np.log(s2)))
    chance = np.exp(np.array(chances) - max(chances))
    chance /= chance.sum()
    of_best = np.array(values)[:, best]
    variance = float(chance @ (np.array(variances) + np.square(of_best - chance @ of_best)))
    by_fold = np.zeros(x.shape)
    np.add.at(by_fold, trial, (chance @ np.array(weights))[:, None] * of_fold)
    return chance @ np.array(values), variance, by_fold
