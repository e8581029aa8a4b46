"""DICOM, read for display and written for tests and the phantom: the only file that imports pydicom.

Reading keeps to the order of the standard (PS3.4 N.2): modality LUT, then values of interest (window or LUT), then
polarity. Nothing of a header is logged or kept but what turns stored values into grey levels; reasons for failure
never quote a header. pydicom is imported inside the functions, so that data sets without DICOM do not pay for it.
"""

import io
import logging
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from harness.data.unreadable import Unreadable

MAX_PIXELS = 89_478_485
"""of one frame; the same limit as for other images"""
TECHNICAL = (
    "Modality",
    "BodyPartExamined",
    "ViewPosition",
    "Laterality",
    "ImageLaterality",
    "PatientPosition",
    "Manufacturer",
    "ManufacturerModelName",
    "KVP",
    "SliceThickness",
    "PixelSpacing",
    "NumberOfFrames",
    "BitsAllocated",
    "BitsStored",
    "SamplesPerPixel",
    "Rows",
    "Columns",
    "PhotometricInterpretation",
)
"""attributes that say how an image was made and not of whom: the only ones that are ever kept as they are"""
IDENTIFYING = ("PatientID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID", "AccessionNumber")
"""attributes that tell who belongs together: kept as salted hashes alone"""
EXPLICIT_LITTLE = "1.2.840.10008.1.2.1"
CT_STORAGE = "1.2.840.10008.5.1.4.1.1.2"


def is_dicom(data: bytes) -> bool:
    """By content: the preamble's mark, or a data set that starts with a group that starts DICOM files."""
    return data[128:132] == b"DICM" or data[:4] in (b"\x02\x00\x00\x00", b"\x08\x00\x05\x00", b"\x08\x00\x08\x00")


def read_dicom(data: bytes, window: tuple[float, float] | None = None) -> NDArray[np.uint8]:
    """A DICOM file's bytes as (H, W) grey or (H, W, 3) RGB, uint8, bright meaning bright.

    Of several frames the middle one (index n // 2). Grey: `window` (centre, width in modality units, edges at
    centre -+ width / 2) where given; else the file's first VOI LUT; else its first window by its own function
    (PS3.3 C.11.2.1.2: LINEAR, LINEAR_EXACT, SIGMOID); else the whole range of up to 8 stored bits, or the range of
    the pixels present (padding aside) for deeper data. MONOCHROME1 is inverted at the end. Colour (RGB, YBR, palette)
    becomes RGB of 8 bits.

    Raises Unreadable for everything that is wrong with the file.
    """
    dataset = _open(data)
    try:
        return _display(dataset, window)
    except Unreadable:
        raise
    except Exception as error:  # pydicom and its plug-ins raise anything from struct.error to AttributeError
        syntax = _syntax(dataset)
        hint = "; pip install pylibjpeg pylibjpeg-libjpeg may help" if syntax.startswith("JPEG Lossless") else ""
        raise Unreadable(f"cannot decode the {syntax} pixel data ({type(error).__name__}){hint}") from None


def dicom_header(file: BinaryIO) -> tuple[int, int, str, dict[str, str]]:
    """(width, height, photometric interpretation, attributes of TECHNICAL and IDENTIFYING by keyword) of an open file,
    of which no more is read than its header. An attribute that is not there is ''.

    The identifying ones are as written: whoever calls this hashes them. Raises Unreadable, and OSError where the
    storage fails.
    """
    pydicom = _pydicom()
    names = [*TECHNICAL, *IDENTIFYING]
    try:
        dataset = pydicom.dcmread(file, force=True, stop_before_pixels=True, specific_tags=names)
        if "Rows" not in dataset or "Columns" not in dataset:
            raise Unreadable("a DICOM file without an image")
        if dataset.Rows * dataset.Columns > MAX_PIXELS:
            raise Unreadable(f"more than {MAX_PIXELS} pixels: refused as a decompression bomb")
        attributes = {name: _as_text(dataset.get(name)) for name in names}
        facts = int(dataset.Columns), int(dataset.Rows)
    except Unreadable:
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise Unreadable(f"damaged DICOM header ({type(error).__name__})") from None
    if not attributes["PhotometricInterpretation"]:
        raise Unreadable("a DICOM file without an image")
    return *facts, attributes["PhotometricInterpretation"], attributes


