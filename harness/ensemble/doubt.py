"""When to leave the answer to a person: how sure an ensemble is, how far its members are apart, and when it abstains.

Confidence is the probability of the most probable class (Geifman and El-Yaniv 2017 take the same) in the plain mean of
the members, not calibrated, whatever the method makes of them. A development row is known to one fold model of each
member, a new image to all: so its confidence is taken fold by fold and then averaged. (That of the mean over the folds
would be lower, for a mean is less extreme, and more images would be left unanswered than were promised.)

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


def confidence_by_fold(p: Sequence[Sequence[Floats]], multilabel: bool) -> Floats:
    """(n,) mean over K folds of the confidence of the mean of their M members; p: for each fold M arrays (n, C)."""
    return np.asarray(np.mean([confidence(np.mean(fold, axis=0), multilabel) for fold in p], axis=0))


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


def describe_doubt(sure: Floats, oof: Floats, y: Labels, percentile: Floats | None) -> dict[str, Any]:
    """Of development rows, as plain numbers for the bundle: quantiles of confidence, the share of foreign rows, and the
    accuracy among the rows that are answered.

    sure (N,) confidence; oof (N, C) nested out-of-fold probabilities; y (N,) or (N, C); percentile (N,) of each row's
    own distance, None where there is no reference.
    """
    foreign = np.zeros(len(sure), dtype=bool) if percentile is None else percentile > FOREIGN
    usual = np.sort(sure[~foreign])
    if len(usual) > GRID:
        usual = np.quantile(usual, (np.arange(GRID) + 0.5) / GRID)
    right = _right(oof, y)
    order = np.lexsort((-sure, foreign))
    curve = []
    for coverage in COVERAGES:
        answered = order[: max(1, round(coverage * len(order)))]
        curve.append({"coverage": len(answered) / len(order), "accuracy": float(np.nanmean(right[answered]))})
    return {"confidence": usual.tolist(), "foreign": float(foreign.mean()), "curve": curve, "rows": len(sure)}


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
