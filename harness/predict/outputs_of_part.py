"""What a bundle says of some decoded images: probabilities over views, members' disagreement, distance to usual images.

n: images, M: members, K: folds, C: classes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from harness.calibration.maps import answer
from harness.calibration.uncertainty import Reference, confidence, disagreement
from harness.ensemble.bundle import Bundle, BundleOutputs, outputs_of_bundle
from harness.errors import RequestError
from harness.images.pixels import Pixels
from harness.metrics import probabilities
from harness.predict.augmented import View, seen
from harness.types import Progress

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class PartOutputs:
    probabilities: Floats
    """(n, C) not calibrated, mean over the views"""
    calibrated: Floats
    """(n, C) what the bundle answers, mean over the views"""
    confidence: Floats
    """(n,) of what the bundle answers of the image as it is"""
    disagreement: Floats
    """(n,) of the image as it is; NaN where there is one network only"""
    percentile: Floats
    """(n,) share of development rows that are more usual, of the image as it is; NaN without a reference"""


def outputs_of_part(
    bundle: Bundle,
    pixels: Sequence[Pixels],
    views: Sequence[View],
    reference: Reference | None,
    device: str,
    counted: Callable[[int], Progress | None],
) -> PartOutputs:
    """`pixels`: the images once for each decoding; `views`: the first is the image as it is."""
    first = outputs_of_bundle(bundle, pixels, device, counted(0), embeddings=reference is not None)
    about = bundle.about.get("calibration")
    as_it_is = answer(about, first.each)
    total, answered = first.probabilities.copy(), as_it_is.copy()
    for number, view in enumerate(views[1:], start=1):
        turned = [seen(one, view) for one in pixels]
        other = outputs_of_bundle(bundle, turned, device, counted(number))
        total += other.probabilities
        answered += answer(about, other.each)
    p = _by_fold(bundle, first)
    return PartOutputs(
        probabilities=total / len(views),
        calibrated=answered / len(views),
        confidence=confidence(as_it_is, bundle.multilabel),
        disagreement=_disagreement(p, bundle.multilabel),
        percentile=_percentile(bundle, first, reference),
    )


def _by_fold(bundle: Bundle, out: BundleOutputs) -> list[list[Floats]]:
    """For each of K folds, probabilities (n, C) by the M members' networks that held it out."""
    p = [[probabilities(logits, bundle.multilabel) for logits in member] for member in out.logits]
    return [[member[k] for member in p] for k in range(len(p[0]))]


def _disagreement(p: list[list[Floats]], multilabel: bool) -> Floats:
    """Between the members' networks of one fold, mean over the folds, as development rows saw them; of a bundle with
    one member between its networks."""
    if len(p[0]) == 1:
        return disagreement([fold[0] for fold in p], multilabel)
    return np.asarray(np.mean([disagreement(fold, multilabel) for fold in p], axis=0))


def _percentile(bundle: Bundle, out: BundleOutputs, reference: Reference | None) -> Floats:
    if reference is None:
        return np.full(len(out.probabilities), np.nan)
    try:
        return reference.percentile(reference.distance(lambda m, k: out.embeddings[m, k]))
    except (ValueError, KeyError) as error:
        raise RequestError(
            f"{bundle.path}: its reference does not fit its networks ({error}). Build the ensemble again."
        ) from error


def joined(parts: Sequence[PartOutputs], classes: int) -> PartOutputs:
    """The images of all parts, in their order."""
    if not parts:
        nothing = np.empty((0, classes))
        return PartOutputs(nothing, nothing, np.empty(0), np.empty(0), np.empty(0))
    return PartOutputs(
        *(
            np.concatenate([getattr(part, name) for part in parts])
            for name in ("probabilities", "calibrated", "confidence", "disagreement", "percentile")
        )
    )
