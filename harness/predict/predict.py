"""Answers of a bundle for new images.

Answers for new image files with a bundle: decode as it says, run its networks, combine, calibrate, decide, doubt.

Reads files and one bundle; knows no study and no MLflow. What cannot be read is listed with its reason and does not
stop the rest.

From raw outputs to answers: calibrated, decided, left to a person where there is doubt; per image or per series.

n: images or series, C: classes.

What a bundle says of some decoded images: probabilities over views, members' disagreement, distance to usual images.

n: images, M: members, K: folds, C: classes.

A bundle's section `reference`, read: usual images and confidence among development rows.

Test-time augmentation: the same images seen in several ways, and their probabilities averaged.

Only flips and rotations that all members of a bundle trained with: another view is one that no network knows. Which N
views are seen depends on N and the bundle alone, and the first is the image as it is.

n: images, S, H, W: sides.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from harness.augment.transforms import resample, turned
from harness.calibration.maps import answer as calibrated_answer
from harness.calibration.operating_points import Unit, decide
from harness.calibration.uncertainty import SHARE, Reference, abstains, confidence, disagreement, read_reference
from harness.ensemble.bundle import Bundle, BundleOutputs, load_bundle, outputs_of_bundle
from harness.errors import RequestError, listed, nearest
from harness.hardware import parse_devices
from harness.images.headers import Slice
from harness.images.pixels import Pixels, Ragged, gather
from harness.metrics import probabilities
from harness.predict.explain import explain_part
from harness.predict.inputs import DecodedPart, decoded, find_images, with_series
from harness.stats.intervals import How, by_group
from harness.store.files import is_done
from harness.store.home import Home, open_home
from harness.types import Progress


@dataclass(frozen=True)
class Doubts:
    reference: Reference | None
    missing: str
    """why there is no reference, '' where there is one"""
    doubt: dict[str, Any] | None
    """what doubt.describe_doubt said of the development rows; None in a bundle without"""


def read_doubts(bundle: Bundle) -> Doubts:
    """Raises RequestError where the section, or its file, is not one that a build wrote."""
    about = bundle.about.get("reference")
    if about is None:
        return Doubts(None, "the bundle was built without a reference", None)
    try:
        doubt = about["doubt"]
        numbers = [*doubt["confidence"], doubt["foreign"]]
        if not all(isinstance(one, int | float) and 0 <= one <= 1 for one in numbers):
            raise ValueError("confidence is no share")
        if about["file"] is None:
            return Doubts(None, str(about["missing"]), doubt)
        reference = read_reference(bundle.read(str(about["file"])), f"{bundle.path}/{about['file']}")
        folds = [len(row) for row in bundle.weights]
        if any(m >= len(folds) or k >= folds[m] for m, k in reference.spaces):
            raise ValueError("an encoder that the bundle does not have")
    except (KeyError, TypeError, ValueError) as error:
        raise RequestError(
            f"{bundle.path}: its reference cannot be read ({error}). Build the ensemble again."
        ) from error
    return Doubts(reference, "", doubt)


BATCH = 256
"""images turned at a time"""


@dataclass(frozen=True)
class View:
    hflip: bool = False
    vflip: bool = False
    angle: float = 0.0
    """degrees, counter-clockwise"""

    def __str__(self) -> str:
        turn = f"turned {self.angle:+g}°" if self.angle else ""
        flips = [name for name, on in (("left-right", self.hflip), ("up-down", self.vflip)) if on]
        return ", ".join(filter(None, [" and ".join(flips), turn])) or "as it is"


def views(trained: dict[str, Any], n: int) -> list[View]:
    """The first n views: flips, then flips of the image turned by half and by the whole of the largest rotation.

    trained: the section `augment` of a bundle. Raises RequestError, which lists them, where there are fewer.
    """
    ways = (False, True)
    flips = list(product(ways[: 1 + bool(trained.get("vflip"))], ways[: 1 + bool(trained.get("hflip"))]))
    largest = float(trained.get("rotate") or 0.0)
    angles = [0.0, largest / 2, -largest / 2, largest, -largest] if largest else [0.0]
    found = [View(h, v, angle) for angle in angles for v, h in flips]
    if not 1 <= n <= len(found):
        known = "; ".join(str(view) for view in found)
        raise RequestError(
            f"--tta {n}: the members of this bundle trained with flips and rotations that make {len(found)} "
            f"view{'s' * (len(found) != 1)} ({known}). "
            + (f"Type --tta {len(found)} or fewer." if len(found) > 1 else "Leave --tta away.")
        )
    return found[:n]


def seen(pixels: Pixels, view: View) -> Pixels:
    """The images in one view; the images themselves where nothing changes."""
    if view == View():
        return pixels
    if isinstance(pixels, Ragged):
        return gather([_changed(pixels[row][None], view)[0] for row in range(len(pixels))], pixels.channels)
    return np.concatenate([_changed(pixels[at : at + BATCH], view) for at in range(0, len(pixels), BATCH)])


def _changed(x: NDArray[np.uint8], view: View) -> NDArray[np.uint8]:
    """(n, H, W, channels) flipped, then turned as training turns: about the middle, bilinear, black outside."""
    x = x[:, :: -1 if view.vflip else 1, :: -1 if view.hflip else 1]
    if not view.angle:
        return np.ascontiguousarray(x)
    zero, angle = torch.zeros(len(x)), torch.full((len(x),), float(np.deg2rad(view.angle)))
    maps = torch.from_numpy(np.ascontiguousarray(x)).permute(0, 3, 1, 2).float()
    turn = resample(maps, turned(angle, zero, zero), None)
    return turn.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()


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
    as_it_is = calibrated_answer(about, first.each)
    total, answered = first.probabilities.copy(), as_it_is.copy()
    for number, view in enumerate(views[1:], start=1):
        turned = [seen(one, view) for one in pixels]
        other = outputs_of_bundle(bundle, turned, device, counted(number))
        total += other.probabilities
        answered += calibrated_answer(about, other.each)
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


@dataclass(frozen=True)
class Asked:
    """What may be asked besides the images."""

    raw: bool = False
    """probabilities as the method gives them, although the bundle could calibrate them"""
    decide: str | None = None
    """another operating point than the bundle's own: youden, sensitivity=0.95, ..."""
    abstain: float | None = None
    """share of home images to leave unanswered; None: the usual share"""
    tta: int = 1
    """views of each image that are averaged"""
    per_series: bool = False
    """one answer per DICOM series instead of one per image"""
    explain: Path | None = None
    """a folder for heat maps"""
    explain_all: bool = False
    """heat maps of all members' networks, not of the best member's alone"""


