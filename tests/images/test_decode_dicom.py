"""DICOM for display by the standard: tables, windows, frames, colours; and what is refused instead of guessed."""

import io
from typing import Any

import imagecodecs
import numpy as np
import PIL.Image
import pydicom
import pytest
from drawn_files import (
    DEFLATED,
    DEFLATED_FRAMES,
    EXPLICIT,
    HTJ2K,
    JPEG_2000,
    JPEG_BASELINE,
    JPEG_EXTENDED,
    JPEG_LOSSLESS,
    JPEG_LS,
    RLE,
    dicom,
    encoded,
    saved,
)

from harness.config.data import Decode
from harness.config.load import check_study
from harness.config.space import flatten
from harness.errors import RequestError, Unreadable
from harness.images.decode import decode_bytes
from harness.images.dicom import dicom_header, read_dicom

RAMP = np.tile(np.arange(0, 4096, 16, dtype=np.uint16), (4, 1))
SMALL = np.arange(64, dtype=np.uint8).reshape(8, 8) * 4


def table(first: int, entries: list[int], bits: int) -> pydicom.Sequence:
    item = pydicom.Dataset()
    item.add_new("LUTDescriptor", "SS" if first < 0 else "US", [len(entries), first, bits])
    item.add_new("LUTData", "OW", np.array(entries, "<u2").tobytes())
    return pydicom.Sequence([item])


def sequence(**facts: Any) -> pydicom.Sequence:
    item = pydicom.Dataset()
    for name, value in facts.items():
        setattr(item, name, value)
    return pydicom.Sequence([item])


def window(centre: Any, width: Any, **facts: Any) -> dict[str, Any]:
    return {"WindowCenter": centre, "WindowWidth": width, **facts}


def test_linear_and_linear_exact_differ_as_the_standard_says() -> None:
    """PS3.3 C.11.2.1.2.1: centre 2048 and width 4096 map -0.5 to black and 4095 to white; exact ones 0 and 4096."""
    linear = read_dicom(dicom(RAMP, EXPLICIT, BitsStored=12, **window(2048, 4096)))
    exact = read_dicom(dicom(RAMP, EXPLICIT, BitsStored=12, **window(2048, 4096, VOILUTFunction="LINEAR_EXACT")))
    assert np.array_equal(linear, np.round(np.clip((RAMP - 2047.5) / 4095 + 0.5, 0, 1) * 255))
    assert np.array_equal(exact, np.round(RAMP / 4096 * 255))
    step = read_dicom(dicom(RAMP, EXPLICIT, BitsStored=12, **window(2048, 1)))
    assert np.array_equal(step, np.where(RAMP > 2047.5, 255, 0))


def test_several_windows_the_first_unless_the_study_says_which() -> None:
    data = dicom(RAMP, EXPLICIT, BitsStored=12, **window([1000, 3000], [100, 200], VOILUTFunction="LINEAR_EXACT"))
    first, second = (read_dicom(dicom(RAMP, EXPLICIT, BitsStored=12, **window(c, w, VOILUTFunction="LINEAR_EXACT")))
                     for c, w in ((1000, 100), (3000, 200)))  # fmt: skip
    assert not np.array_equal(first, second)
    assert np.array_equal(read_dicom(data), first) and np.array_equal(read_dicom(data, window=1), first)
    assert np.array_equal(read_dicom(data, window=2), second)
    with pytest.raises(Unreadable, match="no window 3: the file has 2"):
        read_dicom(data, window=3)


def test_three_windows_are_three_channels() -> None:
    windows = ((40.0, 80.0), (80.0, 200.0), (600.0, 2800.0))
    data = dicom(RAMP, EXPLICIT, BitsStored=12, RescaleSlope=1, RescaleIntercept=-1024, **window(0, 1))
    shown = read_dicom(data, window=windows)
    for channel, one in enumerate(windows):
        alone = read_dicom(data, window=one)
        assert np.array_equal(shown[..., channel], alone)
        assert np.array_equal(alone, np.round(np.clip((RAMP - 1024.0 - one[0]) / one[1] + 0.5, 0, 1) * 255))
    how = Decode(size=8, channels=3, window=windows, fit="stretch")
    assert len(np.unique(decode_bytes(data, ".dcm", how).reshape(-1, 3), axis=0)) == 8
    inverted = dicom(RAMP, EXPLICIT, BitsStored=12, PhotometricInterpretation="MONOCHROME1", RescaleSlope=1,
                     RescaleIntercept=-1024)  # fmt: skip
    turned = 255 - read_dicom(inverted, window=windows).astype(int)
    assert np.abs(turned - shown).max() <= 1  # halves are rounded to even on both sides


