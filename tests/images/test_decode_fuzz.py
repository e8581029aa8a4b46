"""Damaged files and bombs, in processes whose memory and time are limited: nothing but Unreadable, nothing wrong shown.

A cut-off file is refused or shows the whole picture. A flipped bit may change a picture without anyone being able to
know; what it may not do is crash, hang or take memory without bounds.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from drawn_files import HTJ2K, JPEG_2000, JPEG_LOSSLESS, JPEG_LS, write_all

resource = pytest.importorskip("resource", reason="limits of memory and time are set as Unix has them")
HERE = Path(__file__).parent
SHARED = HERE.parents[1].parent / "shared" / "data"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason=f"no development data at {SHARED}")
ODD = (str(SHARED / "dicom_zoo"), str(SHARED / "nasty"))
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits of memory and time are set as Linux has them")


def limited(program: str, *arguments: object, seconds: int, gigabytes: float = 8) -> dict[str, Any]:
    """Run one of the programs beside this file; a crash, a hang or too much memory fails with the file in work."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
        resource.setrlimit(resource.RLIMIT_AS, (int(gigabytes * 2**30),) * 2)

    done = subprocess.run(
        [sys.executable, str(HERE / program), *map(str, arguments)],
        capture_output=True,
        text=True,
        preexec_fn=limit,
        env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, (done.returncode, done.stderr[-500:])
    said: dict[str, Any] = json.loads(done.stdout)
    return said


def check(said: dict[str, Any], least_decoded: int) -> None:
    assert said["crashes"] == [] and said["wrong"] == []
    assert said["decoded"] >= least_decoded  # damage that goes too deep would test nothing but the first bytes
    assert said["decoded"] + said["refused"] == said["damaged"] and said["refused"] > said["damaged"] // 4
    assert said["peak_mb"] < 600


def test_damaged_files_of_every_encoding(tmp_path: Path) -> None:
    grey = np.random.default_rng(5).integers(0, 256, (24, 31), dtype=np.uint8)
    write_all(grey, tmp_path)
    said = limited("fuzz_decoding.py", 2500, 11, 100_000, tmp_path, seconds=200)
    assert said["sources"] == len(list(tmp_path.iterdir())) > 80
    check(said, 300)


@needs_shared
def test_damaged_odd_files() -> None:
    said = limited("fuzz_decoding.py", 2500, 12, 60_000, *ODD, seconds=200)
    assert said["sources"] > 200
    check(said, 100)


@needs_shared
@pytest.mark.slow
def test_many_damaged_odd_files() -> None:
    said = limited("fuzz_decoding.py", 20_000, 13, 900_000, *ODD, SHARED / "chest_xray_dicom", seconds=1500)
    assert said["sources"] > 450
    check(said, 2000)


def test_bombs_are_refused_within_limits() -> None:
    said = limited("bomb_decoding.py", 1500, "bombs", seconds=100)
    assert all(size < 6_000_000 for size in said["bytes"].values())
    unlike = {
        "text.png": "MAX_TEXT_CHUNK",
        "codestream.jp2": "broken data stream",
        "frames.dcm": "cannot decode the RLE Lossless pixel data (ValueError)",
        **{f"{uid}.dcm": "another size than the header says" for uid in (JPEG_LOSSLESS, JPEG_LS, JPEG_2000, HTJ2K)},
    }
    assert len(said["said"]) == 22 and set(unlike) < set(said["said"])
    for name, reason in said["said"].items():
        assert unlike.get(name, "refused as a decompression bomb") in reason, (name, reason)
    assert said["grown_mb"] < 1200


@pytest.mark.slow
def test_the_largest_pictures_allowed_take_a_gigabyte() -> None:
    said = limited("bomb_decoding.py", 2500, "largest", seconds=300)
    assert len(said["said"]) == 7 and set(said["said"].values()) == {"decoded"}
    assert 400 < said["grown_mb"] < 1300


def test_the_limits_are_felt(tmp_path: Path) -> None:
    """A program that takes more than it may, or for longer, is an error here."""
    (tmp_path / "greedy.py").write_text("x = bytes(2 * 2**30)\nprint('{}')")
    (tmp_path / "endless.py").write_text("while True: pass")
    with pytest.raises(AssertionError, match="MemoryError"):
        limited(str(tmp_path / "greedy.py"), seconds=20, gigabytes=1)
    with pytest.raises(AssertionError):
        limited(str(tmp_path / "endless.py"), seconds=1)
