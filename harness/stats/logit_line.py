"""A straight line through log-odds: how predicted probabilities have to be bent to be true, and whether they must be.

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

from harness.metrics import logit, sigmoid
from harness.types import Interval

Floats = NDArray[np.float64]
STEPS = 100
FARTHEST = 1e3
"""a coefficient beyond this means that the classes are separated and no finite line is the best one"""
CONVERGED = 1e-15
"""of the mean log-likelihood, whose own rounding is 1e-16"""
Z = 1.959963984540054
"""97.5% quantile of the normal distribution"""


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
