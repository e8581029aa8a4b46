"""Make an ensemble's probabilities true: temperature, Platt's line or isotonic steps, chosen and fitted out of fold.

- temperature: softmax(log p / T), one T for all classes (Guo et al. 2017, "On calibration of modern neural networks");
- platt: a line through the log-odds, towards Platt's smoothed targets (Platt 1999);
- isotonic: steps that never fall (Zadrozny and Elkan 2002), towards the same smoothed targets, so that no row ever
  gets a flat 0 or 1;
- none: as they are.

With more than two classes the last two are fitted for each class against the rest, then scaled to sum to 1. In a
multi-label task each label has a map of its own, fitted on the rows whose answer is known. No map turns the order of
two rows of a two-class question around.

Two maps, one behind the other. The first is fitted on out-of-fold probabilities, each row's by one fold index, and acts
on the probabilities of one fold index. Then they are averaged, and a mean of calibrated probabilities is not
calibrated: it is too timid (Ranjan and Gneiting 2010), the more so the less alike the fold models are. The second map,
a line through the log-odds (more than two classes: one temperature), is fitted on development rows as they would be
deployed (deployed.py). Where nothing tells how that is, there is no second map, and the section says so.

A map is scored on folds that it was not fitted on, by log-loss, and the simplest one is taken that is within one
standard error (of the paired difference, over groups) of the best: more freedom has to earn its place. Choosing is a
fit as well: the probabilities that `fit_calibration` gives back for a fold come from a map that was chosen AND fitted
without that fold. What is stored is plain numbers. Knows arrays only.

N: rows, C: classes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.calibration.deployed import as_deployed, merged
from harness.errors import RequestError
from harness.metrics import SMALLEST_PROBABILITY, UNKNOWN, logit, sigmoid, softmax
from harness.stats.calibration import fit_line

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Map = dict[str, Any]
"""one fitted map as plain JSON: its `method` and its numbers"""
FULL, UNSEEN, FOLD_MODELS = "nested_full", "held-out images", "fold models"
"""what the map of the mean was fitted on"""
FEW_ROWS = 10
"""held-out images below which they are not asked how alike the fold models are"""
HALVES = 2
"""parts that a single fold is divided into, by group, to have something left out"""


@dataclass(frozen=True)
class Calibration:
    about: dict[str, Any]
    """what a bundle keeps: `multilabel`; `maps` (one, or one per label), of the probabilities of one fold index;
    `after` (as many), of their mean; `candidates` with their log-losses; `fitted_on`, `reason`: see fit_calibration"""
    oof: Floats
    """(N, C) calibrated, each fold by a map chosen and fitted without it: of ONE network of each member"""
    others: dict[int, Floats]
    """for each part that `oof` was made in, (N, C) the calibrated probabilities of the other rows, from which that
    part's labels were left out, too; NaN in the part"""
    parts: Ints
    """(N,) the part of each row: its fold"""
    deployed: Floats
    """(N, C) calibrated development probabilities as they would be deployed: what thresholds and confidence are fitted
    on. Of the distribution, not of the single row: no score is made of it (deployed.as_deployed)"""


