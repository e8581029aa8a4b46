"""The built-in data set: CT-like head slices with and without a bleed, written as real files of mixed kinds.

Everything is drawn in Hounsfield units and then stored as a scanner archive and its exports would hold it: DICOM in
both polarities, PNG in grey, RGB, RGBA and 16 bit, all of mixed sizes. What a file is (kind, size, window, noise)
is drawn apart from what it shows, so that no shortcut leads to the label. Drawn from seeds by name: the same pixels
on any machine, up to rounding of its mathematical functions. Teaches nothing about medicine; it exists so that the
default study needs no data.
"""

import csv
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from harness.errors import RequestError
from harness.seeds import derive_seed
from harness.store.files import is_done, new_folder, write_text
from harness.store.home import Home, lock
from harness.types import Progress

VERSION = 1
"""part of the folder's name: raise it whenever a drawn pixel changes"""
CLASSES = ("normal", "bleed")
"""in the order to write as `data.classes`: the positive class is the last"""
COLUMNS = ("file", "label", "patient", "box")
PHANTOM = "phantom"
"""what stands as data.root for it"""
PATIENTS, MOST_PATIENTS = 140, 100_000
# How hard the task is: tuned so that a ResNet-10t at 64 px learns it from some 180 images, but not perfectly.
ZOOM = (0.72, 0.88)
"""half width of the head, as a share of the half side of the image"""
TILT = 20.0
"""largest tilt of the head, degrees"""
RAISED = (18.0, 45.0)
"""HU of a bleed above the brain"""
RADIUS = (0.16, 0.36)
"""half axes of a bleed, in half widths of the head"""
NOISE = (1.5, 5.0)
"""standard deviation of a scan, HU"""
VAGUE = (2.0, 7.0)
"""HU of the vague bright areas that are no bleed"""
KINDS = ("L", "RGB", "RGBA", "I;16", "MONOCHROME1", "MONOCHROME2")

Image = NDArray[np.float64]


@dataclass(frozen=True)
class Slice:
    """One drawn slice, not yet a file."""

    hu: Image
    """(H, W) Hounsfield units"""
    window: tuple[float, float]
    """centre and width for display, HU"""
    label: str
    patient: str
    box: tuple[float, float, float, float] | None
    """the bleed's x0, y0, x1, y1 as fractions of width and height"""
    kind: str
    """one of KINDS"""


def patients_of(root: str) -> int | None:
    """How many patients `phantom` or `phantom:1000` asks for; None where a data.root is no phantom at all.

    Raises RequestError for a number that is none.
    """
    name, colon, number = root.partition(":")
    if name != PHANTOM:
        return None
    if not colon:
        return PATIENTS
    if not (number.isascii() and number.isdecimal() and 1 <= int(number) <= MOST_PATIENTS):
        raise RequestError(
            f"data.root: {root}: write phantom, or phantom:1000 for another number of patients (1 to {MOST_PATIENTS})."
        )
    return int(number)


def ensure_phantom(home: Home, progress: Progress, patients: int = PATIENTS) -> Path:
    """The folder of the phantom's files, drawn on first use: labels.csv and images/, appearing whole or not at all.
    Patient n is the same in a phantom of any size."""
    name = f"v{VERSION}" if patients == PATIENTS else f"v{VERSION}-{patients}"
    folder = home.phantom / name
    if not is_done(folder):
        with lock(home.phantom / f"{name}.lock", "the phantom data set"):
            if not is_done(folder):
                with new_folder(folder) as new:
                    write_phantom(new, progress, patients)
    return folder


def write_phantom(folder: Path, progress: Progress, patients: int = PATIENTS) -> None:
    """Draw and write every file of the data set into an existing folder."""
    (folder / "images").mkdir()
    plan = _plan(patients)
    table = io.StringIO()
    rows = csv.writer(table, lineterminator="\n")
    rows.writerow(COLUMNS)
    for number, (patient, position) in enumerate(plan):
        drawn = draw(patient, position)
        suffix = ".dcm" if drawn.kind.startswith("MONO") else ".png"
        name = f"images/img{number:04d}{suffix}"
        _write(folder / name, drawn)
        box = "" if drawn.box is None else " ".join(f"{side:.3f}" for side in drawn.box)
        rows.writerow((name, drawn.label, drawn.patient, box))
        progress("draw phantom", number + 1, len(plan))
    write_text(folder / "labels.csv", table.getvalue())


