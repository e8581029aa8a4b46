"""Generated training images: a bright lesion drawn into a training image of the first class, or marks that are none.

A network that has seen few lesions learns what else differs between the two groups of patients. Here the same picture
comes with and without a lesion, so that nothing but the lesion tells them apart; half of what is made bears marks that
are no lesion (dark patches, bright specks, an uneven background), so that a trace of the drawing does not tell it
either. The idea is that of CutPaste (Li et al. 2021) and of Poisson-blended anomalies (Schlueter et al. 2022) for
pictures whose class is known.
What it draws into is the largest part of the picture that is neither background nor as bright as bone: made for CT
slices of heads, of use wherever a lesion is brighter than the tissue around it.

n: training rows, m: generated rows, S: side. Lengths are shares of the side, grey levels shares of the range.
"""

import numpy as np
from numpy.typing import NDArray

from harness.errors import RequestError
from harness.images.pixels import Subset

BACKGROUND, BONE = 0.1, 0.75
"""grey levels: darker is no object, brighter no tissue"""
EDGE = 0.02
"""how far from the object's edge tissue begins"""
LEAST = 0.02
"""share of the picture that tissue must take for anything to be drawn"""
SMALL, LARGE, SPECK = (0.03, 0.07), (0.06, 0.2), (0.006, 0.016)
"""radii"""
RAISED = (0.13, 0.55)
"""what a lesion is brighter than the middle of the tissue; small contrasts are as frequent as large ones"""
SEEN, SEEN_AREA, TRIES = 0.1, 0.004, 20
"""a lesion is drawn again until it makes this share of the picture brighter by SEEN, or nobody could see it"""

Plane = NDArray[np.float64]
Mask = NDArray[np.bool_]


def check_drawn_lesions(share: float, classes: int, multilabel: bool, channels: int, native: bool) -> None:
    """Raises RequestError where the first class is not what a grey picture without a lesion is of."""
    problem = None
    if multilabel or classes != 2:
        problem = "needs two classes, of which the first has no lesion"
    elif channels != 1:
        problem = "needs grey images: data.decode.channels: 1"
    elif native:
        problem = "needs images of one size: data.decode.size in pixels"
    if share and problem:
        raise RequestError(f"augment.drawn_lesions: {share:g} {problem}. Or set augment.drawn_lesions: 0.")


