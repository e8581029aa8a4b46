"""One picture written in many ways that lose nothing: image formats and modes, DICOM syntaxes, polarities and depths.

DICOM files are made by pydicom and the encoders of imagecodecs; harness itself only ever decodes them.
"""

import io
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import PIL.Image
import pydicom
from numpy.typing import NDArray
from pydicom.encaps import encapsulate

Grey = NDArray[np.uint8]
Stored = NDArray[np.generic]

IMPLICIT, EXPLICIT, BIG, DEFLATED = (f"1.2.840.10008.1.2{end}" for end in ("", ".1", ".2", ".1.99"))
JPEG_BASELINE, JPEG_EXTENDED = (f"1.2.840.10008.1.2.4.{end}" for end in (50, 51))
JPEG_LOSSLESS, JPEG_LOSSLESS_14 = (f"1.2.840.10008.1.2.4.{end}" for end in (70, 57))
JPEG_LS, JPEG_2000, HTJ2K = (f"1.2.840.10008.1.2.4.{end}" for end in (80, 90, 201))
RLE, DEFLATED_FRAMES = "1.2.840.10008.1.2.5", "1.2.840.10008.1.2.8.1"
UNCOMPRESSED = (IMPLICIT, EXPLICIT, BIG, DEFLATED)
LOSSLESS = (*UNCOMPRESSED, RLE, DEFLATED_FRAMES, JPEG_LOSSLESS, JPEG_LOSSLESS_14, JPEG_LS, JPEG_2000, HTJ2K)
SIGNED = (*UNCOMPRESSED, RLE, DEFLATED_FRAMES, JPEG_2000)
"""syntaxes whose encoders here take signed numbers"""


def image_files(grey: Grey) -> Iterator[tuple[str, bytes]]:
    """(file name, contents) of one grey picture (H, W) in every image format, mode and depth."""
    image = PIL.Image.fromarray(grey)
    rgb, wide = image.convert("RGB"), PIL.Image.fromarray(grey.astype(np.uint16) * 257)
    ints, shares = PIL.Image.fromarray(grey.astype(np.int32)), PIL.Image.fromarray((grey / 255).astype(np.float32))
    levels = PIL.Image.fromarray(grey.astype(np.float32))
    blank = PIL.Image.fromarray(np.full_like(grey, 128))
    none = PIL.Image.fromarray(np.zeros_like(grey))
    cmyk = PIL.Image.merge("CMYK", [none, none, none, PIL.Image.fromarray(255 - grey)])
    for mode in ("L", "LA", "P", "RGB", "RGBA"):
        yield f"{mode}.png", saved(image.convert(mode), "PNG")
    yield "i16.png", saved(wide, "PNG")
    yield "la_clear.png", saved(_half_clear(grey), "PNG")
    for compression in (None, "tiff_deflate", "tiff_lzw", "packbits"):
        yield f"L_{compression}.tif", saved(image, "TIFF", compression=compression)
    for mode in ("RGB", "RGBA"):
        yield f"{mode}.tif", saved(image.convert(mode), "TIFF")
    yield "PA.tif", saved(image.convert("P").convert("PA"), "TIFF")
    yield "cmyk.tif", saved(cmyk, "TIFF")
    yield "ycbcr.tif", saved(PIL.Image.merge("YCbCr", [image, blank, blank]), "TIFF")
    yield "i16.tif", saved(wide, "TIFF")
    yield "i16_white_is_zero.tif", tiff_of_16_bits(65535 - grey.astype(np.uint16) * 257, zero_is_white=True)
    yield "i16_big_endian.tif", tiff_of_16_bits(grey.astype(np.uint16) * 257, zero_is_white=False, order=">")
    yield "i32.tif", saved(ints, "TIFF")
    yield "f32_shares.tif", saved(shares, "TIFF")
    yield "f32_levels.tif", saved(levels, "TIFF")
    yield "L.bmp", saved(image, "BMP")
    yield "RGB.bmp", saved(rgb, "BMP")
    yield "L.gif", saved(image, "GIF")
    yield "RGB.webp", saved(rgb, "WEBP", lossless=True)
    yield "RGBA.webp", saved(image.convert("RGBA"), "WEBP", lossless=True)
    yield "L.pgm", saved(image, "PPM")
    yield "RGB.ppm", saved(rgb, "PPM")
    yield "i16.pgm", b"P5 %d %d 65535\n" % image.size + (grey.astype(">u2") * 257).tobytes()
    yield "f32.pfm", saved(shares, "PPM")
    yield "L.jp2", saved(image, "JPEG2000")
    yield "RGB.jp2", saved(rgb, "JPEG2000")
    yield "i16.jp2", saved(wide, "JPEG2000")
    turns = {3: 180, 6: 90, 8: 270}
    for orientation, degrees in turns.items():
        exif = PIL.Image.Exif()
        exif[0x0112] = orientation
        stored = image.rotate(degrees, expand=True)
        yield f"turned_{orientation}.png", saved(stored, "PNG", exif=exif)
        yield f"turned_{orientation}.webp", saved(stored, "WEBP", lossless=True, exif=exif)