def study(**decode: Any) -> dict[str, Any]:
    return {"name": "x", "data": {"root": "phantom", "group": "patient", "decode": decode}, "search": {"trials": 1}}


def test_windows_and_frames_of_a_study_file() -> None:
    three = [[40, 80], [80, 200], [600, 2800]]
    spec = check_study(study(window=three, channels=3, frame=7), "x").spec
    assert spec.data.decode.window == ((40.0, 80.0), (80.0, 200.0), (600.0, 2800.0)) and spec.data.decode.frame == 7
    kept = check_study(study(window=three, channels=3), "x")  # as the ledger and MLflow keep it
    assert check_study(kept.tree, "x").spec == kept.spec and flatten(kept.tree)["data.decode.window"] == three
    assert check_study(study(window=[40, 80]), "x").spec.data.decode.window == (40.0, 80.0)
    assert check_study(study(window=2), "x").spec.data.decode.window == 2
    for wrong, said in [
        ({"window": three}, "set data.decode.channels to 3"),
        ({"window": [40, 0]}, r"centre, width\] with a width above 0"),
        ({"window": [40]}, r"such as \[40, 80\]"),
        ({"window": [[40, 80], [80, 200]], "channels": 3}, r"one window, \[40, 80\], or three"),
        ({"window": 0}, "the number of a window of the file, from 1"),
        ({"window": "brain"}, r"write \[centre, width\]"),
        ({"window": True}, r"write \[centre, width\]"),
        ({"frame": 0}, "the number of a frame, from 1"),
        ({"frame": "last"}, "write middle, first, or the number"),
    ]:
        with pytest.raises(RequestError, match=said):
            check_study(study(**wrong), "x")


def test_frames() -> None:
    frames = np.stack([np.full((8, 8), value, np.uint8) for value in (10, 20, 30, 40)])
    for uid in (EXPLICIT, RLE, JPEG_LS, DEFLATED_FRAMES):
        data = dicom(frames, uid, frames=True)
        for frame, value in (("middle", 30), ("first", 10), (1, 10), (2, 20), (4, 40)):
            assert (read_dicom(data, frame=frame) == value).all(), (uid, frame)
        with pytest.raises(Unreadable, match="no frame 5: the file has 4"):
            read_dicom(data, frame=5)


def test_modality_table_before_window_before_polarity() -> None:
    """A table of 12 bits that starts below zero and is not monotonic, as pydicom 3.0 does not read it."""
    stored = np.array([[-900, -3, -2, -1, 0, 1, 900]], np.int16)
    facts = {"ModalityLUTSequence": table(-2, [0, 4000, 1000, 2000], 12), **window(2000, 4000)}
    for polarity in ("MONOCHROME2", "MONOCHROME1"):
        shown = read_dicom(dicom(stored, EXPLICIT, PhotometricInterpretation=polarity, **facts))
        values = np.array([[0, 0, 0, 4000, 1000, 2000, 2000]])
        grey = np.clip((values - 1999.5) / 3999 + 0.5, 0, 1)
        expected = np.round((1 - grey if polarity == "MONOCHROME1" else grey) * 255)
        assert np.array_equal(shown, expected)


