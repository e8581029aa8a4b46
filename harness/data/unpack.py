"""Archives from strangers, unpacked so that nothing lands outside the folder and nothing fills the disk.

Only plain files and folders are taken: a link, a device, an absolute path or one that climbs out refuses the whole
archive, before anything of it is seen under the target's name. Knows zip and tar, no network.
"""

import os
import posixpath
import shutil
import stat
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from harness.errors import HarnessError
from harness.types import Progress

SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
SPARE_BYTES = 64 * 2**20
"""left free on the disk"""
MOST_FILES = 2_000_000
FREE_BYTES, MOST_TIMES = 100 * 2**20, 100
"""a bomb: more than so many bytes, and more than so many times the archive; images shrink by far less"""
CHUNK = 2**20


def archive_stem(name: str) -> str | None:
    """'set' for 'set.tar.gz', None for what is no archive by its name (an .npz is a zip that stays one)."""
    for suffix in SUFFIXES:
        if name.lower().endswith(suffix) and len(name) > len(suffix):
            return name[: -len(suffix)]
    return None


def unpack(archive: Path, folder: Path, progress: Progress) -> int:
    """Unpack into `folder`, which must not exist and appears whole or not at all. Returns the number of files.

    Raises HarnessError for a damaged archive, one that reaches outside, links, bombs, and a disk that is too small.
    """
    whole = archive.stat().st_size
    limit = max(FREE_BYTES, MOST_TIMES * whole)
    room = shutil.disk_usage(archive.parent).free - SPARE_BYTES
    count = written = 0
    with _new_folder(folder) as new:
        try:
            for name, source in _members(archive):
                target = new / _inside(archive, name)
                count += 1
                if count > MOST_FILES:
                    raise _refused(archive, f"it holds more than {MOST_FILES} files")
                if source is None:
                    target.mkdir(parents=True, exist_ok=True)
                    continue
                target.parent.mkdir(parents=True, exist_ok=True)
                with source, open(target, "xb") as file:
                    while chunk := source.read(CHUNK):  # sizes that an archive declares are not believed
                        written += len(chunk)
                        if written > limit:
                            raise _refused(archive, f"{whole} bytes unpack to more than {limit}")
                        if written > room:
                            raise HarnessError(f"{archive}: the disk is too small to unpack it. Free some space.")
                        file.write(chunk)
                progress("unpack", count, 0)
        except (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
            raise HarnessError(f"{archive} cannot be unpacked ({error}). Delete it and fetch it again.") from error
        except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
            raise _refused(archive, "two of its files have one name") from error
    return count


def _members(archive: Path) -> Iterator[tuple[str, IO[bytes] | None]]:
    """Name and content of each member, None for a folder."""
    if archive.name.lower().endswith(".zip"):
        with zipfile.ZipFile(archive) as opened:
            for info in opened.infolist():
                mode = info.external_attr >> 16
                if stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
                    raise _refused(archive, f"{info.filename!r} is a link or a device")
                yield info.filename, None if info.is_dir() else opened.open(info)
        return
    with tarfile.open(archive) as tar:
        for member in tar:
            if not (member.isreg() or member.isdir()):
                raise _refused(archive, f"{member.name!r} is a link or a device")
            yield member.name, None if member.isdir() else tar.extractfile(member)


def _inside(archive: Path, name: str) -> str:
    """A member's path from the folder; refused where it would leave it, on whatever system."""
    plain = name.replace("\\", "/")
    normal = posixpath.normpath(plain)
    parts = normal.split("/")
    if plain.startswith("/") or ".." in parts or ":" in parts[0] or "\0" in plain:
        raise _refused(archive, f"{name!r} would land outside the folder")
    return normal


def _refused(archive: Path, why: str) -> HarnessError:
    return HarnessError(f"{archive} was not unpacked: {why}. Look into it before you unpack it by hand.")


@contextmanager
def _new_folder(folder: Path) -> Iterator[Path]:
    temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        yield temporary
        os.chmod(temporary, 0o755)
        os.rename(temporary, folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
