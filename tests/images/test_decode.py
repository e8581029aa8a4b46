"""Decoding: one picture gives one array whatever file it is in, and no file breaks it in an unforeseen way."""

import csv
import struct
import zlib
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from harness.config.data import Decode
from harness.errors import Unreadable
from harness.images.decode import decode
from harness.images.dicom import read_dicom, write_dicom
from harness.images.raster import read_raster

SHARED = Path(__file__).parents[2].parent / "shared" / "data"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason=f"no development data at {SHARED}")
Grey = NDArray[np.uint8]


def picture(seed: int, height: int = 40, width: int = 40) -> Grey:
    return np.random.default_rng(seed).integers(0, 256, (height, width), dtype=np.uint8)


def encodings(grey: Grey, folder: Path) -> list[Path]:
    """One grey picture in every encoding that loses nothing."""
    image = PIL.Image.fromarray(grey)
    red = image.convert("RGB")
    opaque = image.convert("RGBA")
    image.save(folder / "l.png")
    red.save(folder / "rgb.png")
    opaque.save(folder / "rgba.png")
    image.convert("LA").save(folder / "la.png")
    image.convert("P").save(folder / "p.png")
    image.save(folder / "l.tif")
    image.save(folder / "l.bmp")
    red.save(folder / "rgb.webp", lossless=True)
    PIL.Image.fromarray(grey.astype(np.uint16) * 257).save(folder / "i16.png")
    PIL.Image.fromarray(grey.astype(np.uint16) * 257).save(folder / "i16.tif")
    wide = grey.astype(np.uint16) * 16
    for inverted in (False, True):
        name = f"mono{1 if inverted else 2}"
        write_dicom(folder / f"{name}_8.dcm", grey, inverted=inverted)
        write_dicom(folder / f"{name}_linear.dcm", grey, window=(128, 256), function="LINEAR", inverted=False)
        write_dicom(
            folder / f"{name}_16.dcm",
            wide + 64,
            slope=0.5,
            intercept=-1000,
            window=(-1000 + 32 + 8 * 127.5, 8 * 255),
            inverted=inverted,
        )
    (folder / "no_suffix").write_bytes((folder / "mono2_8.dcm").read_bytes())
    return sorted(folder.iterdir())


@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 1000), height=st.integers(9, 60), width=st.integers(9, 60))
def test_one_picture_is_one_picture_in_any_encoding(
    tmp_path_factory: pytest.TempPathFactory, seed: int, height: int, width: int
) -> None:
    grey = picture(seed, height, width)
    files = encodings(grey, tmp_path_factory.mktemp("encodings"))
    assert len(files) >= 16
    for channels in (1, 3):
        how = Decode(size=32, channels=channels)
        shown = {path.name: decode(path, how) for path in files}
        for name, array in shown.items():
            assert array.shape == (32, 32, channels) and array.dtype == np.uint8
            assert np.array_equal(array, shown["l.png"]), name


def test_the_right_size_is_left_as_it_is(tmp_path: Path) -> None:
    grey = picture(1)
    PIL.Image.fromarray(grey).save(tmp_path / "x.png")
    assert np.array_equal(decode(tmp_path / "x.png", Decode(size=40))[..., 0], grey)


def test_fits(tmp_path: Path) -> None:
    wide = np.full((20, 40), 200, np.uint8)
    wide[:, 30:] = 100
    PIL.Image.fromarray(wide).save(tmp_path / "x.png")
    padded = decode(tmp_path / "x.png", Decode(size=40, fit="pad"))[..., 0]
    assert (padded[:10] == 0).all() and (padded[30:] == 0).all() and np.array_equal(padded[10:30], wide)
    cropped = decode(tmp_path / "x.png", Decode(size=20, fit="crop"))[..., 0]
    assert np.array_equal(cropped, wide[:, 10:30])
    stretched = decode(tmp_path / "x.png", Decode(size=40, fit="stretch"))[..., 0]
    assert (stretched[:, :25] == 200).all() and (stretched[:, 35:] == 100).all()


def test_luma_and_alpha(tmp_path: Path) -> None:
    colour = np.zeros((16, 16, 4), np.uint8)
    colour[..., 0], colour[..., 3] = 255, 255
    colour[8:, :, 3] = 0
    PIL.Image.fromarray(colour).save(tmp_path / "x.png")
    grey = decode(tmp_path / "x.png", Decode(size=16))[..., 0]
    assert (grey[:8] == 76).all() and (grey[8:] == 0).all()
    assert decode(tmp_path / "x.png", Decode(size=16, channels=3))[0, 0].tolist() == [255, 0, 0]