def dicom_files(
    grey: Grey, bits: int, signed: bool, inverted: bool, slope: float, intercept: float, *, offset: int = 3
) -> Iterator[tuple[str, bytes]]:
    """(file name, contents) of one grey picture in every syntax that has such numbers.

    A grey level is `step` stored numbers, as large as the bits allow; the window says which are black and white.
    """
    step = (2**bits - 2 * offset) // 256 if bits > 8 else 1
    start = (offset if bits > 8 else 0) - (2 ** (bits - 1) if signed else 0)
    levels = 255 - grey if inverted else grey
    stored = start + levels.astype(np.int64) * step
    window = (intercept + slope * (start + 127.5 * step), slope * 255.0 * step)
    kind = f"{'i' if signed else 'u'}{1 if bits <= 8 else 2}"
    for uid in SIGNED if signed else LOSSLESS:
        facts = {
            "PhotometricInterpretation": "MONOCHROME1" if inverted else "MONOCHROME2",
            "BitsStored": bits,
            "RescaleSlope": slope,
            "RescaleIntercept": intercept,
            "WindowCenter": window[0],
            "WindowWidth": window[1],
            "VOILUTFunction": "LINEAR_EXACT",
        }
        yield f"{uid}.dcm", dicom(stored.astype(kind), uid, **facts)
    if not signed and bits == 8:
        yield from _coloured(grey)


def _coloured(grey: Grey) -> Iterator[tuple[str, bytes]]:
    """The same picture as DICOM colour, by pixel and by plane, as YBR and as a palette."""
    rgb = np.repeat(grey[..., None], 3, axis=2)
    ybr = np.stack([grey, np.full_like(grey, 128), np.full_like(grey, 128)], axis=2)
    for uid in (EXPLICIT, DEFLATED_FRAMES, RLE, JPEG_LOSSLESS, JPEG_LS, JPEG_2000, HTJ2K):
        yield f"rgb_{uid}.dcm", dicom(rgb, uid, PhotometricInterpretation="RGB")
    yield "rgb_planes.dcm", dicom(rgb, EXPLICIT, PhotometricInterpretation="RGB", PlanarConfiguration=1)
    yield "ybr.dcm", dicom(ybr, EXPLICIT, PhotometricInterpretation="YBR_FULL")
    turned = np.arange(255, -1, -1, dtype=np.uint16) * 257
    palette: dict[str, Any] = {"PhotometricInterpretation": "PALETTE COLOR"}
    for colour in ("Red", "Green", "Blue"):
        palette[f"{colour}PaletteColorLookupTableDescriptor"] = [256, 0, 16]
        palette[f"{colour}PaletteColorLookupTableData"] = turned.astype("<u2").tobytes()
    yield "palette.dcm", dicom(255 - grey, EXPLICIT, **palette)


def dicom(
    stored: Stored, uid: str, *, frames: bool = False, compressed: list[bytes] | None = None, **facts: Any
) -> bytes:
    """A small anonymous DICOM file.

    `stored`: (H, W), (H, W, 3), or with `frames` a leading axis of frames; `compressed`: what to store instead of its
    frames, for files that are wrong.
    """
    pictures = stored if frames else stored[None]
    dataset = pydicom.Dataset()
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    # pydicom does not write a syntax that it does not know: another of the same length stands in
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.UID(JPEG_2000 if uid == DEFLATED_FRAMES else uid)
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = "1.2.3.4"
    dataset.Rows, dataset.Columns = pictures.shape[1:3]
    dataset.SamplesPerPixel = 3 if pictures.ndim == 4 else 1
    if dataset.SamplesPerPixel == 3:
        dataset.PlanarConfiguration = 0
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.BitsAllocated = dataset.BitsStored = pictures.dtype.itemsize * 8
    dataset.PixelRepresentation = int(pictures.dtype.kind == "i")
    if len(pictures) > 1:
        dataset.NumberOfFrames = len(pictures)
    for name, value in facts.items():
        setattr(dataset, name, value)
    dataset.HighBit = dataset.BitsStored - 1
    if uid in UNCOMPRESSED:
        order = ">" if uid == BIG else "<"
        planes = np.moveaxis(pictures, -1, 1) if dataset.get("PlanarConfiguration") == 1 else pictures
        pixels = planes.astype(planes.dtype.newbyteorder(order)).tobytes()
        dataset.PixelData = pixels + b"\0" * (len(pixels) % 2)
    else:
        dataset.PixelData = encapsulate(compressed or [encoded(picture, uid) for picture in pictures])
        if uid == RLE and dataset.SamplesPerPixel == 3:
            dataset.PlanarConfiguration = 1
    dataset["PixelData"].VR = "OB" if dataset.BitsAllocated == 8 and uid != IMPLICIT else "OW"
    dataset["PixelData"].is_undefined_length = uid not in UNCOMPRESSED
    out = io.BytesIO()
    implicit, little = uid == IMPLICIT, uid != BIG
    dataset.save_as(out, enforce_file_format=True, implicit_vr=implicit, little_endian=little)
    if uid == DEFLATED_FRAMES:
        return out.getvalue().replace(JPEG_2000.encode(), uid.encode() + b"\0", 1)
    return out.getvalue()


