"""Calibration measured: reliability bins, calibration error, Brier score, slope and intercept.

Are probabilities true? Of rows that were given .8, do eight of ten have it: bins, calibration error, Brier's parts.

Bins hold equally many rows each, equal probabilities always in one bin (Nguyen and O'Connor 2015; Roelofs et al. 2022
find such bins less biased than bins of equal width). Over bins b with share w_b of the rows and mean of y - p of r_b:

- ECE, sum of w_b |r_b| (Naeini et al. 2015), is above 0 for perfect probabilities too: what it would be by chance
  stands beside it, from the variance of r_b.
- The calibration error, root of the sum of w_b r_b^2, has that bias taken off (Broecker 2012; Kumar, Liang and Ma 2019)
  and so has an interval that may reach 0.
- Brier = reliability - resolution + uncertainty (Murphy 1973), reliability being the squared calibration error without
  its bias and resolution what remains, within-bin parts included (Stephenson et al. 2008), so that the sum is exact.

Intervals are group-bootstrap: rows of one group depend on each other. Knows arrays only.

N: rows, B: bins, R: replicates.

A straight line through log-odds: how predicted probabilities have to be bent to be true, and whether they must be.

logit P(y = 1) = intercept + slope * logit p. Intercept 0 and slope 1 say that p is calibrated in this sense; a slope
below 1 that p is too extreme, as of an overfitted model; above 1 too timid (Cox 1958, "Two further applications of a
model for binary regression"; Van Calster et al. 2019, "Calibration: the Achilles heel"). Calibration-in-the-large is
the intercept where the slope is held at 1: above 0, p is too low on average.

Intervals are Wald intervals with a sandwich variance that lets rows of one group depend on each other (Liang and
Zeger 1986). Knows arrays only.

N: rows.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from harness.metrics import UNKNOWN, logit, sigmoid
from harness.stats.intervals import Z, percentiles, share, weight_blocks
from harness.types import Interval

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

MOST_BINS = 10
ROWS_A_BIN = 10
"""fewer bins are made where they would hold fewer rows than this"""


@dataclass(frozen=True)
class Bin:
    n: int
    predicted: float
    """mean probability"""
    observed: Interval
    """share that has it"""


@dataclass(frozen=True)
class Reliability:
    of: str
    """the class, or `most probable class`"""
    n: int
    bins: tuple[Bin, ...]
    ece: float
    ece_by_chance: float
    """what ECE would be on average if every probability were true"""
    error: Interval
    """calibration error, root mean square, bias taken off"""
    brier: Interval
    reliability: Interval
    resolution: Interval
    uncertainty: Interval


def questions(
    y: Ints, p: Floats, classes: tuple[str, ...], multilabel: bool
) -> list[tuple[str, NDArray[np.int64], Ints, Floats]]:
    """(name, rows (n,), y (n,) 0 or 1, p (n,)) of each question that probabilities (N, C) answer by yes or no.

    Two classes: the positive one. More: whether the most probable class is the true one (Guo et al. 2017), then each
    class against the rest. Several labels: each, on the rows where its answer is known.
    """
    every = np.arange(len(y))
    if multilabel:
        known = [np.flatnonzero(y[:, c] != UNKNOWN) for c in range(len(classes))]
        return [(name, known[c], y[known[c], c], p[known[c], c]) for c, name in enumerate(classes)]
    if len(classes) == 2:
        return [(classes[1], every, (y == 1).astype(np.int64), p[:, 1])]
    top = p.argmax(axis=1)
    confidence = ("most probable class", every, (top == y).astype(np.int64), p[every, top])
    return [confidence, *((name, every, (y == c).astype(np.int64), p[:, c]) for c, name in enumerate(classes))]


def equal_mass_bins(p: Floats) -> Ints:
    """(N,) the bin of each row, 0..B-1: as equally filled as ties allow."""
    count = max(1, min(MOST_BINS, len(p) // ROWS_A_BIN))
    edges = np.unique(np.quantile(p, np.arange(1, count) / count, method="higher")) if len(p) else np.empty(0)
    of_row = np.searchsorted(edges, p, side="right")
    return np.unique(of_row, return_inverse=True)[1].astype(np.int64)


def reliability(of: str, y: Ints, p: Floats, groups: NDArray[np.str_], seed: int, reps: int = 1000) -> Reliability:
    """y (N,) 0 or 1, p (N,) probabilities of 1, groups (N,). Intervals are NaN below two groups."""
    bins = equal_mass_bins(p)
    residual = y - p
    one_hot = np.eye(int(bins.max()) + 1)[bins] if len(bins) else np.zeros((0, 1))
    n = one_hot.sum(axis=0)
    mean = one_hot.T @ residual / np.maximum(n, 1)
    variance = _variances(residual, bins, mean, groups)
    weight = n / max(len(y), 1)
    bias = float(weight @ variance)
    base, brier = float(y.mean()), float((residual**2).mean())
    squared = float(weight @ mean**2) - bias
    uncertainty = base * (1 - base)
    replicates = _replicates(y, residual, one_hot, groups, seed, reps)
    rel = replicates[0] - 2 * bias  # drawn again, the bins vary about what already varies: the bias counts twice
    return Reliability(
        of=of,
        n=len(y),
        bins=tuple(
            Bin(int(n[b]), float(p[bins == b].mean()), share(y[bins == b] == 1, groups[bins == b]))
            for b in range(len(n))
        ),
        ece=float(weight @ np.abs(mean)),
        ece_by_chance=float(weight @ np.sqrt(2 * variance / np.pi)),
        error=_rooted(_interval(squared, rel)),
        brier=_interval(brier, replicates[1]),
        reliability=_interval(squared, rel),
        resolution=_interval(squared + uncertainty - brier, rel + replicates[2] - replicates[1]),
        uncertainty=_interval(uncertainty, replicates[2]),
    )


def _variances(residual: Floats, bins: Ints, mean: Floats, groups: NDArray[np.str_]) -> Floats:
    """(B,) variance of each bin's mean residual, rows of one group taken together. A bin of one group has nothing to
    tell it from, and is given its own square: it counts as no evidence of error."""
    found = mean**2
    for b in range(len(mean)):
        inside = bins == b
        _, of_row = np.unique(groups[inside], return_inverse=True)
        sums = np.bincount(of_row, residual[inside] - mean[b])
        if len(sums) > 1:
            found[b] = len(sums) / (len(sums) - 1) * (sums**2).sum() / inside.sum() ** 2
    return np.asarray(found)


def _replicates(
    y: Ints, residual: Floats, one_hot: Floats, groups: NDArray[np.str_], seed: int, reps: int
) -> tuple[Floats, Floats, Floats]:
    """(R,) squared calibration error as it stands, Brier, uncertainty of each replicate."""
    parts: list[list[Floats]] = [[], [], []]
    if len(np.unique(groups)) < 2:
        nothing = np.full(1, np.nan)
        return nothing, nothing, nothing
    for w in weight_blocks(groups, reps, seed):
        total = w.sum(axis=1)
        n = w @ one_hot
        sums = w @ (one_hot * residual[:, None])
        parts[0].append(np.divide(sums**2, n, out=np.zeros_like(n), where=n > 0).sum(axis=1) / total)
        parts[1].append(w @ residual**2 / total)
        base = w @ y / total
        parts[2].append(base * (1 - base))
    squared, brier, uncertainty = (np.concatenate(part) for part in parts)
    return squared, brier, uncertainty


def _interval(value: float, replicates: Floats) -> Interval:
    lo, hi = percentiles(replicates)
    return Interval(value, lo, hi)


def _rooted(found: Interval) -> Interval:
    """The root, where what is below 0 by its correction counts as 0."""
    value, lo, hi = (float(np.sqrt(np.maximum(end, 0.0))) for end in (found.value, found.lo, found.hi))
    return Interval(value, lo, hi)


STEPS = 100
FARTHEST = 1e3
"""a coefficient beyond this means that the classes are separated and no finite line is the best one"""
CONVERGED = 1e-15
"""of the mean log-likelihood, whose own rounding is 1e-16"""


@dataclass(frozen=True)
class Line:
    """NaN where no finite line is the best: one class only, or classes that p separates without an error."""

    intercept: Interval
    slope: Interval
    in_the_large: Interval


def fit_line(x: Floats, target: Floats) -> tuple[float, float]:
    """(intercept, slope) of the logistic regression of targets in 0..1 (N,) on x (N,): the most likely ones.

    (NaN, NaN) where the likelihood has no maximum.
    """
    center = float(x.mean()) if len(x) else 0.0
    scale = float(x.std()) if len(x) else 0.0
    if scale == 0.0 or not 0.0 < target.mean() < 1.0:
        return float("nan"), float("nan")
    design = np.column_stack([np.ones(len(x)), (x - center) / scale])
    found = _newton(design, target, np.zeros(len(x)))
    if not np.isfinite(found).all():
        return float("nan"), float("nan")
    slope = float(found[1]) / scale
    return float(found[0]) - slope * center, slope


def calibration_line(y: NDArray[np.int64], p: Floats, groups: NDArray[np.str_]) -> Line:
    """y (N,) 0 or 1, p (N,) probabilities of 1, groups (N,)."""
    nothing = Interval(float("nan"), float("nan"), float("nan"))
    x = logit(p)
    intercept, slope = fit_line(x, y.astype(np.float64))
    if not np.isfinite(slope):
        return Line(nothing, nothing, _in_the_large(x, y, groups))
    design = np.column_stack([np.ones(len(x)), x])
    errors = _errors(design, y - sigmoid(intercept + slope * x), intercept + slope * x, groups)
    return Line(_wald(intercept, errors[0]), _wald(slope, errors[1]), _in_the_large(x, y, groups))


def _in_the_large(x: Floats, y: NDArray[np.int64], groups: NDArray[np.str_]) -> Interval:
    if not len(y) or not 0.0 < y.mean() < 1.0:
        return Interval(float("nan"), float("nan"), float("nan"))
    ones = np.ones((len(x), 1))
    value = float(_newton(ones, y.astype(np.float64), x)[0])
    if not np.isfinite(value):
        return Interval(float("nan"), float("nan"), float("nan"))
    return _wald(value, _errors(ones, y - sigmoid(value + x), value + x, groups)[0])


def _newton(design: Floats, target: Floats, offset: Floats) -> Floats:
    """(P,) coefficients of design (N, P) that maximise the likelihood; NaN where there is no maximum. Steps are
    halved until the likelihood rises, so that a far start does no harm.

    Converged is where a further step would raise the mean log-likelihood by less than CONVERGED (half of Newton's
    decrement): the likelihood itself cannot tell such steps from rounding.
    """
    beta = np.zeros(design.shape[1])
    loss = _loss(design @ beta + offset, target)
    for _ in range(STEPS):
        q = sigmoid(design @ beta + offset)
        gradient = design.T @ (target - q)
        curvature = (design * (q * (1 - q))[:, None]).T @ design
        step = np.linalg.lstsq(curvature, gradient, rcond=None)[0]
        if not np.isfinite(step).all():
            break
        if 0 <= float(gradient @ step) / (2 * len(target)) < CONVERGED:
            return beta
        size = 1.0
        while size > 1e-8 and not (new := _loss(design @ (beta + size * step) + offset, target)) <= loss:
            size /= 2
        if size <= 1e-8:
            return beta if np.abs(gradient).max() < 1e-6 * len(target) else np.full_like(beta, np.nan)
        beta, loss = beta + size * step, new
        if np.abs(beta).max() > FARTHEST or loss < 1e-7:
            break
    return np.full_like(beta, np.nan)


def _loss(z: Floats, target: Floats) -> float:
    """Mean negative log-likelihood of log-odds z."""
    return float(np.mean(np.logaddexp(0.0, z) - target * z))


def _errors(design: Floats, residual: Floats, z: Floats, groups: NDArray[np.str_]) -> Floats:
    """(P,) standard errors by the sandwich over groups; NaN below two groups."""
    _, of_row = np.unique(groups, return_inverse=True)
    count = int(of_row.max()) + 1
    if count < 2:
        return np.full(design.shape[1], np.nan)
    q = sigmoid(z)
    bread = np.linalg.pinv((design * (q * (1 - q))[:, None]).T @ design)
    scores = np.zeros((count, design.shape[1]))
    np.add.at(scores, of_row, design * residual[:, None])
    return np.asarray(np.sqrt(np.diag(bread @ (scores.T @ scores) @ bread) * count / (count - 1)))


def _wald(value: float, error: float) -> Interval:
    return Interval(value, value - Z * float(error), value + Z * float(error))
