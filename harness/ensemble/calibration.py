"""Make an ensemble's probabilities true: temperature, Platt's line or isotonic steps, chosen and fitted out of fold.

- temperature: softmax(log p / T), one T for all classes (Guo et al. 2017, "On calibration of modern neural networks");
- platt: a line through the log-odds, towards Platt's smoothed targets (Platt 1999);
- isotonic: steps that never fall (Zadrozny and Elkan 2002), towards the same smoothed targets, so that no row ever
  gets a flat 0 or 1;
- none: as they are.

With more than two classes the last two are fitted for each class against the rest, then scaled to sum to 1. In a
multi-label task each label has a map of its own, fitted on the rows whose answer is known. No map turns the order of
two rows of a two-class question around.

A map is scored on folds that it was not fitted on, by log-loss, and the simplest one is taken that is within one
standard error (of the paired difference, over groups) of the best: more freedom has to earn its place. Choosing is a
fit as well: the probabilities that `fit_calibration` gives back for a fold come from a map that was chosen AND fitted
without that fold. What is stored is plain numbers. Knows arrays only.

N: rows, C: classes.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.errors import RequestError
from harness.metrics import SMALLEST_PROBABILITY, UNKNOWN, logit, sigmoid, softmax
from harness.stats.logit_line import fit_line

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Map = dict[str, Any]
"""one fitted map as plain JSON: its `method` and its numbers"""
HALVES = 2
"""parts that a single fold is divided into, by group, to have something left out"""


@dataclass(frozen=True)
class Calibration:
    about: dict[str, Any]
    """what a bundle keeps: `multilabel`, `maps` (one, or one per label), `candidates` with their log-losses"""
    oof: Floats
    """(N, C) calibrated, each fold by a map chosen and fitted without it"""


def fit_calibration(oof: Floats, y: Ints, groups: NDArray[np.str_], fold: Ints, multilabel: bool) -> Calibration:
    """oof (N, C) leak-free probabilities; y (N,), or (N, C) of several labels; groups, fold (N,)."""
    if not multilabel:
        found, scores, nested = _fit_one(oof, y, groups, fold)
        return Calibration({"multilabel": False, "maps": [found], "candidates": [scores]}, nested)
    maps, candidates, calibrated = [], [], oof.copy()
    for c in range(oof.shape[1]):
        known = y[:, c] != UNKNOWN
        found, scores, nested = _fit_one(_pair(oof[known, c]), y[known, c], groups[known], fold[known])
        maps.append(found)
        candidates.append(scores)
        calibrated[known, c] = nested[:, 1]
        calibrated[~known, c] = apply_map(found, _pair(oof[~known, c]))[:, 1]
    return Calibration({"multilabel": True, "maps": maps, "candidates": candidates}, calibrated)


def apply(about: dict[str, Any] | None, p: Floats) -> Floats:
    """(n, C) calibrated probabilities of (n, C) raw ones; the same where a bundle has no calibration.

    Raises RequestError where the section is not one that `fit_calibration` wrote.
    """
    if about is None:
        return p
    try:
        maps, multilabel = about["maps"], about["multilabel"]
        if len(maps) != (p.shape[1] if multilabel else 1):
            raise ValueError(f"{len(maps)} maps for {p.shape[1]} classes")
        if not multilabel:
            return _distribution(apply_map(maps[0], p))
        columns = [apply_map(one, _pair(p[:, c]))[:, 1] for c, one in enumerate(maps)]
        return np.column_stack(columns)
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise RequestError(f"the bundle's calibration cannot be read ({error}). Build the ensemble again.") from error


def _distribution(p: Floats) -> Floats:
    if not (np.isfinite(p).all() and (p >= 0).all()):
        raise ValueError("it gives what is no probability")
    return p


def _pair(yes: Floats) -> Floats:
    """(n,) probabilities of yes -> (n, 2)."""
    return np.column_stack([1 - yes, yes])


def _fit_one(p: Floats, y: Ints, groups: NDArray[np.str_], fold: Ints) -> tuple[Map, list[dict[str, Any]], Floats]:
    """(the map fitted on all rows, every candidate's out-of-fold log-loss, (N, C) nested probabilities)."""
    parts = _parts(fold, groups)
    crossed = {method: _cross_fit(method, p, y, parts) for method in FITS}
    chosen = _simplest_good(crossed, y, groups)
    nested = np.full(p.shape, np.nan)
    for part in np.unique(parts):
        here = parts == part
        rest = ~here
        inner = _parts(parts[rest], groups[rest])
        inside = {method: _cross_fit(method, p[rest], y[rest], inner) for method in FITS}
        method = _simplest_good(inside, y[rest], groups[rest])
        nested[here] = apply_map(FITS[method](p[rest], y[rest]), p[here])
    scores = [
        {"method": method, "log_loss": float(_losses(q, y).mean()), "chosen": method == chosen}
        for method, q in crossed.items()
    ]
    return FITS[chosen](p, y), scores, nested


def _parts(fold: Ints, groups: NDArray[np.str_]) -> Ints:
    """The folds; where there is only one, two parts of whole groups."""
    if len(np.unique(fold)) > 1:
        return fold
    number = np.unique(groups, return_inverse=True)[1]
    return np.asarray(number % HALVES, dtype=np.int64)


def _cross_fit(method: str, p: Floats, y: Ints, parts: Ints) -> Floats:
    """(N, C) each part by a map fitted on the others."""
    out = np.full(p.shape, np.nan)
    for part in np.unique(parts):
        here = parts == part
        out[here] = apply_map(FITS[method](p[~here], y[~here]), p[here])
    return out


def _losses(p: Floats, y: Ints) -> Floats:
    """(N,) -log of the true class's probability."""
    return np.asarray(-np.log(np.clip(p[np.arange(len(y)), y], SMALLEST_PROBABILITY, 1.0)))


def _simplest_good(crossed: dict[str, Floats], y: Ints, groups: NDArray[np.str_]) -> str:
    """The first, in order of simplicity, whose loss exceeds the best by at most one standard error."""
    losses = {method: _losses(p, y) for method, p in crossed.items()}
    best = min(losses, key=lambda method: float(losses[method].mean()))
    _, of_row = np.unique(groups, return_inverse=True)
    for method, loss in losses.items():
        excess = loss - losses[best]
        mean = float(excess.mean())
        by_group = np.bincount(of_row, excess - mean)
        if mean <= np.sqrt((by_group**2).sum()) / len(y):
            return method
    return best


def _fit_none(p: Floats, y: Ints) -> Map:
    return {"method": "none"}


def _fit_temperature(p: Floats, y: Ints) -> Map:
    """The log-loss is convex in 1 / T. Bounds as in scikit-learn: T from e^-10 to e^10."""
    from scipy.optimize import minimize_scalar

    z = _log(p)
    own = z[np.arange(len(y)), y]

    def loss(log_beta: float) -> float:
        beta = np.exp(log_beta)
        return float(np.mean(_log_sum_exp(beta * z) - beta * own))

    found = minimize_scalar(loss, bounds=(-10.0, 10.0), method="bounded", options={"xatol": 1e-8})
    return {"method": "temperature", "temperature": float(np.exp(-found.x))}


def _fit_platt(p: Floats, y: Ints) -> Map:
    lines = []
    for c in _classes_asked(p):
        target = _smoothed(y == c)
        intercept, slope = fit_line(logit(p[:, c]), target)
        if not (np.isfinite(slope) and slope > 0):  # nothing to go by: the share of the class, whatever p is
            intercept, slope = float(logit(target.mean())), 0.0
        lines.append([intercept, slope])
    return {"method": "platt", "lines": lines}


def _fit_isotonic(p: Floats, y: Ints) -> Map:
    from sklearn.isotonic import IsotonicRegression

    steps = []
    for c in _classes_asked(p):
        fitted = IsotonicRegression(out_of_bounds="clip").fit(p[:, c], _smoothed(y == c))
        steps.append({"x": fitted.X_thresholds_.tolist(), "y": fitted.y_thresholds_.tolist()})
    return {"method": "isotonic", "steps": steps}


FITS: dict[str, Callable[[Floats, Ints], Map]] = {
    "none": _fit_none,
    "temperature": _fit_temperature,
    "platt": _fit_platt,
    "isotonic": _fit_isotonic,
}
"""from the simplest to the freest"""


def apply_map(found: Map, p: Floats) -> Floats:
    """(n, C) -> (n, C). Raises ValueError or KeyError where the numbers are none of a map."""
    method = found["method"]
    if method == "none":
        return p
    if method == "temperature":
        temperature = float(found["temperature"])
        if not 0 < temperature < np.inf:
            raise ValueError(f"temperature {temperature}")
        return softmax(_log(p) / temperature)
    if method not in FITS:
        raise ValueError(f"no such method {method!r}")
    asked = _classes_asked(p)
    parts = found["lines"] if method == "platt" else found["steps"]
    if len(parts) != len(asked):
        raise ValueError(f"{len(parts)} parts for {p.shape[1]} classes")
    bend = _on_line if method == "platt" else _on_steps
    bent = np.column_stack([bend(part, p[:, c]) for c, part in zip(asked, parts, strict=True)])
    return _pair(bent[:, 0]) if p.shape[1] == 2 else bent / bent.sum(axis=1, keepdims=True)


def _on_line(line: Any, p: Floats) -> Floats:
    intercept, slope = (float(number) for number in line)
    if not (np.isfinite(intercept) and 0 <= slope < np.inf):
        raise ValueError(f"line {line}")
    return sigmoid(intercept + slope * logit(p))


def _on_steps(steps: Any, p: Floats) -> Floats:
    x, y = (np.asarray(steps[name], dtype=np.float64) for name in ("x", "y"))
    if x.ndim != 1 or x.shape != y.shape or not len(x):
        raise ValueError("steps that are none")
    inside = np.isfinite(x).all() and ((y > 0) & (y < 1)).all()
    if not inside or (np.diff(x) < 0).any() or (np.diff(y) < 0).any():
        raise ValueError("steps that fall, or leave 0..1")
    return np.asarray(np.interp(p, x, y))


def _classes_asked(p: Floats) -> list[int]:
    """The classes that a map per class is fitted for: of two, the positive one says it all."""
    return [1] if p.shape[1] == 2 else list(range(p.shape[1]))


def _smoothed(positive: NDArray[np.bool_]) -> Floats:
    """(N,) Platt's targets: (n+ + 1) / (n+ + 2) for the positive rows, 1 / (n- + 2) for the others."""
    yes = int(positive.sum())
    no = len(positive) - yes
    return np.where(positive, (yes + 1.0) / (yes + 2.0), 1.0 / (no + 2.0))


def _log(p: Floats) -> Floats:
    return np.asarray(np.log(np.maximum(p, SMALLEST_PROBABILITY)))


def _log_sum_exp(z: Floats) -> Floats:
    top = z.max(axis=1)
    return np.asarray(top + np.log(np.exp(z - top[:, None]).sum(axis=1)))