@dataclass(frozen=True)
class Prediction:
    classes: tuple[str, ...]
    files: list[Path]
    """n files that were read, in the order given; folders in the order of their files' paths; of a series the first"""
    answers: Answers
    problems: list[tuple[Path, str]]
    """files that could not be read, each with its reason"""
    overlays: list[Path | None] = field(default_factory=list)
    """(n,) heat maps, where they were asked for"""
    notes: list[str] = field(default_factory=list)
    """how the answers came about, for people"""

    @property
    def read(self) -> int:
        """Images behind the answers: more than answers where these are per series."""
        return int(self.answers.images.sum())

    @property
    def probabilities(self) -> NDArray[np.float64]:
        """(n, C)"""
        return self.answers.probabilities


def predict(
    bundle_path: Path | str,
    paths: list[Path],
    device: str = "auto",
    progress: Progress | None = None,
    home: Home | None = None,
    asked: Asked | None = None,
) -> Prediction:
    """Answers for image files, for all images and DICOM files in folders, searched recursively, and for lists of them.

    `bundle_path` is a bundle's folder, or STUDY/NAME under the home's bundles. Raises RequestError for a bundle or a
    path that does not exist, for folders without any image, and for what the bundle cannot do.
    """
    asked = asked or Asked()
    bundle = load_bundle(find_bundle(bundle_path, home))
    use_device = parse_devices(device)[0]
    doubts = read_doubts(bundle)
    seen = views(bundle.about.get("augment") or {}, asked.tta)
    found = find_images(paths)
    slices = with_series(found) if asked.per_series else [Slice(path, None) for path in found]
    files = [one.path for one in slices]
    parts: list[PartOutputs] = []
    places: list[int] = []
    overlays: list[Path | None] = []
    problems: list[tuple[Path, str]] = []
    waited = busy = 0.0
    for part in decoded(files, bundle.decodes, progress):
        problems += [(files[place], reason) for place, reason in part.problems]
        waited += part.waited
        if not part.places:
            continue
        begun = time.perf_counter()
        counted = _counted(progress, part, len(files), len(seen))
        out = outputs_of_part(bundle, part.pixels, seen, doubts.reference, use_device, counted)
        if asked.explain is not None:
            shown = [files[place] for place in part.places]
            p = answer(bundle, out, doubts, asked.raw, asked.decide, asked.abstain).probabilities
            target = asked.explain, len(places), asked.explain_all
            overlays += explain_part(bundle, shown, part.pixels, p, use_device, *target, progress)
        busy += time.perf_counter() - begun
        parts.append(out)
        places += part.places
    outputs = joined(parts, len(bundle.classes))
    answers = answer(bundle, outputs, doubts, asked.raw, asked.decide, asked.abstain)
    read = [files[place] for place in places]
    if asked.per_series:
        answers, first = of_series(bundle, answers, [slices[place].series for place in places], asked.decide)
        read, overlays = [read[row] for row in first], []  # heat maps are of images
    notes = _notes(bundle, asked, seen, doubts, (waited, busy, len(places)))
    return Prediction(bundle.classes, read, answers, problems, overlays, notes)


