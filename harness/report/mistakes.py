"""The worst mistakes out of fold, as pictures: what it is, what was said, and where the network looked.

A heat map is asked of the one fold model that never saw the image: the others have learned its answer. Who makes heat
maps is handed in, for networks live elsewhere. Shows images by their path from the data's root, and no group.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from numpy.typing import NDArray

from harness.errors import RequestError
from harness.images.pixels import Pixels
from harness.metrics import UNKNOWN
from harness.output.documents import Section, Table, picture
from harness.output.format import called, plural
from harness.report.collect import Predicted
from harness.types import Dataset, Folds

Ints = NDArray[np.int64]
Overlay = Callable[[int, Ints, Ints], Sequence[NDArray[np.uint8]]]
"""overlay(fold, rows (n,), classes (n,)): n pictures (H, W, 3), each row's image under what speaks for its class, by
the fold model `fold`"""
MOST = 16
SIDE = 160


@dataclass(frozen=True)
class Mistake:
    row: int
    """of the data set"""
    true: str
    said: str
    p_true: float
    """that it had what it has"""
    explained: int
    """the class whose evidence is drawn: of two the positive one, else the one that was wrongly said or missed"""


def worst_mistakes(one: Predicted, classes: tuple[str, ...], most: int = MOST) -> list[Mistake]:
    """The wrong rows in which the model was surest, in turn from each kind of mistake, so that rare ones are seen."""
    found = _of_classes(one, classes) if one.y.ndim == 1 else _of_labels(one, classes)
    found.sort(key=lambda mistake: (mistake.p_true, mistake.row))
    taken: dict[tuple[str, str], int] = {}
    turns = []
    for mistake in found:
        kind = (mistake.true, mistake.said if one.y.ndim == 2 else "")
        turns.append((taken.get(kind, 0), mistake))
        taken[kind] = taken.get(kind, 0) + 1
    turns.sort(key=lambda turn: turn[0])  # stable: within a turn the surest first
    chosen = [mistake for _, mistake in turns[:most]]
    return sorted(chosen, key=lambda mistake: (mistake.true, mistake.p_true))


def _of_classes(one: Predicted, classes: tuple[str, ...]) -> list[Mistake]:
    every = np.arange(len(one.y))
    only = (one.said.sum(axis=1) == 1) & one.said[every, one.y]
    made = []
    for i in np.flatnonzero(~only).tolist():
        true, others = int(one.y[i]), one.p[i].copy()
        others[true] = -1
        # what was said, or where nothing was, the likeliest of the wrong ones
        wrong = np.where(one.said[i], others, -1)
        said = int(wrong.argmax() if (wrong >= 0).any() else others.argmax())
        explained = 1 if len(classes) == 2 else said
        made.append(Mistake(int(one.rows[i]), classes[true], classes[said], float(one.p[i, true]), explained))
    return made


def _of_labels(one: Predicted, classes: tuple[str, ...]) -> list[Mistake]:
    made = []
    for i, c in np.argwhere((one.y != UNKNOWN) & (one.said != (one.y == 1))).tolist():
        has, p = one.y[i, c] == 1, float(one.p[i, c])
        words = (classes[c], f"no {classes[c]}")
        true, said = words if has else words[::-1]
        made.append(Mistake(int(one.rows[i]), true, said, p if has else 1 - p, c))
    return made


def mistakes_section(
    one: Predicted, dataset: Dataset, folds: Folds, pixels: Pixels | None, overlay: Overlay | None, most: int = MOST
) -> Section:
    """`pixels`: left out, the mistakes are listed and nobody's picture is shown."""
    wrong, asked = _wrong(one)
    mistakes = worst_mistakes(one, dataset.classes, most)
    rows = [
        [
            str(dataset.ids[mistake.row]),
            mistake.true,
            mistake.said,
            f"{mistake.p_true:.3f}",
            str(int(folds.fold[mistake.row])),
        ]
        for mistake in mistakes
    ]
    columns = ("image", "is", "was said", "p of what it is", "held out by fold")
    table = Table(f"The worst mistakes, {one.title}", columns, rows, "lllrr", f"Decided by {one.rule}.")
    if not mistakes:
        return Section("mistakes", "Worst mistakes", f"{one.title}: no image is decided wrongly.")
    answer = f"{one.title}: {wrong:,} of {plural(asked, 'answer')} are wrong; these are the ones it was surest of."
    body = "" if pixels is None else _gallery(mistakes, dataset, folds, pixels, overlay)
    return Section("mistakes", "Worst mistakes", answer, body, (table,))


def _wrong(one: Predicted) -> tuple[int, int]:
    if one.y.ndim == 1:
        right = (one.said.sum(axis=1) == 1) & one.said[np.arange(len(one.y)), one.y]
        return int((~right).sum()), len(one.y)
    known = one.y != UNKNOWN
    return int((known & (one.said != (one.y == 1))).sum()), int(known.sum())


def _gallery(
    mistakes: Sequence[Mistake], dataset: Dataset, folds: Folds, pixels: Pixels, overlay: Overlay | None
) -> str:
    heats, why = overlays_of(mistakes, folds, overlay)
    figures = []
    for mistake in mistakes:
        name, fold = str(dataset.ids[mistake.row]), int(folds.fold[mistake.row])
        caption = (
            f"{name}: is {called(mistake.true)} (p {mistake.p_true:.2f}), was said {called(mistake.said)}; fold {fold}"
        )
        heat = heats.get(mistake)
        shown = pixels[mistake.row] if heat is None else beside(pixels[mistake.row], heat)
        figures.append(picture(shown, caption, caption, 2 * SIDE))
    of = called(dataset.classes[1]) if len(dataset.classes) == 2 else "what was said"
    of = "the finding" if dataset.multilabel else of
    how = escape(why)
    if heats:
        how = (
            "Left the image as the network is shown it, right where the fold model that never saw it finds evidence of "
        )
        how += f"{escape(of)} (Grad-CAM): the brighter, the more; all grey: nowhere. It says where it looked, not why."
    warning = "<p><b>These are patients' images.</b> Make the report without them before it leaves the house: "
    warning += '<code style="white-space: nowrap">--no-images</code></p>'
    return f'{warning}<p>{how}</p><div class="strip pairs">{"".join(figures)}</div>'


def overlays_of(
    mistakes: Sequence[Mistake], folds: Folds, overlay: Overlay | None
) -> tuple[dict[Mistake, NDArray[np.uint8]], str]:
    """The picture of each mistake by the fold model that held its row out; none, and why, where they cannot be made."""
    found: dict[Mistake, NDArray[np.uint8]] = {}
    if overlay is None:
        return found, "As the network is shown them; heat maps were not asked for."
    try:
        for fold in sorted({int(folds.fold[mistake.row]) for mistake in mistakes}):
            held_out = [mistake for mistake in mistakes if folds.fold[mistake.row] == fold]
            rows, classes = (np.array([getattr(m, of) for m in held_out], np.int64) for of in ("row", "explained"))
            found |= dict(zip(held_out, overlay(fold, rows, classes), strict=True))
    except RequestError as error:
        return {}, f"No heat maps: {error}"
    return found, ""


def beside(image: NDArray[np.uint8], heat: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(H, 2 W, 3) the image (H, W, 1 or 3) and its overlay (H, W, 3)."""
    return np.concatenate([np.broadcast_to(image, (*image.shape[:2], 3)), heat], axis=1)