def encoded(picture: Stored, uid: str) -> bytes:
    """One frame, compressed without loss."""
    if uid == RLE:
        return _run_lengths(picture)
    if uid == DEFLATED_FRAMES:
        squeezer = zlib.compressobj(wbits=-15)
        return squeezer.compress(picture.astype(picture.dtype.newbyteorder("<")).tobytes()) + squeezer.flush()
    if uid == JPEG_LOSSLESS:
        return imagecodecs.jpeg8_encode(
            picture, lossless=True, colorspace=_space(picture), outcolorspace=_space(picture)
        )
    if uid == JPEG_LOSSLESS_14:
        return imagecodecs.jpeg8_encode(
            picture, lossless=True, predictor=4, colorspace=_space(picture), outcolorspace=_space(picture)
        )
    if uid == JPEG_LS:
        return imagecodecs.jpegls_encode(picture)
    if uid == JPEG_2000:
        return imagecodecs.jpeg2k_encode(picture, reversible=True, codecformat="j2k", level=0, mct=False)
    return imagecodecs.htj2k_encode(picture, reversible=True)


def saved(image: PIL.Image.Image, kind: str, **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def tiff_of_16_bits(values: NDArray[np.uint16], *, zero_is_white: bool, order: str = "<") -> bytes:
    """An uncompressed 16-bit grey TIFF of one strip, of either polarity and byte order."""
    pixels = values.astype(f"{order}u2").tobytes()
    height, width = values.shape
    tags = [(256, width), (257, height), (258, 16), (259, 1), (262, 0 if zero_is_white else 1)]
    tags += [(273, 8), (277, 1), (278, height), (279, len(pixels))]
    directory = struct.pack(f"{order}H", len(tags))
    for tag, value in tags:
        kind, shape = (4, "I") if tag in (273, 279) else (3, "H2x")
        directory += struct.pack(f"{order}HHI{shape}", tag, kind, 1, value)
    head = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HI", 42, 8 + len(pixels))
    return head + pixels + directory + b"\0" * 4


def write_all(grey: Grey, folder: Path) -> list[Path]:
    """Every drawn file of one picture, under names of their own."""
    made = [*image_files(grey)]
    for number, facts in enumerate(((8, False, False), (12, False, True), (16, False, False), (16, True, True))):
        made += [(f"{number}_{name}", data) for name, data in dicom_files(grey, *facts, 0.5, -100.0)]
    for name, data in made:
        (folder / name).write_bytes(data)
    return [folder / name for name, _ in made]


def _half_clear(grey: Grey) -> PIL.Image.Image:
    """White, as clear as the picture is dark: on black it is the picture."""
    return PIL.Image.merge("LA", [PIL.Image.fromarray(np.full_like(grey, 255)), PIL.Image.fromarray(grey)])


def _space(picture: Stored) -> str:
    return "RGB" if picture.ndim == 3 else "GRAYSCALE"


def _run_lengths(picture: Stored) -> bytes:
    """PS3.5 annex G: one segment per byte of each sample, most significant first."""
    planes = [picture] if picture.ndim == 2 else [picture[..., sample] for sample in range(picture.shape[2])]
    segments = []
    for plane in planes:
        as_bytes = plane.astype(plane.dtype.newbyteorder(">")).view(np.uint8).reshape(*plane.shape, -1)
        for part in range(as_bytes.shape[2]):
            rows = [imagecodecs.packbits_encode(row.tobytes()) for row in as_bytes[..., part]]
            packed = b"".join(rows)
            segments.append(packed + b"\0" * (len(packed) % 2))
    starts = np.cumsum([64] + [len(segment) for segment in segments])[:-1].tolist()
    return struct.pack("<16I", len(segments), *starts, *([0] * (15 - len(starts)))) + b"".join(segments)
