"""Every odd file of the shared collections, decoded, beside what pydicom's or Pillow's own functions make of it.

    python -m benchmarks._decoding_zoo --root ../shared/data > docs/decoding-zoo.md

The comparison is at full size, before any resizing. The reference follows the libraries' documentation: for DICOM
pixel_array, apply_modality_lut, apply_voi_lut, then polarity; for other files convert("RGBA") on black. Where the
library has no decoder the reference is another codec or the same picture in another file.
"""

import argparse
import io
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import PIL.ImageOps
from numpy.typing import NDArray

from harness.errors import Unreadable
from harness.images.dicom import is_dicom, read_dicom
from harness.images.raster import read_raster

PLACES = ("dicom_zoo", "nasty")
Numbers = NDArray[np.float64]

SAME_PICTURE = {
    "liver_deflate.dcm": "liver.dcm",
    "liver_nonbyte_aligned_deflate.dcm": "liver_nonbyte_aligned.dcm",
    "liver_rle.dcm": "liver.dcm",
    "liver_nonbyte_aligned_rle.dcm": "liver_nonbyte_aligned.dcm",
}
"""files of a syntax that pydicom 3.0 does not decode, and the uncompressed original of the same collection"""
JPEG_LOSSLESS, HTJ2K = "1.2.840.10008.1.2.4.70", ("1.2.840.10008.1.2.4.201", "1.2.840.10008.1.2.4.203")


@dataclass(frozen=True)
class Row:
    file: str
    what: str
    reference: str
    """what it was compared with; empty where it was refused"""
    difference: int | None
    """largest difference from the reference in grey levels of 255; None where the file was refused"""
    reason: str


def files(root: Path) -> list[Path]:
    return sorted(path for place in PLACES for path in (root / place).rglob("*") if path.is_file())


def row(path: Path, root: Path) -> Row:
    """Decode one file and compare it. Any exception but Unreadable is a defect and is passed on."""
    data, name = path.read_bytes(), path.relative_to(root).as_posix()
    dicom = is_dicom(data) or path.suffix == ".dcm"
    try:
        shown = read_dicom(data) if dicom else read_raster(data)
    except Unreadable as error:
        return Row(name, "DICOM" if dicom else path.suffix[1:].upper(), "", None, error.reason)
    what, by, expected = dicom_reference(path) if dicom else raster_reference(data)
    if shown.ndim == 2 and expected.ndim == 3:
        assert np.ptp(expected, axis=2).max() < 0.51, name
        expected = expected[..., 0]
    assert shown.shape == expected.shape, (name, shown.shape, expected.shape)
    # half a level is rounding; the difference counts from there
    return Row(name, what, by, int(np.ceil(np.abs(shown - expected).max() - 0.501)), "")


def raster_reference(data: bytes) -> tuple[str, str, Numbers]:
    """(what it is, compared with what, grey levels 0..255 before rounding)"""
    opened = PIL.Image.open(io.BytesIO(data))
    opened.load()
    what = f"{opened.format} {opened.mode}"
    if opened.mode == "I;16":
        bits = getattr(opened, "tag_v2", {}).get(258, (16,))[0]
        values = np.asarray(opened)
        clear = values == opened.info.get("transparency", -1)
        return what, f"values / {2**bits - 1}", np.where(clear, 0, values / (2**bits - 1) * 255)
    image = PIL.ImageOps.exif_transpose(opened)
    colours = np.asarray(image.convert("RGB" if image.mode == "CMYK" else "RGBA"), np.float64)
    if colours.shape[2] == 3:
        return what, "Pillow, RGB", colours
    return what, "Pillow, RGBA on black", colours[..., :3] * colours[..., 3:] / 255


def dicom_reference(path: Path) -> tuple[str, str, Numbers]:
    """(what it is, compared with what, grey levels 0..255 before rounding)"""
    import pydicom
    from pydicom.pixels import apply_color_lut, apply_modality_lut, apply_voi_lut

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        header = pydicom.dcmread(path, force=True)
        what = describe(header)
        stored, by = dicom_values(path, header)
        photometric = header.PhotometricInterpretation
        if photometric == "PALETTE COLOR":
            colours = apply_color_lut(stored, header)
            return what, f"{by}, colour LUT", colours / np.iinfo(colours.dtype).max * 255
        if stored.ndim == 3:
            return what, by, stored / (2.0**header.BitsStored - 1) * 255
        if stored.dtype.kind == "f":  # the window of the frame group: centre .5, width 1
            return what, f"{by}, window 0 to 1", np.clip(stored, 0, 1).astype(np.float64) * 255
        modality = apply_modality_lut(stored, header)
        if header.get("VOILUTSequence"):
            by = f"{by}, VOI LUT"
            top = 2.0 ** header.VOILUTSequence[0].LUTDescriptor[2] - 1
            grey = apply_voi_lut(modality, header) / top
        elif "WindowCenter" in header:
            by = f"{by}, window"
            low, high = window_output(header)
            grey = (apply_voi_lut(modality, header) - low) / (high - low)
        elif header.BitsStored <= 8:
            by = f"{by}, range of {header.BitsStored} bits"
            grey = modality / (2.0**header.BitsStored - 1)
        else:
            by = f"{by}, range of the values"
            grey = (modality - modality.min()) / np.ptp(modality).astype(np.float64)
    return what, by, 255 * (1 - grey if photometric == "MONOCHROME1" else grey)


