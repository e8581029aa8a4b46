"""The odd files of other people's test collections: each equals its library's own reading, or is refused as listed."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from benchmarks._decoding_zoo import Row, files, page, row

SHARED = Path(__file__).parents[2].parent / "shared" / "data"
PAGE = Path(__file__).parents[2] / "docs/decoding-zoo.md"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason=f"no development data at {SHARED}")

DAMAGED = {
    "emri_small_jpeg_2k_lossless_too_short.dcm",
    "broken.png",
    "broken_data_stream.png",
    "decompression_bomb.gif",
    "png_decompression_dos.png",
    "truncated_image.png",
    "truncated_jpeg.jpg",
}
"""besides PngSuite's x files, which are damaged on purpose"""


@needs_shared
def test_every_odd_file_equals_its_librarys_reading_or_is_refused_for_its_damage() -> None:
    rows = [row(path, SHARED) for path in files(SHARED)]
    assert len(rows) == 256
    assert {one.file: one.difference for one in rows if one.difference} == {}
    refused = {Path(one.file).name: one.reason for one in rows if one.difference is None}
    assert {name for name in refused if not name.startswith("x")} == DAMAGED
    assert sum(name.startswith("x") for name in refused) == 14 and all(refused.values())

    def without_reasons(text: str) -> list[str]:  # these are the libraries' own words, and change with them
        refusals, decoded = text.split("## Decoded")
        return [line.split("|")[1] for line in refusals.splitlines() if "|" in line] + decoded.splitlines()

    assert without_reasons(page(rows)) == without_reasons(PAGE.read_text()), (
        "python -m benchmarks._decoding_zoo --root ../shared/data > docs/decoding-zoo.md"
    )


@needs_shared
def test_the_comparison_sees_a_difference(tmp_path: Path) -> None:
    """A reference that is three grey levels brighter is a difference of three in the table."""
    source = SHARED / "dicom_zoo" / "JPGLosslessP14SV1_1s_1f_8b.dcm"
    shutil.copy(source, tmp_path / source.name)
    assert row(tmp_path / source.name, tmp_path) == Row(
        source.name, "JPEG Lossless, MONOCHROME2, 8 bits", "liblj92, window", 0, ""
    )
    from benchmarks import _decoding_zoo as zoo

    what, by, expected = zoo.dicom_reference(tmp_path / source.name)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(zoo, "dicom_reference", lambda path: (what, by, np.clip(expected + 3, 0, 255)))
        assert row(tmp_path / source.name, tmp_path).difference == 3