def draw_lesions(
    x: NDArray[np.uint8] | Subset, y: NDArray[np.int64], share: float, seed: int
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Generated images (m, S, S, 1) uint8 and their labels (m,), 1 and 0 in turn, m = share * n.

    x: (n, S, S, 1) uint8; y: (n,) of 0 and 1: the TRAINING rows of a fold, for those of class 0 are drawn into. None
    are made where there is no such row, and a draw that shows nothing is left out. The same arguments give the same
    images.
    """
    rng, rows, count = np.random.default_rng(seed), np.flatnonzero(y == 0), round(share * len(y))
    tissues: dict[int, Mask] = {}
    images, labels = [], []
    for number in range(count if len(rows) else 0):
        row, label = int(rng.choice(rows)), (number + 1) % 2
        picture = (x.gather(np.array([row])) if isinstance(x, Subset) else x[row : row + 1])[0, ..., 0] / 255
        if row not in tissues:
            tissues[row] = tissue(picture)
        if not tissues[row].any():
            continue
        changed = (_visible_lesion if label else _marks)(picture, tissues[row], rng)
        if changed is None:
            continue
        images.append(np.round(np.clip(changed, 0, 1) * 255).astype(np.uint8))
        labels.append(label)
    shape = (x.pixels if isinstance(x, Subset) else x).shape[1:]
    return np.array(images, np.uint8).reshape(len(images), *shape), np.array(labels, np.int64)


def tissue(picture: Plane) -> Mask:
    """(S, S) the largest part of a picture (S, S) in [0, 1] that is neither background nor bone, with its holes; all
    False where that is too small to draw into."""
    from scipy import ndimage

    steps = max(1, round(EDGE * len(picture)))
    object_ = ndimage.binary_erosion(ndimage.binary_fill_holes(picture > BACKGROUND), iterations=steps)
    found = ndimage.binary_opening(object_ & (picture < BONE), iterations=steps)
    parts, count = ndimage.label(found)
    if not count:
        return np.zeros(picture.shape, dtype=bool)
    largest = parts == 1 + int(np.bincount(parts.ravel())[1:].argmax())
    whole = ndimage.binary_fill_holes(ndimage.binary_closing(largest, iterations=steps))
    return np.asarray(whole & (whole.mean() >= LEAST))


def _visible_lesion(picture: Plane, inside: Mask, rng: np.random.Generator) -> Plane | None:
    for _ in range(TRIES):
        changed = _lesion(picture, inside, rng)
        if (np.clip(changed, 0, 1) - picture > SEEN).mean() >= SEEN_AREA:
            return changed
    return None


def _lesion(picture: Plane, inside: Mask, rng: np.random.Generator) -> Plane:
    """A blob anywhere in the tissue or at its rim, or a crescent along the rim; some with a dark ring around them."""
    from scipy import ndimage

    side = len(picture)
    kind = rng.choice(["anywhere", "small", "rim", "crescent"], p=[0.5, 0.25, 0.1, 0.15])
    depth = ndimage.distance_transform_edt(inside) / side
    place = _place(inside if kind in ("anywhere", "small") else inside & (depth <= 0.04), rng)
    far = _distance(side, place, rng.uniform(*(SMALL if kind == "small" else LARGE)), rng)
    shape = np.clip((1 - far) / rng.uniform(0.1, 0.6) + 0.5, 0, 1)
    if kind == "crescent":
        shape = np.clip((rng.uniform(0.02, 0.085) - depth) * 50 + 0.5, 0, 1) * np.clip((2.2 - far) / 0.6, 0, 1)
    shape = shape * ndimage.gaussian_filter(inside.astype(np.float64), 0.7)
    middle, raised = float(np.median(picture[inside])), RAISED[0] * (RAISED[1] / RAISED[0]) ** rng.uniform()
    grain = 3 * ndimage.gaussian_filter(rng.normal(size=picture.shape), rng.uniform(0.5, 3.0))
    bright = middle + raised * (1 + rng.uniform(0, 0.3) * grain) + (picture - middle) * rng.uniform(0, 0.7)
    if rng.random() < 0.4:
        ring = np.clip((rng.uniform(1.3, 2.0) - far) / 0.4, 0, 1) * inside
        picture = picture - ring * rng.uniform(0.04, 0.16)
    return np.asarray(picture * (1 - shape) + np.maximum(picture, bright) * shape)


def _marks(picture: Plane, inside: Mask, rng: np.random.Generator) -> Plane:
    """What is no bright lesion: a dark patch, a few bright specks, or a background that is uneven."""
    from scipy import ndimage

    side = len(picture)
    kind = rng.choice(["patch", "specks", "uneven"])
    if kind == "patch":
        far = _distance(side, _place(inside, rng), rng.uniform(0.04, 0.18), rng)
        return np.asarray(picture - np.clip((1 - far) / 0.3 + 0.5, 0, 1) * inside * rng.uniform(0.06, 0.27))
    if kind == "specks":
        for _ in range(rng.integers(1, 5)):
            far = _distance(side, _place(inside, rng), rng.uniform(*SPECK), rng)
            picture = np.maximum(picture, np.clip((1 - far) / 0.3 + 0.5, 0, 1) * rng.uniform(0.67, 1.0))
        return picture
    waves = ndimage.gaussian_filter(rng.normal(size=picture.shape), side / 8)
    return np.asarray(picture + inside * waves / np.abs(waves[inside]).max() * rng.uniform(0.02, 0.1))


def _place(mask: Mask, rng: np.random.Generator) -> NDArray[np.int64]:
    """(2,) a row and a column of the mask."""
    places = np.argwhere(mask)
    return np.asarray(places[rng.integers(len(places))])


def _distance(side: int, place: NDArray[np.int64], radius: float, rng: np.random.Generator) -> Plane:
    """(S, S) distance from a place, 1 on the edge of a turned ellipse with a wavy outline."""
    rows, columns = np.mgrid[:side, :side]
    down, across = (rows - place[0]) / (radius * side), (columns - place[1]) / (radius * side)
    turn, ratio = rng.uniform(0, np.pi), rng.uniform(0.45, 1.0)
    u, v = across * np.cos(turn) + down * np.sin(turn), down * np.cos(turn) - across * np.sin(turn)
    angle, outline = np.arctan2(v, u), np.ones((side, side))
    for wave in range(2, 6):
        outline += rng.normal(0, 0.12 / wave) * np.cos(wave * angle + rng.uniform(0, 2 * np.pi))
    return np.asarray(np.hypot(u, v / ratio) / np.maximum(outline, 0.3))
