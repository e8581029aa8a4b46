"""Headers: no more is read than they take, flaky storage is asked again, unchanged files are not opened again."""

import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import PIL.Image
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.multival import MultiValue
from small_data import Reads, film, picture, quiet

from harness.images.decode import PAUSES, patiently
from harness.images.dicom import IDENTIFYING, TECHNICAL
from harness.images.headers import Header, headers_of, read_header
from harness.store.home import Home

SHARED = Path(__file__).parents[2].parent / "shared" / "data"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason=f"no development data at {SHARED}")
DEAD = Path("/proc/self/mem")
"""reading it at its start fails with EIO, as a dying disk does"""
needs_dead = pytest.mark.skipif(not DEAD.exists(), reason=f"no {DEAD} here, whose reading fails with EIO")


def home_like(home: Home, other: Path) -> Home:
    """An empty home with the same salt."""
    other.mkdir()
    (other / "salt").write_text(home.salt())
    return Home(other)


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "bmp", "webp"])
def test_says_what_the_picture_is(tmp_path: Path, suffix: str) -> None:
    header = read_header(picture(tmp_path / f"a.{suffix}", width=31, height=17), str)
    assert (header.width, header.height, header.problem) == (31, 17, "")


def test_a_film_says_how_it_was_made_and_hashes_of_whom(tmp_path: Path) -> None:
    path = film(tmp_path / "a.dcm", PatientID="Miller", Modality="DX", BodyPartExamined="CHEST", PatientName="Miller^A")
    header = read_header(path, lambda text: f"<{len(text)}>")
    assert (header.width, header.height, header.mode, header.format) == (12, 10, "MONOCHROME2", "DICOM")
    assert "DX" in header.attributes and "CHEST" in header.attributes and "<6>" in header.attributes
    assert "Miller" not in str(header)


@needs_shared
def test_headers_say_what_pydicom_reads_in_them() -> None:
    compared = 0
    for path in sorted([*(SHARED / "dicom_zoo").rglob("*"), *(SHARED / "chest_xray_dicom").glob("*.dcm")]):
        header = read_header(path, str) if path.is_file() else Header(problem="a folder")
        if header.problem or header.format != "DICOM":
            continue
        dataset = pydicom.dcmread(path, force=True, stop_before_pixels=True)
        assert (header.width, header.height) == (dataset.Columns, dataset.Rows)
        for name, text in zip((*TECHNICAL, *IDENTIFYING), header.attributes, strict=True):
            value = dataset.get(name)
            several = value if isinstance(value, MultiValue) else [] if value is None else [value]
            words = [str(one).strip() for one in several]
            # as the file writes a number: 70 for pydicom's 70.0
            numbers = isinstance(next(iter(several), None), float)
            assert [float(one) for one in text.split()] == several if numbers else text == " ".join(words), (path, name)
            compared += bool(text)
    assert compared > 2000


def test_reads_the_header_and_not_the_pixels(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (1000, 1000), dtype=np.uint8)
    for name in ("a.png", "a.bmp"):
        path = tmp_path / name
        PIL.Image.fromarray(noise).save(path)
        size = path.stat().st_size
        os.truncate(path, 70_000)  # what lies behind is not missed
        header = read_header(path, str)
        assert (header.width, header.height, header.problem) == (1000, 1000, "") and size > 500_000
    path = film(tmp_path / "a.dcm")
    os.truncate(path, path.stat().st_size - 100)
    assert read_header(path, str).problem == ""


def test_what_is_wrong_is_said(tmp_path: Path) -> None:
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "text.dcm").write_text("no film, but long enough to be asked for a header" * 10)
    assert read_header(tmp_path / "empty.png", str).problem == "an empty file"
    assert read_header(tmp_path / "text.png", str).problem == "not an image in any known format"
    assert "DICOM" in read_header(tmp_path / "text.dcm", str).problem
    assert "No such file" in read_header(tmp_path / "gone.png", str).problem
    assert "directory" in read_header(tmp_path, str).problem


@needs_dead
def test_a_disk_that_recovers_is_asked_again(tmp_path: Path) -> None:
    whole = picture(tmp_path / "whole.png")
    path = tmp_path / "a.png"
    path.symlink_to(DEAD)
    waited: list[float] = []

    def pause(seconds: float) -> None:
        waited.append(seconds)
        if len(waited) == 2:
            path.unlink()
            path.symlink_to(whole)

    assert patiently(path.read_bytes, pause) == whole.read_bytes()
    assert tuple(waited) == PAUSES[:2] == tuple(sorted(PAUSES[:2]))


@needs_dead
def test_a_disk_that_stays_dead_is_a_problem_of_its_files(tmp_path: Path) -> None:
    (tmp_path / "a.png").symlink_to(DEAD)
    picture(tmp_path / "b.png")
    waited: list[float] = []
    with pytest.raises(OSError, match="Input/output") as failed:
        patiently((tmp_path / "a.png").read_bytes, waited.append)
    assert failed.value.errno == errno.EIO and tuple(waited) == PAUSES
    table = headers_of(tmp_path, ["a.png", "b.png"], Home(tmp_path / "home"), quiet)
    assert list(table["problem"]) == ["cannot be opened: Input/output error", ""]