def _as_text(value: Any) -> str:
    if value is None:
        return ""
    several = not isinstance(value, str) and hasattr(value, "__iter__")
    return " ".join(str(one).strip() for one in value) if several else str(value).strip()


def write_dicom(
    path: Path,
    stored: NDArray[np.uint8] | NDArray[np.uint16],
    *,
    slope: float = 1.0,
    intercept: float = 0.0,
    window: tuple[float, float] | None = None,
    inverted: bool = False,
    function: str = "LINEAR_EXACT",
) -> None:
    """Write a small, valid, anonymous CT file with the given stored values (H, W).

    `inverted` stores the same picture as MONOCHROME1: values (and window) mirrored about the middle of the range.
    """
    pydicom = _pydicom()
    from pydicom.uid import generate_uid

    top = int(np.iinfo(stored.dtype).max)
    if inverted:
        stored = np.subtract(top, stored, dtype=stored.dtype)
        if window is not None:
            window = (slope * top + 2 * intercept - window[0], window[1])
    dataset = pydicom.Dataset()
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    uid = generate_uid(entropy_srcs=[path.name])
    dataset.file_meta.TransferSyntaxUID = EXPLICIT_LITTLE
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = CT_STORAGE
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = uid
    dataset.Modality = "CT"
    dataset.Rows, dataset.Columns = stored.shape
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME1" if inverted else "MONOCHROME2"
    dataset.PixelRepresentation = 0
    dataset.BitsAllocated = dataset.BitsStored = stored.dtype.itemsize * 8
    dataset.HighBit = dataset.BitsStored - 1
    dataset.RescaleSlope, dataset.RescaleIntercept = slope, intercept
    if window is not None:
        dataset.WindowCenter, dataset.WindowWidth = window
        dataset.VOILUTFunction = function
    dataset.PixelData = stored.astype(stored.dtype.newbyteorder("<")).tobytes() + b"\0" * (stored.nbytes % 2)
    dataset["PixelData"].VR = "OB" if stored.dtype.itemsize == 1 else "OW"
    dataset.save_as(path, enforce_file_format=True)


def _pydicom() -> ModuleType:
    """pydicom, told not to repeat header values in warnings or logs."""
    import pydicom
    import pydicom.config
    import pydicom.pixels

    pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE
    logging.getLogger("pydicom").disabled = True
    warnings.filterwarnings("ignore", module=r"pydicom\b")
    module: ModuleType = pydicom
    return module


def _open(data: bytes) -> Any:
    pydicom = _pydicom()
    try:
        dataset = pydicom.dcmread(io.BytesIO(data), force=True)
        if "Rows" not in dataset or "Columns" not in dataset:
            raise Unreadable("a DICOM file without an image")
        if dataset.Rows * dataset.Columns > MAX_PIXELS:
            raise Unreadable(f"more than {MAX_PIXELS} pixels: refused as a decompression bomb")
        return dataset
    except Unreadable:
        raise
    except Exception as error:
        raise Unreadable(f"damaged DICOM header ({type(error).__name__})") from None


def _syntax(dataset: Any) -> str:
    """The transfer syntax's registered name: says which decoder is wanting, and nothing about a patient."""
    try:
        uid = dataset.file_meta.TransferSyntaxUID
        return str(uid.name) if uid.is_transfer_syntax else "(unknown syntax)"
    except Exception:
        return "(unknown syntax)"


