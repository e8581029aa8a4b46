"""Uncertainty of an answer: confidence, disagreement, and the distance to the training images.

When to leave the answer to a person: how sure an ensemble is, how far its members are apart, and when it abstains.

Confidence is the probability of the most probable class (Geifman and El-Yaniv 2017 take the same), calibrated, as the
bundle answers. A development row is known to one fold model of each member, a new image to all, and the mean over the
folds has another distribution than one of them: so the quantiles are those of the development rows as they would be
deployed (calibration.Calibration.deployed).

An image is left unanswered when it is foreign (`reference`) or when its confidence is below a quantile of that of the
development rows, chosen so that a given share of these rows would be left in all.

n: rows, M: networks that are compared, K: folds, C: classes.

How far an image is from those that the networks learnt on: a Mahalanobis distance in each encoder's own space.

Lee et al. (2018): one mean per class and one covariance for all, an image's distance is that to the nearest mean. The
covariance is Ledoit and Wolf's (2004) shrunk one, for held-out rows are often fewer than dimensions, and of it only
DIRECTIONS directions are kept, the others share their mean variance: a few megabytes, and no image's embedding.

Leak-free: encoder (m, k) describes the rows of fold k, which it never saw, and each of these rows is measured by
statistics fitted without its group. What a new image is told is a percentile: the share of development rows that are
nearer. It is measured by all fold models of a member and the mean is taken, which varies less than the one distance of
a development row: false alarms are at most as many as the percentile says, and rather fewer.

n: rows, D: embedding size, C: classes, R: directions.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.errors import HarnessError, RequestError
from harness.metrics import UNKNOWN, Labels
from harness.numbering import by_appearance
from harness.seeds import derive_seed
from harness.store.arrays import pack, unpack

Floats = NDArray[np.float64]
FOREIGN = 0.99
"""percentile of the reference beyond which an image is foreign"""
SHARE = 0.05
"""of home images that are left unanswered, unless asked otherwise"""
COVERAGES = (1.0, 0.95, 0.9, 0.8, 0.7, 0.6, 0.5)
"""shares of answered rows that accuracy is given for"""
CONFIDENCE_QUANTILES = 1001
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
    if len(usual) > CONFIDENCE_QUANTILES:
        usual = np.quantile(usual, (np.arange(CONFIDENCE_QUANTILES) + 0.5) / CONFIDENCE_QUANTILES)
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


Encoder = tuple[int, int]
"""member and fold"""

DIRECTIONS = 64
PARTS = 10
"""parts of a fold's groups: each row is measured by statistics of the other parts"""
LEAST_ROWS = 8
"""held-out rows of an encoder below which nothing can be said of what is usual"""
LEAST_VARIANCE = 1e-4
"""along any direction, in mean variances: where rows do not vary at all, rounding would look foreign"""
DISTANCE_QUANTILES = 1001
"""quantiles of the development rows' distances that are kept at most"""


class NoReference(HarnessError):
    """There are too few rows, or none, to say from what is usual."""


@dataclass(frozen=True)
class HeldOut:
    """One encoder on development rows that it did not learn from."""

    encoder: Encoder
    rows: NDArray[np.int64]
    """(n,) places among the development rows"""
    embeddings: NDArray[np.float32]
    """(n, D)"""


@dataclass(frozen=True)
class Space:
    """What one encoder's embeddings usually are."""

    centres: Floats
    """(C, D) one per class that occurs; one for all in a multi-label task"""
    directions: Floats
    """(R, D) orthonormal"""
    variances: Floats
    """(R,) along them"""
    rest: float
    """variance along any other direction"""
    mean: float
    spread: float
    """of the log distance of held-out rows: what makes distances of several encoders comparable"""

    def distance(self, x: NDArray[np.floating]) -> Floats:
        """(n,) standardised log distance of embeddings (n, D) to the nearest centre."""
        logs = _log_distance(self.centres, self.directions, self.variances, self.rest, x)
        return np.asarray((logs - self.mean) / self.spread)


@dataclass(frozen=True)
class Reference:
    spaces: dict[Encoder, Space]
    usual: Floats
    """(Q,) rising: distances of development rows, each the mean over members"""
    rows: int
    """development rows behind it"""

    def distance(self, embed: Callable[[int, int], NDArray[np.floating]]) -> Floats:
        """(n,) mean over members and folds, from embeddings (n, D) by encoder."""
        return np.asarray(np.mean([space.distance(embed(m, k)) for (m, k), space in self.spaces.items()], axis=0))

    def percentile(self, distance: NDArray[np.floating]) -> Floats:
        """(n,) the share of development rows that are nearer, 0..1."""
        levels = (np.arange(len(self.usual)) + 0.5) / len(self.usual)
        return np.asarray(np.interp(distance, self.usual, levels, left=0.0, right=1.0))


