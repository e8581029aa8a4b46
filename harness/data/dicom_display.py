"""How a DICOM header says that stored values are to be shown: modality LUT, values of interest, polarity (PS3.4 N.2).

Works on pydicom's data sets without importing pydicom; numbers only, no text of a header leaves this file.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.data.grey_levels import Floats, Span, between, full_range, looked_up, per_value, windowed
from harness.errors import Unreadable

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
