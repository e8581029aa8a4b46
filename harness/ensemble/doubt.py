"""When to leave the answer to a person: how sure an ensemble is, how far its members are apart, and when it abstains.

Confidence is the probability of the most probable class (Geifman and El-Yaniv 2017 take the same), calibrated, as the
bundle answers. A development row is known to one fold model of each member, a new image to all, and the mean over the
folds has another distribution than one of them: so the quantiles are those of the development rows as they would be
deployed (calibration.Calibration.deployed).

An image is left unanswered when it is foreign (`reference`) or when its confidence is below a quantile of that of the
development rows, chosen so that a given share of these rows would be left in all.

n: rows, M: networks that are compared, K: folds, C: classes.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.metrics import UNKNOWN, Labels

Floats = NDArray[np.float64]
FOREIGN = 0.99
"""percentile of the reference beyond which an image is foreign"""
SHARE = 0.05
"""of home images that are left unanswered, unless asked otherwise"""
COVERAGES = (1.0, 0.95, 0.9, 0.8, 0.7, 0.6, 0.5)
"""shares of answered rows that accuracy is given for"""
GRID = 1001
"""quantiles of confidence that are kept at most"""


def confidence(p: Floats, multilabel: bool) -> Floats:
    """(n,) of probabilities (n, C): the largest; of a multi-label task the least sure answer's."""
    return np.asarray(np.maximum(p, 1 - p).min(axis=1) if multilabel else p.max(axis=1))


def disagreement(p: Sequence[Floats], multilabel: bool) -> Floats:
    """(n,) 0: all say the same, 1: as far apart as can be; from M arrays (n, C). NaN where there is one array only.

    The generalised Jensen-Shannon divergence (Lin 1991): the entropy of the mean less the mean entropy, the part of
    the doubt that comes from not knowing which network is right (Depeweg et al. 2018; the disagreement of
    et al. 2017), over its largest value log min(M, C). Of a multi-label task the mean over the labels.
    """
    if len(p) < 2:
        return np.full(len(p[0]), np.nan)
    stacked = np.stack(p)
    if multilabel:
        stacked = np.stack([stacked, 1 - stacked], axis=-1)
    apart = _entropy(stacked.mean(axis=0)) - _entropy(stacked).mean(axis=0)
    share = np.clip(apart / np.log(min(len(p), stacked.shape[-1])), 0.0, 1.0)
    return np.asarray(share.mean(axis=1) if multilabel else share)


def _entropy(p: Floats) -> Floats:
    """Along the last axis, in nats; 0 log 0 is 0."""
    return np.asarray(-(p * np.log(np.where(p > 0, p, 1.0))).sum(axis=-1))


def describe_doubt(sure: Floats, percentile: Floats | None) -> dict[str, Any]:
    """Of development rows, as plain numbers for the bundle: quantiles of confidence and the share of foreign rows.

    sure (N,) confidence, as deployed; percentile (N,) of each row's own distance, None where there is no reference.
    """
    foreign = np.zeros(len(sure), dtype=bool) if percentile is None else percentile > FOREIGN
    usual = np.sort(sure[~foreign])
    if len(usual) > GRID:
        usual = np.quantile(usual, (np.arange(GRID) + 0.5) / GRID)
    return {"confidence": usual.tolist(), "foreign": float(foreign.mean()), "rows": len(sure)}


def coverage_curve(p: Floats, y: Labels, percentile: Floats | None = None) -> list[dict[str, float]]:
    """Accuracy among the rows that are answered where the surest `coverage` of them are, foreign ones last.

    p (n, C) calibrated probabilities; y (n,) or (n, C).
    """
    if not len(p):
        return []
    sure = confidence(p, y.ndim == 2)
    foreign = np.zeros(len(sure), dtype=bool) if percentile is None else percentile > FOREIGN
    right = _right(p, y)
    order = np.lexsort((-sure, foreign))
    curve = []
    for coverage in COVERAGES:
        answered = order[: max(1, round(coverage * len(order)))]
        curve.append({"coverage": len(answered) / len(order), "accuracy": float(np.nanmean(right[answered]))})
    return curve


def _right(p: Floats, y: Labels) -> Floats:
    """(n,) 1 where the answer is right; of a multi-label task the share of known answers that are, NaN for none."""
    if y.ndim == 1:
        return np.asarray(p.argmax(axis=1) == y, dtype=np.float64)
    known = y != UNKNOWN
    hits = (((p >= 0.5) == (y == 1)) & known).sum(axis=1)
    return np.asarray(np.where(known.any(axis=1), hits / np.maximum(known.sum(axis=1), 1), np.nan))


def least_confidence(about: dict[str, Any], share: float) -> float:
    """The confidence below which a row is left, so that `share` of the development rows are left, foreign ones
    included; 0 where the foreign ones alone are as many."""
    foreign, usual = float(about["foreign"]), np.asarray(about["confidence"], dtype=np.float64)
    wanted = (share - foreign) / max(1 - foreign, 1e-9)
    if wanted <= 0 or not len(usual):
        return 0.0
    return float(np.quantile(usual, min(wanted, 1.0)))


def abstains(sure: Floats, percentile: Floats | None, about: dict[str, Any], share: float = SHARE) -> NDArray[np.bool_]:
    """(n,) which rows are left unanswered, from their confidence and percentiles."""
    left = sure < least_confidence(about, share)
    return np.asarray(left if percentile is None else left | (percentile > FOREIGN))