def test_orientation_is_applied(tmp_path: Path) -> None:
    grey = np.tile(np.arange(32, dtype=np.uint8) * 8, (32, 1))
    exif = PIL.Image.Exif()
    exif[0x0112] = 3
    PIL.Image.fromarray(grey).save(tmp_path / "x.png", exif=exif)
    assert np.array_equal(decode(tmp_path / "x.png", Decode(size=32))[..., 0], grey[::-1, ::-1])


def test_twelve_bit_tiff_is_scaled_by_its_own_bits() -> None:
    path = SHARED / "nasty/pillow/12bit.cropped.tif"
    if not path.exists():
        pytest.skip(f"no development data at {SHARED}")
    values = np.asarray(PIL.Image.open(path)).astype(float)
    assert np.abs(read_raster(path.read_bytes()) - values / 4095 * 255).max() <= 0.5


def test_window_of_the_study_is_in_modality_units(tmp_path: Path) -> None:
    hu = np.array([[-1024, 0, 20, 40, 60, 80, 900, 40]] * 8)
    for inverted in (False, True):
        stored = (hu + 1024).astype(np.uint16)
        if inverted:  # what write_dicom mirrors must read back as the same units, dark and bright exchanged
            stored = np.subtract(65535, stored, dtype=np.uint16)
        write_dicom(tmp_path / "x.dcm", stored, intercept=-1024, inverted=inverted)
        shown = read_dicom((tmp_path / "x.dcm").read_bytes(), window=(40, 80))[0]
        expected = np.array([0, 0, 64, 128, 191, 255, 255, 128])
        assert np.abs(shown.astype(int) - (255 - expected if inverted else expected)).max() <= 1


def test_sigmoid_window(tmp_path: Path) -> None:
    ramp = np.tile(np.arange(256, dtype=np.uint8), (8, 1))
    write_dicom(tmp_path / "x.dcm", ramp, window=(128, 64), function="SIGMOID")
    expected = 255 / (1 + np.exp(-4 * (np.arange(256) - 128) / 64))
    assert np.abs(read_dicom((tmp_path / "x.dcm").read_bytes())[0] - expected).max() <= 0.5


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "bmp", "webp", "dcm"])
def test_a_cut_off_file_is_unreadable(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"x.{suffix}"
    if suffix == "dcm":
        write_dicom(path, picture(3, 64, 64))
    else:
        PIL.Image.fromarray(picture(3, 64, 64)).save(path)
    whole = path.read_bytes()
    decode(path, Decode(size=16))
    for share in (0.0, 0.05, 0.4, 0.8):
        path.write_bytes(whole[: int(len(whole) * share)])
        with pytest.raises(Unreadable) as caught:
            decode(path, Decode(size=16))
        assert caught.value.reason


def test_bombs_directories_and_strangers_are_unreadable(tmp_path: Path) -> None:
    size = struct.pack(">IIBBBBB", 10_000, 10_000, 8, 0, 0, 0, 0)
    bomb = (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size) + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")
    )
    (tmp_path / "bomb.png").write_bytes(bomb)
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "text.dcm").write_text("no picture")
    (tmp_path / "folder.png").mkdir()
    for name, said in [
        ("bomb.png", "bomb"),
        ("text.png", "known format"),
        ("folder.png", "opened"),
        ("none", "opened"),
    ]:
        with pytest.raises(Unreadable, match=said):
            decode(tmp_path / name, Decode())
    with pytest.raises(Unreadable):
        decode(tmp_path / "text.dcm", Decode())


def test_a_flipped_bit_in_png_data_is_found(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    PIL.Image.fromarray(picture(4)).save(path)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(Unreadable, match="checksum"):
        decode(path, Decode(size=40))


@needs_shared
def test_nothing_nasty_crashes() -> None:
    files = [path for place in ("nasty", "dicom_zoo") for path in (SHARED / place).rglob("*") if path.is_file()]
    assert len(files) > 200
    shown, refused = 0, []
    for path in files:
        try:
            assert decode(path, Decode(size=24, channels=3)).shape == (24, 24, 3)
            shown += 1
        except Unreadable as error:
            refused.append((path.name, error.reason))
    assert all(reason for _, reason in refused)
    names = {name for name, _ in refused}
    assert shown > 200
    assert {"broken.png", "truncated_jpeg.jpg", "decompression_bomb.gif", "xcsn0g01.png"} <= names
    assert not any(name.startswith(("bas", "bg", "SC_rgb")) for name in names)


@needs_shared
def test_dicom_equals_its_source_exactly() -> None:
    with open(SHARED / "chest_xray_dicom/sources.csv") as file:
        sources = list(csv.DictReader(file))
    assert len(sources) == 240
    for row in sources:
        expected = np.asarray(PIL.Image.open(SHARED / "chest_xray/images" / row["source_file"]).convert("L"))
        shown = read_dicom((SHARED / "chest_xray_dicom" / f"{row['image_id']}.dcm").read_bytes())
        assert np.array_equal(shown, expected), row["image_id"]
