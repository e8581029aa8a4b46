"""DICOM, read for display and written for tests and the phantom: the only file that imports pydicom.

Reading keeps to the order of the standard (PS3.4 N.2): modality LUT, then values of interest (window or LUT), then
polarity. Nothing of a header is logged or kept but what turns stored values into grey levels; reasons for failure
never quote a header. pydicom is imported inside the functions, so that data sets without DICOM do not pay for it.
"""

import io
import logging
import threading
import warnings
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO, Literal

import numpy as np
from numpy.typing import NDArray

from harness.errors import Unreadable
from harness.images import dicom_codecs
from harness.images.intensity import EXPLICIT_BIG, Window, bytes_of_range, grey, use_frame_groups

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
MAX_INFLATED = 1 << 29
"""bytes of a deflated data set or frame, inflated"""
IMPLICIT_LITTLE, EXPLICIT_LITTLE = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1"
DEFLATED = b"1.2.840.10008.1.2.1.99"
NUMBERS = frozenset((0x00280002, 0x00280010, 0x00280011, 0x00280100, 0x00280101))
"""SamplesPerPixel, Rows, Columns, BitsAllocated, BitsStored: unsigned, of two bytes"""
LONG_VALUE = 4096
"""bytes of an element that a header is read without"""
CT_STORAGE = "1.2.840.10008.5.1.4.1.1.2"
GREY = ("MONOCHROME1", "MONOCHROME2")
COLOUR = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")
RETIRED = ("HSV", "ARGB", "CMYK", "YBR_PARTIAL_422", "YBR_PARTIAL_420")

Frame = int | Literal["middle", "first"]
"""which of several frames; numbers count from 1"""

_plugin = threading.Lock()


def is_dicom(data: bytes) -> bool:
    """By content: the preamble's mark, or a data set that starts with a group that starts DICOM files."""
    return data[128:132] == b"DICM" or data[:4] in (b"\x02\x00\x00\x00", b"\x08\x00\x05\x00", b"\x08\x00\x08\x00")


def read_dicom(data: bytes, window: Window = None, frame: Frame = "middle") -> NDArray[np.uint8]:
    """A DICOM file's bytes as (H, W) grey or (H, W, 3) RGB, uint8, bright meaning bright.

    Of n frames `frame`; the middle one is number n // 2 + 1. Grey: where `window` is (centre, width), values from
    centre - width / 2 to centre + width / 2 in modality units; three such make red, green and blue. Else the file's
    own: its first VOI LUT (or the one that `window` numbers); else its first (or that) window by its own function
    (PS3.3 C.11.2.1.2: LINEAR, LINEAR_EXACT, SIGMOID); else the whole range of up to 8 stored bits, or the range of
    the pixels present (padding aside) for deeper data. MONOCHROME1 is inverted at the end. Colour (RGB, YBR, palette)
    becomes RGB of 8 bits; windows do not apply to it.

    Raises Unreadable for everything that is wrong with the file.
    """
    dataset = _open(data)
    try:
        return _display(dataset, window, frame)
    except (Unreadable, MemoryError):
        raise
    except Exception as error:  # pydicom and its plug-ins raise anything from struct.error to AttributeError
        raise Unreadable(f"cannot decode the {_syntax(dataset)} pixel data ({type(error).__name__})") from None


def dicom_header(file: BinaryIO) -> tuple[int, int, str, dict[str, str]]:
    """(width, height, photometric interpretation, attributes of TECHNICAL and IDENTIFYING by keyword) of an open file,
    of which no more is read than its header. An attribute that is not there is ''.

    The identifying ones are as written: whoever calls this hashes them. Raises Unreadable, and OSError where the
    storage fails.
    """
    names, dataset = _for_headers()[1], open_header(file)
    try:
        attributes = dict.fromkeys(names.values(), "")
        attributes |= {names[tag]: _as_text(dataset.get_item(tag)) for tag in names.keys() & dataset.keys()}
        facts = int(attributes["Columns"] or 0), int(attributes["Rows"] or 0)
        if not all(facts):
            raise Unreadable("a DICOM file without an image")
        if facts[0] * facts[1] > MAX_PIXELS:
            raise Unreadable(f"more than {MAX_PIXELS} pixels: refused as a decompression bomb")
    except (Unreadable, MemoryError):
        raise
    except Exception as error:
        raise Unreadable(f"damaged DICOM header ({type(error).__name__})") from None
    if not attributes["PhotometricInterpretation"]:
        raise Unreadable("a DICOM file without an image")
    return *facts, attributes["PhotometricInterpretation"], attributes


