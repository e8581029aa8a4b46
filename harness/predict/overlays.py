"""Heat maps as PNG: the image as it is, beside it the same image in grey under its heat, class and probability below.

The only file that imports matplotlib, for a colour map that is perceptually uniform and safe for colour-blind readers.
Heat is drawn the more opaque the higher it is, so that cold places stay as they were, and the fainter the less probable
the class is: a map is scaled to its own hottest place, which an image without any finding has, too. A file is named
after its number in the output and the image's own file name; nothing of a DICOM header is drawn.

n: images, H, W: sides of the drawn image.
"""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import PIL.Image
import PIL.ImageDraw
import PIL.ImageFont
from numpy.typing import NDArray

from harness.config.data import Decode
from harness.ensemble.bundle import Bundle
from harness.errors import RequestError, Unreadable
from harness.images.decode import decode
from harness.images.pixels import Pixels
from harness.metrics import METRICS
from harness.predict.explain import heat_maps
from harness.types import Progress

COLOURS = "inferno"
SIDE = 448
"""pixels of an image that networks see as a square, drawn"""
OPAQUE = 0.75
"""of the hottest place of an image whose class is certain"""
FAINTEST = 0.3
"""of that where the class is impossible"""
STRIP, MARGIN, GAP = 44, 10, 6
"""pixels: height of the strip below, its margin, between the two images"""
LONGEST_NAME = 60


def explain_part(
    bundle: Bundle,
    files: Sequence[Path],
    pixels: Sequence[Pixels],
    probabilities: NDArray[np.float64],
    device: str,
    folder: Path,
    before: int,
    all_members: bool,
    progress: Progress | None = None,
) -> list[Path | None]:
    """Write an overlay of each image into `folder`; (n,) their paths, None where a file could not be read again.

    probabilities (n, C) as they are told; before: answers that came earlier, for the numbers in names. The heat maps
    are the mean over the fold models of the best member, or of all members that see images as it does. Raises
    RequestError where the folder cannot be made or a network has no feature map.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RequestError(f"--explain {folder}: cannot be made a folder ({error.strerror}). Name another.") from None
    classes = shown_class(probabilities, bundle.multilabel)
    best = best_member(bundle)
    number = bundle.decode_of[best]
    members = [m for m, other in enumerate(bundle.decode_of) if other == number] if all_members else [best]
    weights = [path for m in members for path in bundle.weights[m]]
    heats = heat_maps(weights, pixels[number], classes, device, progress)
    written: list[Path | None] = []
    for row, (file, heat) in enumerate(zip(files, heats, strict=True)):
        name, p = bundle.classes[classes[row]], float(probabilities[row, classes[row]])
        target = folder / overlay_name(before + row + 1, file, name, p)
        try:
            image = decode(file, for_display(bundle.decodes[number]))
        except Unreadable:  # it could be read a moment ago
            written.append(None)
            continue
        draw_overlay(image, heat, f"{name}  p = {p:.2f}", p).save(target)
        written.append(target)
    return written


def shown_class(p: NDArray[np.float64], multilabel: bool) -> NDArray[np.int64]:
    """(n,) whose heat is drawn: of two classes always the positive one, for what speaks for `normal` is everywhere;
    otherwise the most probable one."""
    if p.shape[1] == 2 and not multilabel:
        return np.ones(len(p), dtype=np.int64)
    return np.asarray(p.argmax(axis=1), dtype=np.int64)


def best_member(bundle: Bundle) -> int:
    """The member with the best out-of-fold score, by what the bundle says of its single members."""
    singles = [row for row in bundle.about.get("scores", ()) if row.get("kind") == "single"]
    if len(singles) != len(bundle.members):
        return 0
    sign = 1.0 if METRICS[bundle.metric].higher_is_better else -1.0
    return max(range(len(singles)), key=lambda m: sign * singles[m]["oof"][bundle.metric]["value"])


def overlay_name(number: int, file: Path, name: str, p: float) -> str:
    """Number in the output, the image's file name, class and probability; letters that file systems take."""
    plain = [re.sub(r"[^\w.-]+", "-", text).strip("-.")[:LONGEST_NAME] for text in (file.stem, name)]
    return f"{number:04d}_{'_'.join(filter(None, plain))}_p{p:.2f}.png"


def for_display(how: Decode) -> Decode:
    """The same picture, cut the same way, at a size for people."""
    return how if how.size == "native" else how.model_copy(update={"size": max(SIDE, how.size)})


def draw_overlay(image: NDArray[np.uint8], heat: NDArray[np.float32], caption: str, p: float) -> PIL.Image.Image:
    """image (H, W, 1 or 3); heat (h, w) in [0, 1] for a class of probability p, stretched over it; side by side."""
    opaque = OPAQUE * (FAINTEST + (1 - FAINTEST) * p)
    picture = PIL.Image.fromarray(image[..., 0] if image.shape[2] == 1 else image)
    width, height = picture.size
    spread = PIL.Image.fromarray(heat).resize((width, height), PIL.Image.Resampling.BICUBIC)
    hot = np.clip(np.asarray(spread), 0.0, 1.0)
    canvas = PIL.Image.new("RGB", (2 * width + GAP, height + STRIP))
    canvas.paste(picture.convert("RGB"), (0, 0))
    canvas.paste(PIL.Image.fromarray(blended(np.asarray(picture.convert("L")), hot, opaque)), (width + GAP, 0))
    pen = PIL.ImageDraw.Draw(canvas)
    font = PIL.ImageFont.load_default(15)
    pen.text((MARGIN, height + STRIP // 2), caption, font=font, fill="white", anchor="lm")
    if hot.max() > 0:
        _draw_scale(canvas, width + GAP, height, width, opaque, font)
    else:
        text = "no place speaks for it"
        pen.text((width + GAP + MARGIN, height + STRIP // 2), text, font=font, fill="white", anchor="lm")
    return canvas


def blended(grey: NDArray[np.uint8], hot: NDArray[np.float32], opaque: float) -> NDArray[np.uint8]:
    """(H, W, 3) grey levels (H, W) under heat (H, W) in [0, 1], `opaque` where it is 1."""
    import matplotlib

    colours = matplotlib.colormaps[COLOURS](hot)[..., :3] * 255
    share = (opaque * hot)[..., None]
    return np.asarray(np.round((1 - share) * grey[..., None] + share * colours), dtype=np.uint8)


def _draw_scale(
    canvas: PIL.Image.Image,
    left: int,
    top: int,
    width: int,
    opaque: float,
    font: PIL.ImageFont.FreeTypeFont | PIL.ImageFont.ImageFont,
) -> None:
    """What the colours mean, over mid grey as over the image: from nothing to this image's hottest place."""
    pen = PIL.ImageDraw.Draw(canvas)
    words = [text for text in ("no evidence", "most") if width > 300]
    inner = width - 2 * MARGIN - (150 if words else 0)
    if inner < 20:
        return
    ramp = np.repeat(np.linspace(0, 1, inner, dtype=np.float32)[None], 12, axis=0)
    bar = PIL.Image.fromarray(blended(np.full(ramp.shape, 96, np.uint8), ramp, opaque))
    middle = top + STRIP // 2
    start = left + MARGIN + (95 if words else 0)
    canvas.paste(bar, (start, middle - 6))
    if words:
        pen.text((left + MARGIN, middle), words[0], font=font, fill="white", anchor="lm")
        pen.text((start + inner + 8, middle), words[1], font=font, fill="white", anchor="lm")
