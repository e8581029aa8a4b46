"""Pictures under the heat of one fold's network, for whoever shows images that this fold held out."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from harness.images.pixels import Pixels
from harness.predict.explain import heat_maps
from harness.predict.overlays import OPAQUE, blended

Ints = NDArray[np.int64]


def fold_overlays(
    weights: Callable[[int], Path], pixels: Pixels, device: str
) -> Callable[[int, Ints, Ints], list[NDArray[np.uint8]]]:
    """overlay(fold, rows (n,), classes (n,)) -> n pictures (H, W, 3). `weights`: the checkpoint of a fold; `pixels`: of
    the whole data set. Raises RequestError for a network that has no feature map."""

    def overlay(fold: int, rows: Ints, classes: Ints) -> list[NDArray[np.uint8]]:
        asked = pixels[rows]
        heats = heat_maps([weights(fold)], asked, classes, device)
        return [blended(_grey(asked[i]), heat, OPAQUE) for i, heat in enumerate(heats)]

    return overlay


def _grey(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    if image.shape[2] == 1:
        return image[..., 0]
    return np.asarray(PIL.Image.fromarray(image).convert("L"))
