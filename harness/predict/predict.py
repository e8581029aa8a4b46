"""Answers for new image files with a bundle: decode as it says, run its networks, combine, calibrate, decide, doubt.

Reads files and one bundle; knows no study and no MLflow. What cannot be read is listed with its reason and does not
stop the rest.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from harness.ensemble.bundle import Bundle, load_bundle
from harness.errors import RequestError, listed, nearest
from harness.hardware import parse_devices
from harness.images.headers import Slice
from harness.predict.answers import Answers, answer, of_series, pooled_how
from harness.predict.augmented import View, views
from harness.predict.decoded import DecodedPart, decoded
from harness.predict.doubts import Doubts, read_doubts
from harness.predict.inputs import find_images, with_series
from harness.predict.outputs_of_part import PartOutputs, joined, outputs_of_part
from harness.predict.overlays import explain_part
from harness.store.files import is_done
from harness.store.home import Home, open_home
from harness.types import Progress


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