def fit_reference(
    held_out: Sequence[HeldOut], classes: NDArray[np.int64], groups: NDArray[np.str_], seed: int
) -> tuple[Reference, Floats]:
    """(the reference, (N,) each development row's own percentile).

    classes (N,): each row's class, zeros in a multi-label task; groups (N,). Raises NoReference where an encoder has
    fewer than LEAST_ROWS held-out rows, or fewer than two groups of them.
    """
    spaces: dict[Encoder, Space] = {}
    total, count = np.zeros(len(classes)), np.zeros(len(classes))
    for one in held_out:
        x, y = one.embeddings.astype(np.float64), classes[one.rows]
        parts = _parts(groups[one.rows], derive_seed(seed, "reference", one.encoder[1]))
        if len(x) < LEAST_ROWS or len(np.unique(parts)) < 2:
            raise NoReference(
                f"fold {one.encoder[1]} has {len(x)} rows in {len(np.unique(parts))} groups: too few to say what a "
                f"usual image is. It takes {LEAST_ROWS} rows of two groups; build with --no-reference, or set fewer "
                "data.folds."
            )
        logs = np.empty(len(x))
        for part in np.unique(parts):
            logs[parts == part] = _log_distance(*_describe(x[parts != part], y[parts != part]), x[parts == part])
        mean, spread = float(logs.mean()), max(float(logs.std()), 1e-6)
        spaces[one.encoder] = Space(*_describe(x, y), mean, spread)
        total[one.rows] += (logs - mean) / spread
        count[one.rows] += 1
    if not count.all():
        raise NoReference(f"{int((count == 0).sum())} development rows were held out by no encoder of the reference.")
    distance = total / count
    usual = np.sort(distance)
    if len(usual) > DISTANCE_QUANTILES:
        usual = np.quantile(usual, (np.arange(DISTANCE_QUANTILES) + 0.5) / DISTANCE_QUANTILES)
    reference = Reference(spaces, usual, len(distance))
    return reference, reference.percentile(distance)


def _parts(groups: NDArray[np.str_], seed: int) -> NDArray[np.int64]:
    """(n,) which of up to PARTS parts a row's group is in."""
    place = by_appearance(groups)
    count = int(place.max(initial=-1)) + 1
    order = np.random.default_rng(seed).permutation(count)
    return np.asarray((order % min(PARTS, count))[place], dtype=np.int64)


def _describe(x: Floats, classes: NDArray[np.int64]) -> tuple[Floats, Floats, Floats, float]:
    """Centres, directions, variances, rest: Ledoit and Wolf's covariance about the class means, cut to DIRECTIONS."""
    from sklearn.covariance import ledoit_wolf_shrinkage

    names, place = np.unique(classes, return_inverse=True)
    centres = np.stack([x[classes == name].mean(axis=0) for name in names])
    centred = x - centres[place.ravel()]
    size = centred.shape[1]
    _, singular, directions = np.linalg.svd(centred, full_matrices=False)
    variances = singular**2 / len(x)
    average = float(variances.sum()) / size
    if average <= 0:
        raise NoReference("an encoder gives every held-out image the same embedding: it learnt nothing.")
    shrunk = float(ledoit_wolf_shrinkage(centred, assume_centered=True))
    kept = min(DIRECTIONS, int((variances > 1e-12 * variances[0]).sum()))
    left = (1 - shrunk) * float(variances[kept:].sum()) + shrunk * average * (size - kept)
    rest = max(left / (size - kept), LEAST_VARIANCE * average) if kept < size else average  # no other direction
    kept_variances = np.maximum((1 - shrunk) * variances[:kept] + shrunk * average, LEAST_VARIANCE * average)
    # rounded as they will be kept, so that a bundle measures with the very numbers that its percentiles come from
    return _rounded(centres), _rounded(directions[:kept]), kept_variances, rest


def _rounded(x: Floats) -> Floats:
    return x.astype(np.float32).astype(np.float64)


def _log_distance(centres: Floats, directions: Floats, variances: Floats, rest: float, x: NDArray[Any]) -> Floats:
    """(n,) log of the squared Mahalanobis distance to the nearest centre."""
    nearest = np.full(len(x), np.inf)
    for centre in centres:
        apart = x.astype(np.float64) - centre
        along = apart @ directions.T
        beside = np.maximum((apart**2).sum(axis=1) - (along**2).sum(axis=1), 0.0)
        nearest = np.minimum(nearest, (along**2 / variances).sum(axis=1) + beside / rest)
    return np.asarray(np.log(np.maximum(nearest, 1e-12)))


def reference_file(reference: Reference) -> bytes:
    """Arrays without pickle; the spaces in single precision."""
    arrays: dict[str, NDArray[Any]] = {"usual": reference.usual, "rows": np.array(reference.rows)}
    for (m, k), space in reference.spaces.items():
        arrays |= {
            f"{m}_{k}_centres": space.centres.astype(np.float32),
            f"{m}_{k}_directions": space.directions.astype(np.float32),
            f"{m}_{k}_variances": space.variances,
            f"{m}_{k}_scale": np.array([space.rest, space.mean, space.spread]),
        }
    return pack(arrays)


def read_reference(data: bytes, what: str) -> Reference:
    """Raises RequestError when the bytes are no such file."""
    arrays = unpack(data, what)
    try:
        encoders = [
            (int(m), int(k)) for m, k, part in (name.split("_") for name in arrays if "_" in name) if part == "scale"
        ]
        spaces = {}
        for m, k in encoders:
            centres, directions, variances, scale = (
                np.asarray(arrays[f"{m}_{k}_{part}"], dtype=np.float64)
                for part in ("centres", "directions", "variances", "scale")
            )
            shapes = centres.ndim == 2, directions.shape == (len(variances), centres.shape[1]), scale.shape == (3,)
            if not all(shapes) or not (variances > 0).all() or not (scale[[0, 2]] > 0).all():
                raise ValueError(f"the space of encoder {m}, {k}")
            spaces[m, k] = Space(centres, directions, variances, *scale.tolist())
        usual = np.asarray(arrays["usual"], dtype=np.float64)
        if not spaces or usual.ndim != 1 or not len(usual) or not (np.diff(usual) >= 0).all():
            raise ValueError("its distances of development rows")
        return Reference(spaces, usual, int(arrays["rows"].item()))
    except (KeyError, ValueError, TypeError, IndexError) as error:
        raise RequestError(f"{what} does not fit together ({error}). Build the ensemble again.") from error