def test_what_is_not_there_is_not_asked_for_again(tmp_path: Path) -> None:
    waited: list[float] = []
    with pytest.raises(FileNotFoundError):
        patiently((tmp_path / "gone").read_bytes, waited.append)
    assert not waited


def test_only_what_changed_is_read_again_and_all_of_it_by_force(tmp_path: Path) -> None:
    names = [picture(tmp_path / f"root/{number:03d}.png").name for number in range(100)]
    root, home = tmp_path / "root", Home(tmp_path / "home")
    counts = []
    for change, force in [("", False), ("", False), ("005.png", False), ("", True)]:
        if change:
            picture(root / change, width=99)
        reads = Reads()
        table = headers_of(root, names, home, reads, force)
        counts.append(reads.files)
    assert counts == [100, 0, 1, 100] and table["width"][5] == 99
    reads = Reads()
    headers_of(root, [*names[:50], picture(root / "new.png").name], home, reads)
    headers_of(root, names, home, reads)
    assert reads.files == 1


def test_force_sees_what_size_and_time_hide(tmp_path: Path) -> None:
    path = picture(tmp_path / "root/a.bmp", width=12, height=8)
    home, times = Home(tmp_path / "home"), os.stat(path)
    headers_of(path.parent, ["a.bmp"], home, quiet)
    PIL.Image.fromarray(np.zeros((12, 8), np.uint8)).save(path)
    os.truncate(path, times.st_size)
    path.write_bytes(path.read_bytes().ljust(times.st_size, b"\0"))
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert headers_of(path.parent, ["a.bmp"], home, quiet)["width"][0] == 12
    assert headers_of(path.parent, ["a.bmp"], home, quiet, force=True)["width"][0] == 8
    assert headers_of(path.parent, ["a.bmp"], home, quiet)["width"][0] == 8


TWO = """
import sys
from pathlib import Path
from harness.images.headers import headers_of
from harness.store.home import Home
root = Path(sys.argv[1])
names = sorted(path.name for path in root.iterdir())
Home(Path(sys.argv[2])).salt()
print("ready", flush=True)
sys.stdin.readline()
def progress(what, done, total):
    print(what, done, total, flush=True)
print(headers_of(root, names, Home(Path(sys.argv[2])), progress).to_csv(), flush=True)
"""


def test_two_processes_read_each_file_once_and_agree(tmp_path: Path) -> None:
    for number in range(300):
        picture(tmp_path / f"root/{number:03d}.png")
    command = [sys.executable, "-c", TWO, str(tmp_path / "root"), str(tmp_path / "home")]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    both = [subprocess.Popen(command, **pipes) for _ in range(2)]
    for process in both:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
    for process in both:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    said = [process.communicate(timeout=120)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert sum("scan 300 300" in out for out in said) == 1
    assert len({out[out.index(",id,") :] for out in said}) == 1


def test_what_a_crash_left_is_not_trusted(tmp_path: Path) -> None:
    picture(tmp_path / "root/a.png")
    home = Home(tmp_path / "home")
    first = headers_of(tmp_path / "root", ["a.png"], home, quiet)
    (kept,) = home.pixels.glob("scan-*/headers.parquet")
    for damage in (lambda: kept.write_bytes(kept.read_bytes()[:100]), kept.unlink, (kept.parent / "DONE").unlink):
        damage()
        reads = Reads()
        assert headers_of(tmp_path / "root", ["a.png"], home, reads).equals(first) and reads.files == 1


CHANGES = st.lists(
    st.tuples(st.sampled_from(["write", "remove", "break", "film", "rename"]), st.integers(0, 5), st.integers(1, 40)),
    max_size=6,
)


@settings(max_examples=25, deadline=None)
@given(rounds=st.lists(CHANGES, min_size=1, max_size=3))
def test_a_rescan_after_any_changes_equals_a_fresh_scan(
    rounds: list[list[tuple[str, int, int]]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    place = tmp_path_factory.mktemp("law")
    root, home = place / "root", Home(place / "home")
    names = [f"{number}.png" for number in range(6)]
    for name in names[:3]:
        picture(root / name)
    try:
        for number, changes in enumerate(rounds):
            for what, which, size in changes:
                apply(what, root / names[which], root / names[(which + size) % 6], size)
            again = headers_of(root, names, home, quiet)
            assert again.equals(headers_of(root, names, home_like(home, place / f"fresh{number}"), quiet))
            assert list(again["id"]) == names
    finally:
        shutil.rmtree(place)


def apply(what: str, path: Path, other: Path, size: int) -> None:
    if what == "write":
        picture(path, width=size)
    elif what == "film":
        film(path, PatientID=f"patient {size}")
    elif what == "break":
        path.write_bytes(b"x" * size)
    elif what == "remove":
        path.unlink(missing_ok=True)
    elif path.exists() and path != other:
        path.replace(other)
