"""From raw outputs to answers: calibrated, decided, left to a person where there is doubt; per image or per series.

n: images or series, C: classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from harness.calibration.operating_points import Unit, decide
from harness.calibration.uncertainty import SHARE, abstains
from harness.ensemble.bundle import Bundle
from harness.errors import RequestError
from harness.predict.doubts import Doubts
from harness.predict.outputs_of_part import Floats, PartOutputs
from harness.stats.intervals import How, by_group


@dataclass(frozen=True)
class Answers:
    probabilities: Floats
    """(n, C) calibrated where the bundle can"""
    decided: NDArray[np.bool_]
    """(n, C) which classes are said: one, or with several labels or thresholds any number"""
    disagreement: Floats
    """(n,) 0..1, NaN where there is one network only"""
    out_of_distribution: Floats
    """(n,) 0..1, NaN without a reference"""
    abstain: NDArray[np.bool_] | None
    """(n,) left to a person; None in a bundle that knows no development rows"""
    series: list[int | None]
    """(n,) numbers of DICOM series, where answers are per series"""
    images: NDArray[np.int64]
    """(n,) images behind each answer"""


def answer(
    bundle: Bundle, out: PartOutputs, doubts: Doubts, raw: bool, rule: str | None, share: float | None
) -> Answers:
    """One answer per image. Raises RequestError for a rule or a share that the bundle has nothing for."""
    n = len(out.probabilities)
    p = out.probabilities if raw else out.calibrated
    abstain = None
    if doubts.doubt is not None:
        percentile = None if doubts.reference is None else out.percentile
        abstain = abstains(out.confidence, percentile, doubts.doubt, SHARE if share is None else share)
    elif share is not None:
        raise RequestError(
            f"--abstain {share:g}: {bundle.path} knows nothing of its development rows' confidence. "
            "Build the ensemble again, or leave --abstain away."
        )
    return Answers(
        probabilities=p,
        decided=_decided(bundle, p, "image", rule),
        disagreement=out.disagreement,
        out_of_distribution=out.percentile,
        abstain=abstain,
        series=[None] * n,
        images=np.ones(n, dtype=np.int64),
    )


def _decided(bundle: Bundle, p: Floats, unit: Unit, rule: str | None) -> NDArray[np.bool_]:
    about = bundle.about.get("decisions")
    if about is not None:
        return decide(about, bundle.classes, bundle.multilabel, p, unit, rule)
    if rule is not None:
        raise RequestError(f"--decide {rule}: this bundle has no operating points. Build the ensemble again.")
    return p >= 0.5 if bundle.multilabel else np.eye(len(bundle.classes), dtype=bool)[p.argmax(axis=1)]


def pooled_how(bundle: Bundle) -> How:
    """How images of one group become one probability: as the study scored its groups, otherwise their mean."""
    how = (bundle.about.get("decisions") or {}).get("per_group")
    return "max" if how == "max" else "mean"


def of_series(
    bundle: Bundle, images: Answers, series: Sequence[int | None], rule: str | None
) -> tuple[Answers, list[int]]:
    """(one answer per series, the place of each one's first image); an image of no series is one by itself.

    Probabilities are pooled as the study pooled its groups, and decided by its thresholds for groups where it has
    such. Disagreement and out-of-distribution are means over the images; a series is left to a person where more than
    half of its images are.
    """
    names = np.array(
        [f"image {place}" if one is None else f"series {one}" for place, one in enumerate(series)], dtype=str
    )
    if not len(names):
        return images, []
    _, p, kept = by_group(np.zeros(len(names), np.int64), images.probabilities, names, pooled_how(bundle))
    order = {name: place for place, name in enumerate(kept)}
    of_row = np.array([order[name] for name in names])
    count = np.bincount(of_row)
    units = {point["unit"] for point in (bundle.about.get("decisions") or {}).get("points", ())}

    def mean(values: Floats | NDArray[np.bool_]) -> Floats:
        return np.asarray(np.bincount(of_row, values.astype(np.float64)) / count)

    first = np.unique(of_row, return_index=True)[1].tolist()
    answers = replace(
        images,
        probabilities=p,
        decided=_decided(bundle, p, "group" if "group" in units else "image", rule),
        disagreement=mean(images.disagreement),
        out_of_distribution=mean(images.out_of_distribution),
        abstain=None if images.abstain is None else mean(images.abstain) > 0.5,
        series=[series[row] for row in first],
        images=count.astype(np.int64),
    )
    return answers, first