def dicom_values(path: Path, header: Any) -> tuple[NDArray[Any], str]:
    """Stored values of the middle frame, and what decoded them."""
    import imagecodecs
    import pydicom
    from pydicom.encaps import get_frame
    from pydicom.pixels import pixel_array

    index = int(header.get("NumberOfFrames") or 1) // 2 if int(header.get("NumberOfFrames") or 1) > 1 else 0
    if path.name in SAME_PICTURE:
        same = SAME_PICTURE[path.name]
        return pixel_array(pydicom.dcmread(path.with_name(same)), index=index), f"pydicom on {same}"
    uid = getattr(header, "file_meta", {}).get("TransferSyntaxUID")
    if uid == JPEG_LOSSLESS:
        values = imagecodecs.ljpeg_decode(get_frame(header.PixelData, 0, number_of_frames=1))
        return values.astype(f"{'ui'[header.PixelRepresentation]}{header.BitsAllocated // 8}"), "liblj92"
    if uid in HTJ2K:
        picture = PIL.Image.open(io.BytesIO(get_frame(header.PixelData, 0, number_of_frames=1)))
        return np.asarray(picture), "Pillow"
    if uid is None:
        header.file_meta = pydicom.dataset.FileMetaDataset()
        header.file_meta.TransferSyntaxUID = pydicom.uid.ImplicitVRLittleEndian
    return pixel_array(header, index=index), "pydicom"


def window_output(header: Any) -> tuple[float, float]:
    """What pydicom's apply_windowing makes of the window's two ends: the whole stored range, rescaled."""
    bits = header.BitsStored
    low, high = (-(2.0 ** (bits - 1)), 2.0 ** (bits - 1) - 1) if header.PixelRepresentation else (0.0, 2.0**bits - 1)
    slope, intercept = float(header.get("RescaleSlope", 1)), float(header.get("RescaleIntercept", 0))
    return low * slope + intercept, high * slope + intercept


def describe(header: Any) -> str:
    """Encoding and shape of the pixel data, no more of the header."""
    meta = getattr(header, "file_meta", None) or {}
    uid = meta.get("TransferSyntaxUID")
    syntax = "no transfer syntax" if uid is None else str(uid.name)
    for long, short in ((" Image Compression", ""), ("Explicit VR ", ""), ("High-Throughput JPEG 2000", "HTJ2K")):
        syntax = syntax.replace(long, short)
    syntax = {"1.2.840.10008.1.2.8.1": "Deflated frames"}.get(syntax, syntax.split(",")[0])
    frames = int(header.get("NumberOfFrames") or 1)
    bits = header.get("BitsStored") or header.BitsAllocated
    many = f", {frames} frames" if frames > 1 else ""
    return f"{syntax}, {header.PhotometricInterpretation}, {bits} bits{many}"


def page(rows: list[Row]) -> str:
    decoded = [one for one in rows if one.difference is not None]
    lines = [
        "# Odd files and what becomes of them",
        "",
        f"{len(decoded)} of {len(rows)} files of the test collections of pydicom, PngSuite and Pillow are decoded and "
        f"compared at full size; {len(rows) - len(decoded)} are refused, each with its reason. Difference: the largest "
        "of any pixel in grey levels of 255, beyond rounding. Made by",
        "",
        "    python -m benchmarks._decoding_zoo --root ../shared/data > docs/decoding-zoo.md",
        "",
        "The rules are in [decoding](decoding.md); tests/images/test_decode_zoo.py holds this page to them.",
        "",
        "## Refused",
        "",
        "| file | said |",
        "|---|---|",
        *(f"| {one.file} | {one.reason} |" for one in rows if one.difference is None),
        "",
        "## Decoded",
        "",
        "| file | what | compared with | difference |",
        "|---|---|---|---|",
        *(f"| {one.file} | {one.what} | {one.reference} | {one.difference} |" for one in decoded),
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", type=Path, required=True, help="the folder with dicom_zoo and nasty")
    root = parser.parse_args().root
    print(page([row(path, root) for path in files(root)]), end="")


if __name__ == "__main__":
    main()