def _plan(patients: int = PATIENTS) -> list[tuple[int, int]]:
    """(patient, position of the slice) of every image, 1 to 3 slices a patient."""
    return [
        (patient, position)
        for patient in range(patients)
        for position in range(1 + derive_seed("phantom", VERSION, "slices", patient) % 3)
    ]


def draw(patient: int, position: int) -> Slice:
    """One slice of one patient, a function of the two numbers alone."""
    body = np.random.default_rng(derive_seed("phantom", VERSION, "patient", patient))
    rng = np.random.default_rng(derive_seed("phantom", VERSION, "slice", patient, position))
    file = np.random.default_rng(derive_seed("phantom", VERSION, "file", patient, position))

    height = int(file.integers(90, 201))
    width = height if file.random() < 0.3 else int(np.clip(height * file.uniform(0.8, 1.25), 90, 200))
    x, y = _head_coordinates(height, width, rng)
    bleeder = body.random() < 0.62
    anatomy = _Anatomy.of(body)
    label = "bleed" if bleeder and rng.random() < 0.8 else "normal"

    hu, inside = _head(x, y, anatomy, rng)
    hu = _distractors(hu, x, y, inside, rng)
    extra = _bleed(x, y, inside, anatomy, rng)
    box = None
    if label == "bleed":
        hu = hu + extra
        box = _box(extra)
    hu = _scanner(hu, x, y, file)
    window = (float(np.round(file.uniform(34, 46))), float(np.round(file.uniform(70, 110))))
    return Slice(hu, window, label, f"ph{patient:03d}", box, str(file.choice(KINDS)))


@dataclass(frozen=True)
class _Anatomy:
    """What the slices of one patient share. Lengths in units of the head's half width."""

    aspect: float
    skull: float
    wobble: tuple[float, float, float]
    brain: float
    ventricles: float
    midline: float
    cortex: float
    place: tuple[float, float]
    """of the bleed: angle and distance from the centre"""

    @classmethod
    def of(cls, rng: np.random.Generator) -> "_Anatomy":
        return cls(
            aspect=rng.uniform(1.1, 1.35),
            skull=rng.uniform(0.07, 0.13),
            wobble=(rng.uniform(-0.03, 0.03), rng.uniform(-0.03, 0.03), rng.uniform(-0.02, 0.02)),
            brain=rng.uniform(30, 36),
            ventricles=rng.uniform(0.5, 1.5),
            midline=rng.uniform(-0.06, 0.06),
            cortex=rng.uniform(2, 5),
            place=(rng.uniform(-np.pi, np.pi), float(np.sqrt(rng.uniform(0.02, 0.5)))),
        )


def _head_coordinates(height: int, width: int, rng: np.random.Generator) -> tuple[Image, Image]:
    """(H, W) each: x and y in the head's own frame (tilted, shifted, zoomed); y grows towards the back."""
    rows, columns = np.mgrid[0:height, 0:width].astype(float)
    side = min(height, width) / 2
    zoom = rng.uniform(*ZOOM)
    right = (columns - (width - 1) / 2) / side - rng.uniform(-0.1, 0.1)
    down = (rows - (height - 1) / 2) / side - rng.uniform(-0.1, 0.1)
    tilt = np.deg2rad(rng.uniform(-TILT, TILT))
    return (
        (right * np.cos(tilt) + down * np.sin(tilt)) / zoom,
        (down * np.cos(tilt) - right * np.sin(tilt)) / zoom,
    )


def _step(distance: Image, softness: float) -> Image:
    """1 where `distance` is well below 0, 0 well above, smooth between."""
    smooth: Image = 1 / (1 + np.exp(np.clip(distance / softness, -50, 50)))
    return smooth