def open_header(file: BinaryIO) -> Any:
    """The data set of an open file without its pixels, of which no more is read than that. Raises Unreadable, and
    OSError where the storage fails."""
    pydicom = _for_headers()[0]
    try:
        deflated = _names_deflated(file)
        file.seek(0)
        if deflated:  # nothing of such a file can be read without inflating it whole
            file = io.BytesIO(_inflated(file.read()))
        return pydicom.dcmread(file, force=True, stop_before_pixels=True, defer_size=LONG_VALUE)
    except (Unreadable, MemoryError):
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise Unreadable(f"damaged DICOM header ({type(error).__name__})") from None


@cache
def _for_headers() -> tuple[ModuleType, dict[int, str]]:
    """pydicom, and the attributes that are kept by their tags."""
    pydicom = _pydicom()
    return pydicom, {pydicom.tag.Tag(name): name for name in (*TECHNICAL, *IDENTIFYING)}


def _as_text(element: Any) -> str:
    """The first number of a NUMBERS element, or the text of another, as the file holds it: pydicom's own conversion
    takes longer than all the rest of reading a header."""
    value = element.value or b""
    if not isinstance(value, bytes):  # already converted
        return str(value).strip()
    if element.tag in NUMBERS:
        return str(int.from_bytes(value[:2], "little" if element.is_little_endian else "big"))
    try:
        text = value.decode()
    except UnicodeDecodeError:
        text = value.decode("latin-1")
    return text.replace("\\", " ").strip(" \0")


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
    """pydicom, told not to repeat header values in warnings or logs, and with the plug-in for what it lacks."""
    import pydicom
    import pydicom.config
    import pydicom.pixels
    from pydicom.pixels import get_decoder

    pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE
    log = logging.getLogger("pydicom")
    log.setLevel(logging.CRITICAL + 1)  # its own loggers below this one are bound by it, too
    log.propagate = False
    warnings.filterwarnings("ignore", module=r"pydicom\b")
    with _plugin:
        for uid in dicom_codecs.DECODER_DEPENDENCIES:
            decoder = get_decoder(uid)
            if "harness" not in decoder.available_plugins:
                decoder.add_plugin("harness", (dicom_codecs.__name__, "decode_frame"))
    module: ModuleType = pydicom
    return module


def _open(data: bytes) -> Any:
    pydicom = _pydicom()
    try:
        dataset = pydicom.dcmread(io.BytesIO(_inflated(data)), force=True)
        if "Rows" not in dataset or "Columns" not in dataset:
            raise Unreadable("a DICOM file without an image")
        if dataset.Rows * dataset.Columns > MAX_PIXELS:
            raise Unreadable(f"more than {MAX_PIXELS} pixels: refused as a decompression bomb")
        return dataset
    except (Unreadable, MemoryError):
        raise
    except Exception as error:
        raise Unreadable(f"damaged DICOM header ({type(error).__name__})") from None


def _inflated(data: bytes) -> bytes:
    """The file as explicit little endian where its data set is deflated as a whole; pydicom inflates without limit."""
    file = io.BytesIO(data)
    if DEFLATED not in data or not _names_deflated(file):
        return data
    start = file.tell()
    plain = dicom_codecs.inflate(data[start:], MAX_INFLATED)
    return data[:start].replace(DEFLATED, EXPLICIT_LITTLE.encode().ljust(len(DEFLATED), b"\0")) + plain


def _names_deflated(file: BinaryIO) -> bool:
    """Whether the group that names the transfer syntax names this one. Leaves the file at that group's end."""
    from pydicom.filereader import read_dataset

    start = file.read(132)
    file.seek(132 if start[128:] == b"DICM" else 0)
    # As pydicom looks for the end of this group: the length that the group itself gives may be wrong.
    meta = read_dataset(file, False, True, stop_when=lambda tag, vr, length: tag.group != 2)
    return str(meta.get("TransferSyntaxUID", "")).encode() == DEFLATED


def _syntax(dataset: Any) -> str:
    """The transfer syntax's registered name: says which decoder is wanting, and nothing about a patient."""
    try:
        uid = dataset.file_meta.TransferSyntaxUID
        return str(uid.name) if uid.is_transfer_syntax else "(unknown syntax)"
    except Exception:
        return "(unknown syntax)"


