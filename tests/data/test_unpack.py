"""Archives that strangers make: good ones come out whole, bad ones leave nothing behind."""

import io
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.data import download as unpacking
from harness.data.download import archive_stem, unpack
from harness.errors import HarnessError

Write = Callable[[Path, dict[str, bytes]], Path]


def as_zip(folder: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(folder / "set.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return folder / "set.zip"


def as_tar(folder: Path, files: dict[str, bytes]) -> Path:
    with tarfile.open(folder / "set.tar.gz", "w:gz") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return folder / "set.tar.gz"


def run(archive: Path) -> int:
    return unpack(archive, archive.parent / "set", lambda what, done, total: None)


def assert_nothing_but(archive: Path, folder: Path) -> None:
    assert [path.name for path in folder.rglob("*")] == [archive.name]


@pytest.mark.parametrize("write", [as_zip, as_tar])
class TestEveryKind:
    def test_good_archives_come_out_whole(self, write: Write, tmp_path: Path) -> None:
        files = {"a.txt": b"1", "deep/down/b.bin": bytes(range(256)) * 9000, "./c.txt": b""}
        assert run(write(tmp_path, files)) == 3
        found = {p.relative_to(tmp_path / "set").as_posix(): p.read_bytes() for p in (tmp_path / "set").rglob("*.*")}
        assert found == {name.removeprefix("./"): content for name, content in files.items()}

    @pytest.mark.parametrize("name", ["../out.txt", "a/../../out.txt", "/tmp/out.txt", "..\\out.txt", "C:/out.txt"])
    def test_what_climbs_out_refuses_the_whole(self, write: Write, name: str, tmp_path: Path) -> None:
        inner = tmp_path / "inner"
        inner.mkdir()
        archive = write(inner, {"good.txt": b"1", name: b"2"})
        with pytest.raises(HarnessError, match="outside"):
            run(archive)
        assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == [archive.name]

    def test_a_bomb_is_stopped_while_it_goes_off(self, write: Write, tmp_path: Path, monkeypatch) -> None:
        monkeypatch.setattr(unpacking, "FREE_BYTES", 10**6)
        archive = write(tmp_path, {"zeros": bytes(30 * 10**6)})
        assert archive.stat().st_size * unpacking.MOST_TIMES < 30 * 10**6
        with pytest.raises(HarnessError, match="unpack to more than"):
            run(archive)
        assert_nothing_but(archive, tmp_path)

    def test_too_many_files_are_refused(self, write: Write, tmp_path: Path, monkeypatch) -> None:
        monkeypatch.setattr(unpacking, "MOST_FILES", 3)
        archive = write(tmp_path, {f"{i}.txt": b"" for i in range(4)})
        with pytest.raises(HarnessError, match="more than 3 files"):
            run(archive)
        assert_nothing_but(archive, tmp_path)

    def test_a_damaged_archive_is_named(self, write: Write, tmp_path: Path) -> None:
        archive = write(tmp_path, {"a.bin": bytes(range(256)) * 4000, "b.bin": bytes(range(255)) * 4000})
        whole = archive.read_bytes()
        for damaged in (whole[: len(whole) // 2], whole[:40] + bytes(200) + whole[240:], b"nonsense"):
            archive.write_bytes(damaged)
            with pytest.raises(HarnessError, match="cannot be unpacked"):
                run(archive)
            assert_nothing_but(archive, tmp_path)

    def test_one_name_twice_is_refused(self, write: Write, tmp_path: Path) -> None:
        archive = write(tmp_path, {"a": b"1", "./a": b"2"})
        with pytest.raises(HarnessError, match="one name"):
            run(archive)
        assert_nothing_but(archive, tmp_path)

    def test_a_full_disk_is_said(self, write: Write, tmp_path: Path, monkeypatch) -> None:
        monkeypatch.setattr(unpacking, "UNPACK_SPARE_BYTES", 2**62)
        archive = write(tmp_path, {"a": b"1"})
        with pytest.raises(HarnessError, match="disk is too small"):
            run(archive)
        assert_nothing_but(archive, tmp_path)


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_links_and_devices_in_a_tar_are_refused(kind: bytes, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "set.tar", "w") as archive:
        info = tarfile.TarInfo("innocent.png")
        info.type, info.linkname = kind, "/etc/passwd"
        archive.addfile(info)
    with pytest.raises(HarnessError, match="link or a device"):
        run(tmp_path / "set.tar")
    assert_nothing_but(tmp_path / "set.tar", tmp_path)


def test_a_link_in_a_zip_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        info = zipfile.ZipInfo("innocent.png")
        info.external_attr = 0o120777 << 16
        archive.writestr(info, "/etc/passwd")
    with pytest.raises(HarnessError, match="link or a device"):
        run(tmp_path / "set.zip")
    assert_nothing_but(tmp_path / "set.zip", tmp_path)


def test_a_zip_with_a_password_is_said_to_be_one(tmp_path: Path) -> None:
    archive = as_zip(tmp_path, {"a.txt": b"1"})
    data = bytearray(archive.read_bytes())
    for mark, at in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(mark) + at] |= 1  # the flag of an encrypted member
    archive.write_bytes(bytes(data))
    with pytest.raises(HarnessError, match="encrypted"):
        run(archive)


def test_archives_are_known_by_name_and_npz_is_none() -> None:
    assert archive_stem("set.tar.gz") == "set" and archive_stem("Set.ZIP") == "Set" and archive_stem("a.tgz") == "a"
    assert archive_stem("set.npz") is None and archive_stem(".zip") is None and archive_stem("labels.csv") is None