def _ellipse(x: Image, y: Image, cx: float, cy: float, rx: float, ry: float, turn: float) -> Image:
    """Relative radius: 1 on the ellipse's edge."""
    u = (x - cx) * np.cos(turn) + (y - cy) * np.sin(turn)
    v = (y - cy) * np.cos(turn) - (x - cx) * np.sin(turn)
    radius: Image = np.sqrt((u / rx) ** 2 + (v / ry) ** 2)
    return radius


def _texture(x: Image, y: Image, rng: np.random.Generator, waves: int, low: float, high: float) -> Image:
    """A random field of unit variance: plane waves, so that it does not depend on the image's size."""
    field = np.zeros_like(x)
    for _ in range(waves):
        angle, frequency, phase = rng.uniform(0, np.pi), rng.uniform(low, high), rng.uniform(0, 2 * np.pi)
        field += np.cos(frequency * (x * np.cos(angle) + y * np.sin(angle)) + phase)
    scaled: Image = field / np.sqrt(waves / 2)
    return scaled


def _head(x: Image, y: Image, anatomy: _Anatomy, rng: np.random.Generator) -> tuple[Image, Image]:
    """Skull, brain and ventricles in HU, and the relative radius of the inner table of the skull."""
    angle = np.arctan2(y, x)
    a, b, c = anatomy.wobble
    radius = np.sqrt(x**2 + (y / anatomy.aspect) ** 2) / (
        1 + a * np.cos(angle) + b * np.cos(2 * angle) + c * np.sin(3 * angle)
    )
    inside = radius / (1 - anatomy.skull)
    gyri = _texture(x, y, rng, 10, 9, 20)
    broad = _texture(x, y, rng, 6, 1.5, 5)
    brain = anatomy.brain + 1.6 * broad + 1.8 * gyri * inside.clip(0, 1) + rng.uniform(-2.5, 2.5) * x
    brain += anatomy.cortex * _step(0.86 - inside, 0.03)
    centre = anatomy.midline * (1 - y**2)
    brain += rng.uniform(4, 12) * np.exp(-(((x - centre) / 0.025) ** 2)) * (np.abs(y) > rng.uniform(0.3, 0.6))
    size = anatomy.ventricles * rng.uniform(0.8, 1.2)
    for side in (-1, 1):
        for top, rx, ry in ((-0.22, 0.07, 0.24), (0.28, 0.06, 0.2)):
            grown = size * rng.uniform(0.75, 1.25)
            shape = _ellipse(
                x, y, anatomy.midline + side * 0.14, top, rx * grown, ry * grown, side * np.sign(-top) * 0.25
            )
            brain += (8 - brain) * _step(shape - 1, 0.12)
    brain += (9 - brain) * 0.8 * _step(0.965 - inside, 0.012)
    hu = -1000 + 1040 * _step(radius - 1.07, 0.01)
    hu += (rng.uniform(600, 1000) - hu) * _step(radius - 1, 0.008)
    hu += (brain - hu) * _step(inside - 1, 0.008)
    return hu, inside


def _distractors(hu: Image, x: Image, y: Image, inside: Image, rng: np.random.Generator) -> Image:
    """What is bright but no bleed, in both classes: calcifications, streaks, a vague hyperdensity."""
    extra = np.zeros_like(hu)
    for _ in range(rng.integers(0, 5)):
        angle, away, size = rng.uniform(-np.pi, np.pi), rng.uniform(0, 0.6), rng.uniform(0.015, 0.045)
        extra += rng.uniform(40, 160) * np.exp(
            -(((x - away * np.cos(angle)) ** 2 + (y - away * np.sin(angle)) ** 2) / size**2)
        )
    if rng.random() < 0.5:
        turn = rng.uniform(0, np.pi)
        across = (x * np.cos(turn) + y * np.sin(turn) - rng.uniform(-0.5, 0.5)) / rng.uniform(0.03, 0.1)
        extra += rng.uniform(-9, 9) * np.exp(-(across**2))
    if rng.random() < 0.6:
        vague = _ellipse(
            x, y, rng.uniform(-0.6, 0.6), rng.uniform(-0.7, 0.7), rng.uniform(0.2, 0.5), rng.uniform(0.2, 0.5), 0
        )
        extra += rng.uniform(*VAGUE) * np.exp(-(vague**2))
    return hu + extra * _step(inside - 0.97, 0.01)