def _display(dataset: Any, window: Window, frame: Frame) -> NDArray[np.uint8]:
    if not any(name in dataset for name in ("PixelData", "FloatPixelData", "DoubleFloatPixelData")):
        raise Unreadable("a DICOM file without pixel data")
    photometric = str(dataset.PhotometricInterpretation)
    if photometric not in (*GREY, *COLOUR, "PALETTE COLOR"):
        raise Unreadable(f"the photometric interpretation {photometric if photometric in RETIRED else '(unknown)'}")
    index = _frame_index(dataset, frame)
    stored = _stored(dataset, index)
    if stored.size == 0 or stored.shape[2:] != ((3,) if photometric in COLOUR else ()):
        raise Unreadable("pixel data of another shape than its photometric interpretation")
    if photometric == "PALETTE COLOR":
        from pydicom.pixels import apply_color_lut

        colours = apply_color_lut(stored, dataset)
        return bytes_of_range(colours[..., :3], 0, 2.0 ** (8 * colours.dtype.itemsize) - 1)
    if photometric in COLOUR:
        if stored.dtype == np.uint8 and dataset.BitsStored == 8:
            return np.ascontiguousarray(stored)
        return bytes_of_range(stored, 0, 2.0 ** int(dataset.BitsStored) - 1)
    if stored.dtype.kind == "f" and not np.isfinite(stored).all():
        raise Unreadable("pixel values that are not numbers")
    use_frame_groups(dataset, index)
    return grey(stored, dataset, window)


def _frame_index(dataset: Any, frame: Frame) -> int:
    frames = max(1, int(dataset.get("NumberOfFrames") or 1))
    if frame == "middle":
        return frames // 2 if frames > 1 else 0
    if frame == "first":
        return 0
    if frame > frames:
        raise Unreadable(f"no frame {frame}: the file has {frames}")
    return frame - 1


def _stored(dataset: Any, index: int) -> NDArray[Any]:
    """One frame's stored values, (H, W) or (H, W, 3), YBR made RGB."""
    from pydicom.encaps import get_frame
    from pydicom.pixels import pixel_array

    if "TransferSyntaxUID" not in getattr(dataset, "file_meta", {}):
        dataset.file_meta = getattr(dataset, "file_meta", None) or _pydicom().dataset.FileMetaDataset()
        # Files without a preamble are read as what dcmread found them to be; the standard's default is implicit.
        little, implicit = dataset.original_encoding[1] is not False, dataset.original_encoding[0] is not False
        dataset.file_meta.TransferSyntaxUID = (
            IMPLICIT_LITTLE if implicit else EXPLICIT_LITTLE if little else EXPLICIT_BIG
        )
    uid = dataset.file_meta.TransferSyntaxUID
    packed = uid == dicom_codecs.RLE and dataset.BitsAllocated == 1
    if uid == dicom_codecs.DEFLATED_FRAMES or packed or (uid.is_transfer_syntax and uid.is_encapsulated):
        frames = max(1, int(dataset.get("NumberOfFrames") or 1))
        encoded = get_frame(dataset.PixelData, index, number_of_frames=frames, extended_offsets=_offsets(dataset))
        claimed = dicom_codecs.claimed_size(encoded, uid)
        if claimed not in (None, (dataset.Rows, dataset.Columns, dataset.SamplesPerPixel)):
            raise Unreadable("compressed pixel data of another size than the header says")
        if uid == dicom_codecs.DEFLATED_FRAMES:
            return _uncompressed(dataset, dicom_codecs.inflate(encoded, MAX_INFLATED))
        if packed:
            return _uncompressed(dataset, dicom_codecs.run_lengths(encoded, (dataset.Rows * dataset.Columns + 7) // 8))
    elif "PixelData" in dataset and dataset["PixelData"].is_undefined_length:
        raise Unreadable("compressed pixel data that the header calls uncompressed")
    values: NDArray[Any] = pixel_array(dataset, index=index)
    return values


def _offsets(dataset: Any) -> tuple[bytes, bytes] | None:
    if "ExtendedOffsetTable" not in dataset or "ExtendedOffsetTableLengths" not in dataset:
        return None
    return dataset.ExtendedOffsetTable, dataset.ExtendedOffsetTableLengths


def _uncompressed(dataset: Any, frame: bytes) -> NDArray[Any]:
    """The values of a frame that has already been decompressed."""
    from pydicom.pixels import pixel_array

    dataset.file_meta.TransferSyntaxUID = _pydicom().uid.UID(EXPLICIT_LITTLE)
    dataset.NumberOfFrames = 1
    dataset.PixelData = frame + b"\0" * (len(frame) % 2)
    values: NDArray[Any] = pixel_array(dataset, index=0)
    return values