def fit_calibration(
    oof: Floats,
    y: Ints,
    groups: NDArray[np.str_],
    fold: Ints,
    multilabel: bool,
    unseen: Floats | None = None,
    rest: Sequence[Floats] | None = None,
    full: Floats | None = None,
    judged: Floats | None = None,
) -> Calibration:
    """oof (N, C) leak-free probabilities by one fold index; y (N,), or (N, C) of several labels; groups, fold (N,).

    What tells how the mean over K fold indices differs from one (`fitted_on`): full (J, N, C), the development rows by
    J networks, or fold indices, that never saw them (`nested_full`); otherwise unseen (K, T, C), rows that no network
    trained on, of which no label is known here (`held-out images`); otherwise nothing does (`fold models`, and `reason`
    is `no-held-out-rows`, `few-held-out-rows`, or `one-network` where no fold indices are averaged).

    rest: for each fold, (N, C) the other folds' rows by fits that read no label of it either; without it those of
    `oof` are taken, which is the same for methods that are not fitted on out-of-fold predictions. judged: (N, C) what
    is calibrated in place of `oof` where the result's `oof` is made, such as predictions by members that were chosen
    without the row's fold.
    """
    fitted_on, reason = _basis(unseen, full)
    unseen, full = (unseen if fitted_on == UNSEEN else None), (full if fitted_on == FULL else None)
    if not multilabel:
        one = _fit_one(oof, y, groups, fold, unseen, rest, full, judged)
        about = {"maps": [one.map], "after": [one.after], "candidates": [one.candidates]}
        return Calibration(_about(False, about, fitted_on, reason), one.nested, one.others, one.parts, one.deployed)
    maps, after, candidates = [], [], []
    calibrated, deployed, parts = oof.copy(), oof.copy(), _parts(fold, groups)
    of_parts = {int(name): np.where((parts == name)[:, None], np.nan, oof) for name in np.unique(parts)}
    for c in range(oof.shape[1]):
        known = y[:, c] != UNKNOWN
        one = _fit_one(
            _pair(oof[known, c]),
            y[known, c],
            groups[known],
            parts[known],
            None if unseen is None else _pair(unseen[..., c]),
            None if rest is None else [_pair(other[known, c]) for other in rest],
            None if full is None else _pair(full[:, known, c]),
            None if judged is None else _pair(judged[known, c]),
        )
        maps.append(one.map)
        after.append(one.after)
        candidates.append(one.candidates)
        calibrated[known, c] = one.nested[:, 1]
        calibrated[~known, c] = apply_map(one.map, _pair((oof if judged is None else judged)[~known, c]))[:, 1]
        deployed[known, c] = one.deployed[:, 1]
        deployed[~known, c] = apply_map(one.after, apply_map(one.map, _pair(oof[~known, c])))[:, 1]
        for name, other in one.others.items():
            of_parts[name][known, c] = other[:, 1]
    about = {"maps": maps, "after": after, "candidates": candidates}
    return Calibration(_about(True, about, fitted_on, reason), calibrated, of_parts, parts, deployed)


def _basis(unseen: Floats | None, full: Floats | None) -> tuple[str, str]:
    """(`fitted_on`, `reason`)"""
    if full is not None:
        return FULL, ""
    if unseen is not None and len(unseen) == 1:
        return FOLD_MODELS, "one-network"
    if unseen is None or not unseen.shape[1]:
        return FOLD_MODELS, "no-held-out-rows"
    return (FOLD_MODELS, "few-held-out-rows") if unseen.shape[1] < FEW_ROWS else (UNSEEN, "")


def _about(multilabel: bool, fits: dict[str, Any], fitted_on: str, reason: str) -> dict[str, Any]:
    return {"multilabel": multilabel, **fits, "fitted_on": fitted_on, "reason": reason}


def fit_after(
    about: dict[str, Any], oof: Floats, y: Ints, unseen: Floats | None, full: Floats | None = None
) -> tuple[dict[str, Any], Floats]:
    """The section with the maps of the mean fitted again, on other `unseen` rows (K, T, C) or on `full` (J, N, C), and
    the development rows as they would be deployed with it (see Calibration.deployed)."""
    multilabel = bool(about["multilabel"])
    after, deployed = [], oof.copy()
    for c, found in enumerate(about["maps"]):
        known = y[:, c] != UNKNOWN if multilabel else np.ones(len(y), dtype=bool)
        if not multilabel:
            own, deployed = _after(found, oof, y, unseen, full)
        else:
            seen = None if unseen is None else _pair(unseen[..., c])
            of_rows = None if full is None else _pair(full[:, known, c])
            own, like = _after(found, _pair(oof[known, c]), y[known, c], seen, of_rows)
            deployed[known, c] = like[:, 1]
        after.append(own)
    return {**about, "after": after}, deployed


def apply(about: dict[str, Any] | None, p: Floats) -> Floats:
    """(n, C) calibrated probabilities of (n, C) raw ones of ONE fold index; the same where a bundle has no calibration.

    Raises RequestError where the section is not one that `fit_calibration` wrote.
    """
    return p if about is None else _mapped(about, "maps", p)