def _display(dataset: Any, window: tuple[float, float] | None) -> NDArray[np.uint8]:
    from pydicom.pixels import apply_color_lut, apply_modality_lut, pixel_array

    if not any(name in dataset for name in ("PixelData", "FloatPixelData", "DoubleFloatPixelData")):
        raise Unreadable("a DICOM file without pixel data")
    if "TransferSyntaxUID" not in getattr(dataset, "file_meta", {}):
        dataset.file_meta = getattr(dataset, "file_meta", None) or _pydicom().dataset.FileMetaDataset()
        # Files without a preamble are read as what dcmread found them to be; the standard's default is implicit.
        little, implicit = dataset.original_encoding[1] is not False, dataset.original_encoding[0] is not False
        dataset.file_meta.TransferSyntaxUID = (
            "1.2.840.10008.1.2" if implicit else EXPLICIT_LITTLE if little else "1.2.840.10008.1.2.2"
        )
    frames = int(dataset.get("NumberOfFrames") or 1)
    stored = pixel_array(dataset, index=frames // 2 if frames > 1 else 0)
    photometric = str(dataset.PhotometricInterpretation)
    if photometric == "PALETTE COLOR":
        colours = apply_color_lut(stored, dataset)
        return _to_8_bits(colours[..., :3], 8 * colours.dtype.itemsize)
    if stored.ndim == 3:
        return _to_8_bits(stored[..., :3], int(dataset.BitsStored))
    grey = _values_of_interest(np.asarray(apply_modality_lut(stored, dataset), np.float64), stored, dataset, window)
    if not np.isfinite(grey).all():
        raise Unreadable("pixel values that are not numbers")
    if photometric == "MONOCHROME1":
        grey = 1.0 - grey
    return np.round(grey * 255).astype(np.uint8)


def _values_of_interest(
    values: NDArray[np.float64], stored: NDArray[Any], dataset: Any, window: tuple[float, float] | None
) -> NDArray[np.float64]:
    """(H, W) in [0, 1] from modality values."""
    if window is not None:
        return _windowed(values, window[0], window[1], "LINEAR_EXACT")
    if dataset.get("VOILUTSequence"):
        from pydicom.pixels import apply_voi

        bits = int(dataset.VOILUTSequence[0].LUTDescriptor[2])
        looked_up: NDArray[np.float64] = np.asarray(apply_voi(values.astype(np.int64), dataset), np.float64)
        scaled: NDArray[np.float64] = np.clip(looked_up / (2**bits - 1), 0, 1)
        return scaled
    centre, width = _first(dataset.get("WindowCenter")), _first(dataset.get("WindowWidth"))
    function = str(dataset.get("VOILUTFunction") or "LINEAR").upper()
    if centre is not None and width is not None and width >= (1 if function == "LINEAR" else 1e-12):
        return _windowed(values, centre, width, function)
    if "BitsStored" in dataset and dataset.BitsStored <= 8:
        return _between(values, *_modality_ends(dataset))
    present = values[stored != dataset.PixelPaddingValue] if "PixelPaddingValue" in dataset else values
    present = present[np.isfinite(present)]
    if present.size == 0:
        return np.zeros_like(values)
    return _between(values, float(present.min()), float(present.max()))


def _windowed(values: NDArray[np.float64], centre: float, width: float, function: str) -> NDArray[np.float64]:
    """PS3.3 C.11.2.1.2 and C.11.2.1.3, with an output range of [0, 1]."""
    if function == "SIGMOID":
        curve: NDArray[np.float64] = 1 / (1 + np.exp(np.clip(-4 * (values - centre) / width, -700, 700)))
        return curve
    if function == "LINEAR_EXACT":
        return np.clip((values - centre) / width + 0.5, 0, 1)
    if width <= 1:
        return (values > centre - 0.5).astype(np.float64)
    return np.clip((values - (centre - 0.5)) / (width - 1) + 0.5, 0, 1)


def _modality_ends(dataset: Any) -> tuple[float, float]:
    """The modality values of the smallest and the largest value that the stored bits can hold."""
    from pydicom.pixels import apply_modality_lut

    bits, signed = int(dataset.BitsStored), bool(dataset.get("PixelRepresentation", 0))
    ends = np.array([-(2 ** (bits - 1)), 2 ** (bits - 1) - 1] if signed else [0, 2**bits - 1])
    low, high = np.sort(np.asarray(apply_modality_lut(ends, dataset), np.float64))
    return float(low), float(high)


def _between(values: NDArray[np.float64], low: float, high: float) -> NDArray[np.float64]:
    return np.clip((values - low) / (high - low), 0, 1) if high > low else np.zeros_like(values)


def _first(value: Any) -> float | None:
    if value is None or value == "":
        return None
    if not isinstance(value, str) and hasattr(value, "__len__"):
        return float(value[0]) if len(value) else None
    return float(value)


def _to_8_bits(colours: NDArray[Any], bits: int) -> NDArray[np.uint8]:
    """Full range of `bits` to 0..255."""
    if bits == 8:
        return np.ascontiguousarray(colours, dtype=np.uint8)
    return np.round(np.clip(colours / (2.0**bits - 1), 0, 1) * 255).astype(np.uint8)