def _counted(progress: Progress | None, part: DecodedPart, files: int, ways: int) -> Callable[[int], Progress | None]:
    """For the number of a view: a Progress that counts images through all networks and views as one piece of work."""

    def of_view(number: int) -> Progress | None:
        if progress is None:
            return None
        before = part.places[0] + len(part.places) * number / ways

        def count(what: str, done: int, total: int) -> None:
            progress("images through the networks", int(before + len(part.places) * done / total / ways), files)

        return count

    return of_view


def _notes(
    bundle: Bundle, asked: Asked, seen: list[View], doubts: Doubts, timing: tuple[float, float, int]
) -> list[str]:
    waited, busy, images = timing
    notes = []
    if len(seen) > 1:
        notes.append(f"mean over {len(seen)} views of each image: {'; '.join(str(view) for view in seen)}")
    if asked.raw and bundle.about.get("calibration"):
        notes.append("probabilities as the method gives them, not calibrated (--raw)")
    if doubts.missing:
        notes.append(f"no out-of-distribution score: {doubts.missing}")
    if asked.per_series:
        notes.append(f"a series' probability is the {pooled_how(bundle)} over its images")
    if images:
        rate = images / max(waited + busy, 1e-9)
        notes.append(
            f"{images} images, {rate:,.1f} a second; {waited:.1f} s waiting for files, {busy:.1f} s in networks"
        )
        if waited > busy and waited > 2.0:
            notes.append("reading the files took longer than the networks: a faster disk or more CPU cores would help")
    return notes


def find_bundle(name: Path | str, home: Home | None = None) -> Path:
    """The folder of a bundle: a path, or STUDY/NAME under the bundles of the home. Raises RequestError otherwise."""
    path = Path(name)
    if path.is_dir():
        return path
    root = (home or open_home()).root / "bundles"
    folders = [folder for folder in root.glob("*/*") if is_done(folder) and not folder.name.startswith(".")]
    known = sorted(folder.relative_to(root).as_posix() for folder in folders)
    if path.as_posix() in known:
        return root / path
    raise RequestError(
        f"no bundle {str(name)!r}: neither a folder here nor STUDY/NAME in {root}."
        f"{nearest(path.as_posix(), known)} Known: {listed(known, 'harness ensemble list')}. "
        "Build one: harness ensemble build"
    )