def answer(about: dict[str, Any] | None, each: Floats) -> Floats:
    """(n, C) what a bundle answers, from the raw probabilities (K, n, C) of every fold index: the maps act on the
    distribution that they were fitted on, the probabilities of one fold index; the mean over the fold indices is what
    it averages, and the map of the mean acts on that. The plain mean where a bundle has no calibration.

    Raises RequestError where the section is not one that `fit_calibration` wrote.
    """
    if about is None:
        return np.asarray(each.mean(axis=0))
    try:
        parts = merged(each, about.get("parts"))
    except (TypeError, ValueError, IndexError) as error:
        raise RequestError(f"the bundle's calibration cannot be read ({error}). Build the ensemble again.") from error
    return _mapped(about, "after", np.mean([_mapped(about, "maps", p) for p in parts], axis=0))


def _mapped(about: dict[str, Any], key: str, p: Floats) -> Floats:
    try:
        maps, multilabel = about[key], about["multilabel"]
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
    """(...) probabilities of yes -> (..., 2)."""
    return np.stack([1 - yes, yes], axis=-1)


@dataclass(frozen=True)
class _One:
    """What is fitted to one question."""

    map: Map
    after: Map
    candidates: list[dict[str, Any]]
    nested: Floats
    others: dict[int, Floats]
    parts: Ints
    deployed: Floats


def _fit_one(
    p: Floats,
    y: Ints,
    groups: NDArray[np.str_],
    fold: Ints,
    unseen: Floats | None = None,
    rest: Sequence[Floats] | None = None,
    full: Floats | None = None,
    judged: Floats | None = None,
) -> _One:
    parts = _parts(fold, groups)
    found, scores = choose_map(p, y, groups, parts)
    scored = p if judged is None else judged
    nested, others = np.full(p.shape, np.nan), {}
    for part in np.unique(parts):
        here = parts == part
        out = ~here
        known = p[out] if rest is None or len(np.unique(fold)) < 2 else rest[int(part)][out]
        own, _ = choose_map(known, y[out], groups[out], _parts(parts[out], groups[out]))
        other = apply_map(own, known)
        if full is None:
            nested[here] = apply_map(own, scored[here])
        else:  # as deployed: how alike the networks are is asked of this part's rows, whose labels have no say
            each = np.stack([apply_map(own, one) for one in full[:, here]])
            after, other = _after(own, known, y[out], each, None, mapped=True)
            nested[here] = apply_map(after, each.mean(axis=0))
        others[int(part)] = np.full(p.shape, np.nan)
        others[int(part)][out] = other
    after, deployed = _after(found, p, y, unseen, full)
    return _One(found, after, scores, nested, others, parts, deployed)


def choose_map(p: Floats, y: Ints, groups: NDArray[np.str_], fold: Ints) -> tuple[Map, list[dict[str, Any]]]:
    """(the map fitted on all rows, every candidate's log-loss on folds that it was not fitted on), for one question of
    y (N,) and p (N, C)."""
    crossed = {method: _cross_fit(method, p, y, fold) for method in FITS}
    chosen = _simplest_good(crossed, y, groups)
    scores = [
        {"method": method, "log_loss": float(_losses(q, y).mean()), "chosen": method == chosen}
        for method, q in crossed.items()
    ]
    return FITS[chosen](p, y), scores


def _after(
    found: Map, p: Floats, y: Ints, unseen: Floats | None, full: Floats | None, mapped: bool = False
) -> tuple[Map, Floats]:
    """(the map of the mean over fold indices, (N, C) development probabilities as deployed and calibrated by it).
    mapped: whether `found` has been applied to `unseen` already."""
    if full is not None:
        spread = np.mean([apply_map(found, one) for one in full], axis=0)
    elif unseen is not None and len(unseen) > 1:
        each = unseen if mapped else np.stack([apply_map(found, one) for one in unseen])
        spread = as_deployed(apply_map(found, p), y, each)
    else:
        return {"method": "none"}, apply_map(found, p)
    after = FITS["platt" if p.shape[1] == 2 else "temperature"](spread, y)
    return after, apply_map(after, spread)


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
