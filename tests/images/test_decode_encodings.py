"""The law of decoding: one picture is one array, in whatever format, mode, syntax, depth or polarity it is kept."""

from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from drawn_files import LOSSLESS, SIGNED, Grey, dicom_files, image_files, saved, write_all
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from harness.config.data import Decode
from harness.images.decode import decode, decode_bytes
from harness.images.dicom import read_dicom
from harness.images.raster import read_raster

sides = st.integers(1, 40)


def picture(seed: int, height: int, width: int) -> Grey:
    """Noise, or flat areas where compression has something to do."""
    draw = np.random.default_rng(seed)
    small = draw.integers(0, 256, (height, width), dtype=np.uint8)
    return small if seed % 2 else np.repeat(np.repeat(small, 3, axis=0), 3, axis=1)[:height, :width]


def grey_of(shown: NDArray[np.uint8]) -> Grey:
    if shown.ndim == 2:
        return shown
    assert (shown == shown[..., :1]).all()
    return shown[..., 0]


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 1000), height=sides, width=sides)
def test_any_image_format_and_mode_is_the_same_picture(seed: int, height: int, width: int) -> None:
    grey = picture(seed, height, width)
    files = list(image_files(grey))
    assert len(files) == 40 and len({name for name, _ in files}) == 40
    for name, data in files:
        assert np.array_equal(grey_of(read_raster(data)), grey), name


@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 1000),
    height=sides,
    width=sides,
    bits=st.sampled_from([8, 10, 12, 14, 16]),
    signed=st.booleans(),
    inverted=st.booleans(),
    slope=st.sampled_from([1.0, 0.25, 2.0, 37.5]),
    intercept=st.sampled_from([0.0, -1024.0, 0.5]),
)
def test_any_dicom_syntax_depth_polarity_and_scale_is_the_same_picture(
    seed: int, height: int, width: int, bits: int, signed: bool, inverted: bool, slope: float, intercept: float
) -> None:
    grey = picture(seed, height, width)
    files = list(dicom_files(grey, bits, signed, inverted, slope, intercept))
    assert len(files) >= len(SIGNED if signed else LOSSLESS)
    for name, data in files:
        assert np.array_equal(grey_of(read_dicom(data)), grey), name


def test_the_law_holds_after_resizing(tmp_path: Path) -> None:
    files = write_all(picture(2, 33, 50), tmp_path)
    assert len(files) == 40 + 3 * len(LOSSLESS) + 10 + len(SIGNED)
    for channels in (1, 3):
        shown = [decode(path, Decode(size=24, channels=channels)) for path in files]
        for path, array in zip(files, shown, strict=True):
            assert np.array_equal(array, shown[0]), path.name


def test_orientation_of_every_kind() -> None:
    grey = picture(1, 20, 30)
    image = PIL.Image.fromarray(grey)
    for orientation in range(1, 9):
        exif = PIL.Image.Exif()
        exif[0x0112] = orientation
        shown = read_raster(saved(image, "TIFF", exif=exif) if orientation % 2 else saved(image, "PNG", exif=exif))
        turned = grey if orientation < 5 else grey.T
        flips = {1: (1, 1), 2: (1, -1), 3: (-1, -1), 4: (-1, 1), 5: (1, 1), 6: (1, -1), 7: (-1, -1), 8: (-1, 1)}
        down, across = flips[orientation]
        assert np.array_equal(shown, turned[::down, ::across]), orientation


def test_black_and_white_of_one_bit() -> None:
    grey = np.where(picture(3, 19, 27) > 127, 255, 0).astype(np.uint8)
    image = PIL.Image.fromarray(grey).convert("1", dither=PIL.Image.Dither.NONE)
    for kind in ("PNG", "TIFF", "BMP", "PPM", "GIF"):
        assert np.array_equal(grey_of(read_raster(saved(image, kind))), grey), kind
    for compression in ("group3", "group4", "packbits"):
        assert np.array_equal(read_raster(saved(image, "TIFF", compression=compression)), grey), compression


FLOATS = [
    ([[0.0, 0.5, 1.0]], [[0, 128, 255]]),
    ([[0.0, 0.5, 1.5]], [[0, 0, 2]]),
    ([[0.0, 51.0, 255.0]], [[0, 51, 255]]),
    ([[0.0, 257.0, 25700.0]], [[0, 1, 100]]),
    ([[-1.0, 0.0, 1.0]], [[0, 128, 255]]),
    ([[0.0, 50_000.0, 100_000.0]], [[0, 128, 255]]),
    ([[3e38, 3e38, 3e38]], [[0, 0, 0]]),
]


@pytest.mark.parametrize(("values", "expected"), FLOATS)
def test_ranges_of_floating_point(values: list[list[float]], expected: list[list[int]]) -> None:
    image = PIL.Image.fromarray(np.array(values, np.float32))
    assert read_raster(saved(image, "TIFF")).tolist() == expected


INTEGERS = [
    ([[0, 1, 255]], [[0, 1, 255]]),
    ([[0, 257, 65535]], [[0, 1, 255]]),
    ([[-100, 0, 100]], [[0, 128, 255]]),
    ([[0, 100_000, 200_000]], [[0, 128, 255]]),
]


@pytest.mark.parametrize(("values", "expected"), INTEGERS)
def test_ranges_of_wide_integers(values: list[list[int]], expected: list[list[int]]) -> None:
    image = PIL.Image.fromarray(np.array(values, np.int32))
    assert read_raster(saved(image, "TIFF")).tolist() == expected


def test_a_transparent_grey_of_16_bits_is_black() -> None:
    values = np.array([[0, 257, 514, 65535]], np.uint16)
    data = saved(PIL.Image.fromarray(values), "PNG", transparency=514)
    assert read_raster(data).tolist() == [[0, 1, 0, 255]]


def test_lab_becomes_the_rgb_it_stands_for() -> None:
    """L of CIE 1976 and no chroma is a grey: L = 53.6 is sRGB 128."""
    bands = [PIL.Image.new("L", (4, 4), value) for value in (round(53.585 / 100 * 255), 128, 128)]
    shown = read_raster(saved(PIL.Image.merge("LAB", bands), "TIFF"))
    assert np.abs(shown.astype(int) - 128).max() <= 2


def test_only_named_formats_are_tried() -> None:
    """PostScript, for one, would start another program."""
    image = PIL.Image.fromarray(picture(1, 8, 8))
    for kind in ("EPS", "PDF", "PCX", "TGA", "ICO"):
        data = saved(image.convert("RGB"), kind)
        with pytest.raises(Exception, match="known format"):
            decode_bytes(data, f".{kind.lower()}", Decode(size=8))