def test_voi_table_beyond_256_steps_of_8_bits() -> None:
    """pydicom 3.0 keeps the index of such a table in 8 bits."""
    entries = [step // 4 for step in range(1024)]
    data = dicom(RAMP, EXPLICIT, BitsStored=12, VOILUTSequence=table(100, entries, 8), **window(1, 2))
    expected = np.array(entries)[np.clip(RAMP.astype(int) - 100, 0, 1023)]
    assert np.array_equal(read_dicom(data), expected)  # and the table is preferred to the window
    with pytest.raises(Unreadable, match="no window 2"):
        read_dicom(data, window=2)


def test_enhanced_files_keep_rescaling_and_window_in_frame_groups() -> None:
    frames = np.stack([RAMP, RAMP, RAMP])
    shared = sequence(
        PixelValueTransformationSequence=sequence(RescaleSlope=2, RescaleIntercept=-1000),
        FrameVOILUTSequence=sequence(**window(0, 100, VOILUTFunction="LINEAR_EXACT")),
    )
    own = pydicom.Sequence(
        sequence(FrameVOILUTSequence=sequence(**window(centre, 2000, VOILUTFunction="LINEAR_EXACT")))[0]
        for centre in (0, 500, 1000)
    )
    both = {"SharedFunctionalGroupsSequence": shared, "PerFrameFunctionalGroupsSequence": own}
    data = dicom(frames, EXPLICIT, frames=True, BitsStored=12, **both)
    for frame, centre in ((1, 0), (2, 500), (3, 1000)):
        expected = np.clip((RAMP * 2.0 - 1000 - centre) / 2000 + 0.5, 0, 1)
        assert np.array_equal(read_dicom(data, frame=frame), np.round(expected * 255))
    alone = read_dicom(dicom(frames, EXPLICIT, frames=True, BitsStored=12, SharedFunctionalGroupsSequence=shared))
    assert np.array_equal(alone, np.round(np.clip((RAMP * 2.0 - 1000) / 100 + 0.5, 0, 1) * 255))


def test_without_window_the_stored_bits_or_the_values_present() -> None:
    few = np.array([[0, 1, 2, 3]], np.uint8)
    assert read_dicom(dicom(few, EXPLICIT, BitsStored=2)).tolist() == [[0, 85, 170, 255]]
    assert read_dicom(dicom(few, EXPLICIT)).tolist() == [[0, 1, 2, 3]]
    deep = np.array([[100, 200, 300, 65535]], np.uint16)
    padded = {"PixelPaddingValue": 65535}
    assert read_dicom(dicom(deep, EXPLICIT, **padded)).tolist() == [[0, 128, 255, 255]]
    flat = np.full((2, 2), 65535, np.uint16)
    assert (read_dicom(dicom(flat, EXPLICIT, **padded)) == 0).all() and (read_dicom(dicom(flat, EXPLICIT)) == 0).all()


def test_bits_above_those_stored_are_ignored() -> None:
    """Old files keep overlays there (PS3.5 8.1.1)."""
    dirty = RAMP | 0xF000
    clean = dicom(RAMP, EXPLICIT, BitsStored=12, **window(2048, 4096))
    assert np.array_equal(read_dicom(dicom(dirty, EXPLICIT, BitsStored=12, **window(2048, 4096))), read_dicom(clean))


def test_twelve_bit_jpeg_extended() -> None:
    smooth = np.add.outer(np.arange(64) * 30, np.arange(64) * 30).astype(np.uint16)
    frame = imagecodecs.jpeg8_encode(smooth, level=98, bitspersample=12, lossless=False)
    assert frame.find(b"\xff\xc1") > 0  # extended sequential
    data = dicom(smooth, JPEG_EXTENDED, compressed=[frame], BitsStored=12, **window(2048, 4096))
    exact = read_dicom(dicom(smooth, EXPLICIT, BitsStored=12, **window(2048, 4096)))
    assert np.abs(read_dicom(data).astype(int) - exact).max() <= 2


@pytest.mark.parametrize("uid", [JPEG_LOSSLESS, JPEG_LS, JPEG_2000, HTJ2K])
def test_a_frame_of_another_size_than_the_header_says(uid: str) -> None:
    """Decoders allocate what the frame claims: 65,535 squared in a file of a few hundred bytes."""
    assert read_dicom(dicom(SMALL, uid)).shape == (8, 8)
    frame = bytearray(encoded(SMALL, uid))
    if uid in (JPEG_2000, HTJ2K):
        at = frame.index(b"\xff\x51") + 6
        frame[at : at + 8] = b"\0\0\xff\xff" * 2
    else:
        at = next(frame.index(mark) for mark in (b"\xff\xc3", b"\xff\xf7") if mark in frame) + 5
        frame[at : at + 4] = b"\xff" * 4
    for wrong in (bytes(frame), encoded(SMALL[:4], uid), encoded(np.repeat(SMALL[..., None], 3, axis=2), uid)):
        with pytest.raises(Unreadable, match="another size than the header says"):
            read_dicom(dicom(SMALL, uid, compressed=[wrong]))
    with pytest.raises(Unreadable, match="does not say its size"):
        read_dicom(dicom(SMALL, uid, compressed=[b"no frame at all."]))


@pytest.mark.parametrize("uid", [JPEG_LOSSLESS, JPEG_LS, JPEG_2000, HTJ2K, RLE, DEFLATED_FRAMES])
def test_a_frame_that_is_cut_off(uid: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)
    frame = encoded(noise, uid)
    assert np.array_equal(read_dicom(dicom(noise, uid)), noise)
    with pytest.raises(Unreadable):
        read_dicom(dicom(noise, uid, compressed=[frame[: len(frame) // 2]]))


def test_deflated_bombs_and_stumps() -> None:
    data = dicom(SMALL, DEFLATED)
    assert np.array_equal(read_dicom(data), SMALL) and dicom_header(io.BytesIO(data))[:3] == (8, 8, "MONOCHROME2")
    with pytest.raises(Unreadable, match="cut off"):
        read_dicom(data[:-20])
    start = 144 + int.from_bytes(data[140:144], "little")
    with pytest.raises(Unreadable, match="damaged deflated data"):
        read_dicom(data[:start] + b"\xff" + data[start + 1 :])


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"PhotometricInterpretation": "ARGB"}, "photometric interpretation ARGB"),
    ({"PhotometricInterpretation": "Doe^Jane"}, r"photometric interpretation \(unknown\)"),
    ({"PhotometricInterpretation": "RGB"}, "another shape than its photometric interpretation"),
    ({"RescaleSlope": 0, "RescaleIntercept": 5}, "slope of 0"),
    (window(10, 20, VOILUTFunction="CURVED"), "cannot decode"),
    ({"VOILUTSequence": table(0, [1, 2], 17)}, "less than 8 or more than 16 bits"),
    ({"Rows": 60_000, "Columns": 60_000}, "decompression bomb"),
    ({"Rows": 9, "Columns": 9}, "cannot decode"),
]


@pytest.mark.parametrize(("facts", "said"), REFUSED)
def test_refused_instead_of_guessed(facts: dict[str, Any], said: str) -> None:
    with pytest.raises(Unreadable, match=said) as caught:
        read_dicom(dicom(SMALL, EXPLICIT, **facts))
    assert "Doe" not in caught.value.reason


def test_a_table_that_is_shorter_than_it_says() -> None:
    short = table(0, list(range(200)), 8)
    short[0].LUTDescriptor = [256, 0, 8]
    with pytest.raises(Unreadable, match="lookup table that is cut off"):
        read_dicom(dicom(SMALL, EXPLICIT, VOILUTSequence=short))


def test_compressed_colour_is_what_its_codec_says() -> None:
    """JPEG's YBR, subsampled or not, and JPEG 2000's own colour transform; by Pillow's reading of the same stream."""
    down, across = np.mgrid[0:48, 0:64].astype(np.uint8)
    rgb = np.stack([down * 5, across * 4, 255 - down * 2 - across * 2], axis=2)
    image = PIL.Image.fromarray(rgb)
    for photometric, subsampling in (("YBR_FULL_422", "4:2:2"), ("YBR_FULL", "4:4:4")):
        frame = saved(image, "JPEG", quality=90, subsampling=subsampling)
        data = dicom(rgb, JPEG_BASELINE, compressed=[frame], PhotometricInterpretation=photometric)
        shown = read_dicom(data)
        assert np.abs(shown.astype(int) - np.asarray(PIL.Image.open(io.BytesIO(frame)))).max() <= 2
        assert np.abs(shown.astype(int) - rgb).max() <= 40  # and not YBR shown as RGB
    for uid in (JPEG_2000, HTJ2K):
        frame = imagecodecs.jpeg2k_encode(rgb, reversible=True, codecformat="j2k", level=0, mct=True)
        frame = imagecodecs.htj2k_encode(rgb, reversible=True, rgb=True) if uid == HTJ2K else frame
        shown = read_dicom(dicom(rgb, uid, compressed=[frame], PhotometricInterpretation="YBR_RCT"))
        assert np.array_equal(shown, rgb)
    ybr = np.asarray(image.convert("YCbCr"))
    jpeg = imagecodecs.jpeg8_encode(ybr, lossless=True, colorspace="YCBCR", outcolorspace="YCBCR", subsampling="444")
    for uid, frame in ((JPEG_LOSSLESS, jpeg), (RLE, encoded(ybr, RLE)), (JPEG_LS, encoded(ybr, JPEG_LS))):
        shown = read_dicom(dicom(ybr, uid, compressed=[frame], PhotometricInterpretation="YBR_FULL"))
        assert np.abs(shown.astype(int) - rgb).max() <= 3  # rounded twice: to YBR and back
    wide = rgb.astype(np.uint16) * 257
    for uid in (EXPLICIT, RLE, DEFLATED_FRAMES, JPEG_LOSSLESS, JPEG_LS, JPEG_2000, HTJ2K):
        assert np.array_equal(read_dicom(dicom(wide, uid, PhotometricInterpretation="RGB")), rgb), uid


def test_what_pydicom_would_say_of_a_file_is_not_said(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """Its logs and warnings quote headers, and with them patients."""
    noise = np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)
    frame = encoded(noise, JPEG_LOSSLESS)
    secret = {"PatientName": "Doe^Jane", "PatientBirthDate": "unreadable", "WindowCenter": 1, "WindowWidth": 2}
    for data in (
        dicom(noise, JPEG_LOSSLESS, compressed=[frame[: len(frame) // 2]], **secret),
        dicom(noise, EXPLICIT, **secret)[:-100],
        dicom(noise, JPEG_2000, compressed=[encoded(noise, JPEG_2000)[:99]], **secret),
    ):
        with pytest.raises(Unreadable) as caught:
            read_dicom(data)
        assert "Doe" not in caught.value.reason
    assert not [record for record in caplog.records if record.name.startswith("pydicom")]
    out, err = capfd.readouterr()
    assert out == "" and err == ""