def _bleed(x: Image, y: Image, inside: Image, anatomy: _Anatomy, rng: np.random.Generator) -> Image:
    """The bleed's HU above its surroundings: a soft-edged blob in the brain, or a crescent under the skull."""
    angle = anatomy.place[0] + rng.normal(0, 0.1)
    raised = rng.uniform(*RAISED)
    if rng.random() < 0.3:
        thick, spread = rng.uniform(0.09, 0.22), rng.uniform(0.4, 0.9)
        off = np.angle(np.exp(1j * (np.arctan2(y / anatomy.aspect, x) - angle)))
        depth = thick * np.cos(np.clip(off / spread, -1, 1) * np.pi / 2)
        shape = _step(0.97 - depth - inside, 0.02) * (np.abs(off) < spread)
    else:
        away = anatomy.place[1] * rng.uniform(0.85, 1.1)
        rx, ry = rng.uniform(*RADIUS, 2)
        blob = _ellipse(
            x, y, away * np.cos(angle), away * np.sin(angle) * anatomy.aspect, rx, ry, rng.uniform(0, np.pi)
        )
        blob = blob * (1 + 0.12 * _texture(x, y, rng, 4, 5, 12))
        shape = _step(blob - 1, rng.uniform(0.08, 0.25))
    extra: Image = raised * shape * _step(inside - 0.97, 0.01)
    return extra


def _box(extra: Image) -> tuple[float, float, float, float]:
    """The box of the pixels above half of the bleed's height."""
    rows, columns = np.nonzero(extra > extra.max() / 2)
    height, width = extra.shape
    return columns.min() / width, rows.min() / height, (columns.max() + 1) / width, (rows.max() + 1) / height


def _scanner(hu: Image, x: Image, y: Image, rng: np.random.Generator) -> Image:
    """The table below the head, and noise of this scan's own strength and grain."""
    if rng.random() < 0.5:
        table = np.abs(np.sqrt((x - rng.uniform(-0.2, 0.2)) ** 2 + (y + 1.2) ** 2) - rng.uniform(2.65, 2.9))
        hu = hu + 1080 * _step(table - 0.03, 0.01) * (hu < -500)
    noise = rng.normal(0, 1, hu.shape)
    if rng.random() < 0.5:
        noise = (noise + np.roll(noise, 1, 0) + np.roll(noise, 1, 1) + np.roll(noise, (1, 1), (0, 1))) / 2
    return np.clip(hu + rng.uniform(*NOISE) * noise, -1024, 3071)


def display(drawn: Slice) -> Image:
    """(H, W) in [0, 1]: the slice through its window, as its PNG shows it."""
    centre, width = drawn.window
    return np.clip((drawn.hu - centre) / width + 0.5, 0, 1)


def _write(path: Path, drawn: Slice) -> None:
    if drawn.kind.startswith("MONO"):
        from harness.images.dicom import write_dicom

        # A stored value of 0 means -1024 HU; a quarter of a unit a step keeps what 12 bits can.
        stored = np.round((drawn.hu + 1024) * 4).astype(np.uint16)
        write_dicom(
            path, stored, slope=0.25, intercept=-1024.0, window=drawn.window, inverted=drawn.kind == "MONOCHROME1"
        )
        return
    import PIL.Image

    shown = display(drawn)
    if drawn.kind == "I;16":
        PIL.Image.fromarray(np.round(shown * 65535).astype(np.uint16)).save(path, compress_level=3)
        return
    PIL.Image.fromarray(np.round(shown * 255).astype(np.uint8)).convert(drawn.kind).save(path, compress_level=3)
