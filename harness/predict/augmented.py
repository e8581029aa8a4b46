"""Test-time augmentation: the same images seen in several ways, and their probabilities averaged.

Only flips and rotations that all members of a bundle trained with: another view is one that no network knows. Which N
views are seen depends on N and the bundle alone, and the first is the image as it is.

n: images, S, H, W: sides.
"""

from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from harness.augment.transforms import resample, turned
from harness.errors import RequestError
from harness.images.pixels import Pixels, Ragged, gather

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
