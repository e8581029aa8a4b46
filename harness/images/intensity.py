"""From stored values to grey levels: modality and VOI tables, windows, polarity, scaling.

From stored numbers to grey levels by DICOM's rules: lookup tables, windows, ranges. Pure functions of arrays.

Windows follow PS3.3 C.11.2.1.2 and C.11.2.1.3 with an output range of [0, 1]; lookup tables PS3.3 C.11.1.1 and
C.11.2.1.1. Knows no files.

How a DICOM header says that stored values are to be shown: modality LUT, values of interest, polarity (PS3.4 N.2).

Works on pydicom's data sets without importing pydicom; numbers only, no text of a header leaves this file.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.errors import Unreadable

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


Window = int | Span | tuple[Span, Span, Span] | None
"""which of the file's own, counted from 1; (centre, width) in modality units; three of them; None: the first own"""
EXPLICIT_BIG = "1.2.840.10008.1.2.2"


def use_frame_groups(dataset: Any, index: int) -> None:
    """Take the rescaling and the window that an enhanced multi-frame object gives a frame (PS3.3 C.7.6.16)."""
    shared, own = dataset.get("SharedFunctionalGroupsSequence"), dataset.get("PerFrameFunctionalGroupsSequence")
    for groups in (shared[0] if shared else None, own[index] if own and index < len(own) else None):
        for sequence in ("PixelValueTransformationSequence", "FrameVOILUTSequence"):
            for element in groups[sequence][0] if groups is not None and groups.get(sequence) else ():
                dataset[element.tag] = element


def grey(stored: NDArray[Any], dataset: Any, window: Window) -> NDArray[np.uint8]:
    """(H, W), or (H, W, 3) through three windows."""
    if isinstance(window, tuple) and len(window) == 3:
        return np.stack([grey(stored, dataset, one) for one in window], axis=2)
    of_interest = _values_of_interest(stored, dataset, window)
    inverted = dataset.PhotometricInterpretation == "MONOCHROME1"

    def level(values: NDArray[Any]) -> Floats:
        shade: Floats = of_interest(_modality(values, dataset))
        return 1.0 - shade if inverted else shade

    return per_value(stored, level)


def _modality(stored: NDArray[Any], dataset: Any) -> Floats:
    """Modality values: through the modality LUT, or by slope and intercept where the file has them."""
    sequence = dataset.get("ModalityLUTSequence")
    if sequence:
        return looked_up(stored, *_table(sequence[0], dataset)[:2])
    values: Floats = stored.astype(np.float64)
    slope, intercept = dataset.get("RescaleSlope"), dataset.get("RescaleIntercept")
    if slope is None or intercept is None:
        return values
    if not float(slope):
        raise Unreadable("a rescale slope of 0")
    return values * float(slope) + float(intercept)


def _values_of_interest(stored: NDArray[Any], dataset: Any, window: int | Span | None) -> Callable[[Floats], Floats]:
    """The function from modality values to [0, 1]; `stored` is asked only where neither window nor LUT says."""
    if isinstance(window, tuple):
        centre, width = window
        return lambda values: windowed(values, centre, width, "LINEAR_EXACT")
    chosen = 0 if window is None else window - 1
    tables = dataset.get("VOILUTSequence")
    centres, widths = _numbers(dataset.get("WindowCenter")), _numbers(dataset.get("WindowWidth"))
    own = len(tables) if tables else min(len(centres), len(widths))
    if window is not None and window > own:
        raise Unreadable(f"no window {window}: the file has {own}")
    if tables:
        first, entries, bits = _table(tables[chosen], dataset)
        return lambda values: between(looked_up(values, first, entries), (0, 2**bits - 1))
    if own:
        function = str(dataset.get("VOILUTFunction") or "LINEAR").upper()
        if function == "LINEAR" and stored.dtype.kind == "f":
            function = "LINEAR_EXACT"  # the other's half steps are between integers: a width of 1 would leave no greys
        if widths[chosen] >= 1 or (function != "LINEAR" and widths[chosen] > 0):
            return lambda values: windowed(values, centres[chosen], widths[chosen], function)
        if window is not None:
            raise Unreadable(f"window {window} has an impossible width")
    span = _range(stored, dataset)
    return lambda values: between(values, span)


def _range(stored: NDArray[Any], dataset: Any) -> Span:
    """Modality values of what up to 8 stored bits can hold; of the pixels present, padding aside, for deeper data."""
    if stored.dtype.kind != "f" and dataset.BitsStored <= 8:
        ends = np.array(full_range(int(dataset.BitsStored), bool(dataset.get("PixelRepresentation", 0))))
    else:
        present = stored
        if "PixelPaddingValue" in dataset:
            padding = int(dataset.PixelPaddingValue)
            low, high = sorted((padding, int(dataset.get("PixelPaddingRangeLimit", padding))))
            present = stored[(stored < low) | (stored > high)]
        if present.size == 0:
            return 0.0, 0.0
        # A modality LUT need not be monotonic: its values are looked at one by one.
        ends = np.unique(present) if "ModalityLUTSequence" in dataset else np.array([present.min(), present.max()])
    values = _modality(ends, dataset)
    return float(values.min()), float(values.max())


def _table(item: Any, dataset: Any) -> tuple[int, NDArray[np.uint16], int]:
    """(first stored value, entries, bits per entry) of a modality or VOI lookup table."""
    count, first, bits = (int(number) for number in item.LUTDescriptor)
    if not 8 <= bits <= 16:
        raise Unreadable("a lookup table of less than 8 or more than 16 bits")
    data = item.LUTData
    if isinstance(data, bytes):
        order = ">" if dataset.file_meta.TransferSyntaxUID == EXPLICIT_BIG else "<"
        entries = np.frombuffer(data, "u1" if bits == 8 and len(data) == count + count % 2 else f"{order}u2")
    else:
        entries = np.atleast_1d(np.array(data))
    entries = entries[: count or 1 << 16].astype(np.uint16)
    if len(entries) < (count or 1 << 16):
        raise Unreadable("a lookup table that is cut off")
    return first, entries, bits


def _numbers(value: Any) -> list[float]:
    """Of one number, several, or none."""
    if value is None or value == "":
        return []
    several = not isinstance(value, str) and hasattr(value, "__len__")
    return [float(number) for number in value] if several else [float(value)]
