"""What a grey picture shows, without what lies around it: of a slice through a head, the head.

The largest connected part that is brighter than the background is cut out, with its holes. What lies outside (letters,
rulers, frames, the table) becomes black, and the grey levels within are stretched to the whole range, so that exports
with another brightness look alike. It is one picture's own doing: no other image has a say. Knows arrays only.
"""

import math

import numpy as np
import PIL.Image
from numpy.typing import NDArray

BACKGROUND = 0.15
"""of the range of grey: what is darker is no part of the object"""
RANGE = (1.0, 99.0)
"""percentiles within the object that become black and white"""
LOOKED_AT = 512
"""longest side, in pixels, of the copy on which the object is looked for"""


def foreground(picture: NDArray[np.uint8]) -> NDArray[np.float64]:
    """(h, w) from 0 to 1, the box around the object of a grey picture (H, W); the whole picture where nothing stands
    out."""
    from scipy import ndimage

    height, width = picture.shape
    scale = min(1.0, LOOKED_AT / max(height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    small = np.asarray(PIL.Image.fromarray(picture).resize(size, PIL.Image.Resampling.BOX), dtype=np.float64)
    low, high = np.percentile(small, [0.5, 99.5])
    parts, count = ndimage.label(small > low + BACKGROUND * (high - low))
    inside = np.ones(small.shape, dtype=bool)
    if count:
        inside = ndimage.binary_fill_holes(parts == 1 + int(np.bincount(parts.ravel())[1:].argmax()))
    rows, columns = ndimage.find_objects(inside.astype(np.uint8))[0]
    down, across = height / small.shape[0], width / small.shape[1]
    top, bottom = math.floor(rows.start * down), math.ceil(rows.stop * down)
    left, right = math.floor(columns.start * across), math.ceil(columns.stop * across)
    cut = picture[top:bottom, left:right].astype(np.float64)
    mask = PIL.Image.fromarray(inside[rows, columns]).resize(cut.shape[::-1], PIL.Image.Resampling.NEAREST)
    low, high = np.percentile(small[inside], RANGE)
    stretched = np.clip((cut - low) / max(high - low, 1.0), 0.0, 1.0)
    return np.asarray(stretched * np.asarray(mask), dtype=np.float64)
