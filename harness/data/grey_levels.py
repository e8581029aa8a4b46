"""From stored numbers to grey levels by DICOM's rules: lookup tables, windows, ranges. Pure functions of arrays.

Windows follow PS3.3 C.11.2.1.2 and C.11.2.1.3 with an output range of [0, 1]; lookup tables PS3.3 C.11.1.1 and
C.11.2.1.1. Knows no files.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Span = tuple[float, float]
FUNCTIONS = ("LINEAR", "LINEAR_EXACT", "SIGMOID")
BLOCK = 1 << 20
"""pixels brought to grey at a time, so that large pictures do not take many times their own memory"""


def windowed(values: Floats, centre: float, width: float, function: str) -> Floats:
    """Modality values through a window, in [0, 1]. Raises ValueError for a function that the standard does not have."""
    if function == "SIGMOID":
        curve: Floats = 1 / (1 + np.exp(np.clip(-4 * (values - centre) / width, -700, 700)))
        return curve
    if function == "LINEAR_EXACT":
        return np.clip((values - centre) / width + 0.5, 0, 1)
    if function != "LINEAR":
        raise ValueError("an unknown window function")
    if width <= 1:
        return (values > centre - 0.5).astype(np.float64)
    return np.clip((values - (centre - 0.5)) / (width - 1) + 0.5, 0, 1)


def between(values: Floats, span: Span) -> Floats:
    """The span's ends become 0 and 1; all zero where it has no extent."""
    low, high = span
    return np.clip((values - low) / (high - low), 0, 1) if high > low else np.zeros_like(values)


def looked_up(values: NDArray[np.generic], first: int, entries: NDArray[np.uint16]) -> Floats:
    """Values through a lookup table whose first entry is for `first`; beyond either end, that end's entry."""
    index = np.rint(np.asarray(values, np.float64)) - first
    found: Floats = entries[np.clip(index, 0, len(entries) - 1).astype(np.int64)].astype(np.float64)
    return found


def per_value(stored: NDArray[np.generic], level: Callable[[NDArray[np.generic]], Floats]) -> NDArray[np.uint8]:
    """`level` (stored values of any shape to [0, 1]) of every pixel (H, W), as 0..255.

    Integers whose range is smaller than the picture are looked up in a table of `level` over that range: the same
    numbers, sooner. Raises ValueError where a level is not a number.
    """
    if stored.dtype.kind in "ui":
        low, high = int(stored.min()), int(stored.max())
        if high - low < min(stored.size, BLOCK):
            table = _to_bytes(level(np.arange(low, high + 1, dtype=np.int64).astype(stored.dtype)))
            return table[stored if low == 0 else stored.astype(np.int64) - low]
    levels = np.empty(stored.shape, np.uint8)
    rows = max(1, BLOCK // max(1, stored.shape[1]))
    for top in range(0, len(stored), rows):
        levels[top : top + rows] = _to_bytes(level(stored[top : top + rows]))
    return levels


def full_range(bits: int, signed: bool) -> tuple[int, int]:
    """The smallest and the largest number that so many bits can hold."""
    return (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if signed else (0, (1 << bits) - 1)


def bytes_of_range(values: NDArray[np.generic], low: float, high: float) -> NDArray[np.uint8]:
    """Values (any shape) scaled so that low becomes 0 and high 255, rounded, clipped; zeros where high is not above."""
    if not high > low:
        return np.zeros(values.shape, np.uint8)
    flat = values.reshape(len(values), -1)
    scaled = np.empty(flat.shape, np.uint8)
    rows = max(1, BLOCK // max(1, flat.shape[1]))
    for top in range(0, len(flat), rows):
        scaled[top : top + rows] = _to_bytes(
            np.clip((flat[top : top + rows].astype(np.float64) - low) / (high - low), 0, 1)
        )
    return scaled.reshape(values.shape)


def _to_bytes(levels: Floats) -> NDArray[np.uint8]:
    if not np.isfinite(levels).all():
        raise ValueError("levels that are not numbers")
    return np.round(levels * 255).astype(np.uint8)
