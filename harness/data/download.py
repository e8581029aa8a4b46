"""Public data sets by address with their checksum, and archives unpacked safely.

Public data sets by name or address: fetched with resume and checksum, archives unpacked.

A download goes to a hidden .part file beside its place, with what the server called that version (ETag or date): cut
off, it goes on where it stopped if the server still has that version, and from the start otherwise. `requests` does
the HTTP. Knows no study.

Archives from strangers, unpacked so that nothing lands outside the folder and nothing fills the disk.

Only plain files and folders are taken: a link, a device, an absolute path or one that climbs out refuses the whole
archive, before anything of it is seen under the target's name. Knows zip and tar, no network.
"""

import hashlib
import os
import posixpath
import re
import shutil
import stat
import tarfile
import tempfile
import time
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from harness.errors import HarnessError, RequestError, nearest
from harness.store.files import read_json, write_json
from harness.store.home import Home, lock
from harness.types import Progress

if TYPE_CHECKING:
    import requests

MEDMNIST_FILES = "https://zenodo.org/record/6496656/files/{name}.npz?download=1"
MEDMNIST = {
    "pathmnist": "a8b06965200029087d5bd730944a56c1",
    "chestmnist": "02c8a6516a18b556561a56cbdd36c4a8",
    "dermamnist": "0744692d530f8e62ec473284d019b0c7",
    "octmnist": "c68d92d5b585d8d81f7112f81e2d0842",
    "pneumoniamnist": "28209eda62fecd6e6a2d98b1501bb15f",
    "retinamnist": "bd4c0672f1bba3e3a89f0e4e876791e4",
    "breastmnist": "750601b1f35ba3300ea97c75c52ff8f6",
    "bloodmnist": "7053d0359d879ad8a5505303e11de1dc",
    "tissuemnist": "ebe78ee8b05294063de985d821c1c34b",
    "organamnist": "866b832ed4eeba67bfb9edee1d5544e6",
    "organcmnist": "0afa5834fb105f7705a7d93372119a21",
    "organsmnist": "e5c39f1af030238290b9557d9503af9d",
}
"""MD5 of each 28 x 28 file, as the MedMNIST project publishes it (medmnist/info.py, version 2)"""
ALGORITHMS = {"md5": 32, "sha1": 40, "sha256": 64, "sha512": 128}
"""hex digits of each checksum"""
TRIES = 5
"""attempts in a row that bring nothing new"""
TIMEOUT = (10.0, 60.0)
"""seconds to connect, and between two pieces"""
DOWNLOAD_CHUNK = 2**18
DOWNLOAD_SPARE_BYTES = 64 * 2**20


@dataclass(frozen=True)
class Source:
    name: str
    """of the file"""
    url: str
    checksum: str
    """'md5:...', or '' where none is known"""

    @property
    def shown(self) -> str:
        """The address without credentials and tokens, for messages."""
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.hostname or ''}{f':{parts.port}' if parts.port else ''}{parts.path}"


@dataclass(frozen=True)
class Fetched:
    path: Path
    """the file, or the folder that the archive was unpacked into"""
    new: bool
    """False: it was there already"""
    bytes: int
    """that were downloaded now"""
    sha256: str
    """of the file as downloaded; '' where it was there already"""


def find_source(what: str, checksum: str = "") -> Source:
    """A data set's name, or an http(s) address. Raises RequestError that says what is known."""
    if checksum:
        algorithm, _, digits = checksum.partition(":")
        if not re.fullmatch(f"[0-9a-fA-F]{{{ALGORITHMS.get(algorithm, 0)}}}", digits) or algorithm not in ALGORITHMS:
            raise RequestError(f"--checksum {checksum}: write {' or '.join(f'{name}:HEX' for name in ALGORITHMS)}.")
    if what in MEDMNIST:
        return Source(f"{what}.npz", MEDMNIST_FILES.format(name=what), checksum.lower() or f"md5:{MEDMNIST[what]}")
    try:
        parts = urlsplit(what)
        named = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is no number, half an IPv6 address
        named = False
    if not named:
        raise RequestError(
            f"{what}: neither a known data set nor an address that begins with https://.{nearest(what, MEDMNIST)} "
            f"Known: {', '.join(MEDMNIST)}."
        )
    name = re.split(r"[/\\]", unquote(parts.path))[-1]
    name = "".join(char for char in name if char.isprintable() and char not in '<>:"|?*').strip(". ")
    if not name:
        raise RequestError(f"{what}: the address names no file. Give the address of the file itself.")
    return Source(name, what, checksum.lower())


def fetch(source: Source, to: Path, home: Home, progress: Progress, wait: float = 1.0) -> Fetched:
    """Bring a source into the folder `to`; what is there already is left alone. Archives are unpacked beside it.

    wait: seconds before the second attempt, doubled for each further one. Raises RequestError where the server has no
    such file, HarnessError where it cannot be reached, its file does not have the checksum, or the archive is unsafe.
    """
    path = to / source.name
    stem = archive_stem(source.name)
    place = path if stem is None else to / stem
    busy = hashlib.blake2b(str(path.absolute()).encode(), digest_size=8).hexdigest()
    with lock(home.work_root / "fetch" / f"{busy}.lock", f"the download of {path}", wait_seconds=1):
        if stem is not None and place.exists():
            return Fetched(place, False, 0, "")
        if path.exists():
            if _checksum(path, source.checksum) != source.checksum:
                raise RequestError(f"{path} is there, but is not the published file. Move it away and fetch again.")
            got, sha256 = 0, ""
        else:
            to.mkdir(parents=True, exist_ok=True)
            got, sha256 = _download(source, path, progress, wait)
        if stem is not None:
            unpack(path, place, progress)
            path.unlink()
    return Fetched(place, bool(got) or stem is not None, got, sha256)


def _download(source: Source, path: Path, progress: Progress, wait: float) -> tuple[int, str]:
    """(bytes that came now, SHA-256 of the whole)."""
    import requests
    import urllib3

    part = path.with_name(f".{path.name}.part")
    about = path.with_name(f".{path.name}.part.json")
    before = part.stat().st_size if part.exists() else 0
    came, tries = 0, 0
    with requests.Session() as session:
        while True:
            had = part.stat().st_size if part.exists() else 0
            try:
                came += _attempt(session, source, part, about, progress)
                break
            except (requests.exceptions.InvalidURL, requests.TooManyRedirects) as error:
                raise RequestError(f"{source.shown}: this address leads nowhere ({type(error).__name__}).") from error
            except (requests.RequestException, urllib3.exceptions.HTTPError, _Again) as error:
                now = part.stat().st_size if part.exists() else 0
                came += max(0, now - had)
                tries = 0 if now > had else tries + 1
                if tries >= TRIES or (tries >= 2 and _no_connection(error)):
                    raise HarnessError(_cut_off(source, path, now, error)) from error
                time.sleep(wait * 2 ** max(0, tries - 1))
    found = _checksum(part, source.checksum)
    if found != source.checksum:
        part.unlink()
        about.unlink(missing_ok=True)
        old = " It was begun by an earlier command; another try begins anew." if before else ""
        raise HarnessError(
            f"{source.shown}: the file has the checksum {found}, not {source.checksum}: it is damaged or was replaced, "
            f"and was thrown away.{old}"
        )
    sha256 = _checksum(part, "sha256:")
    part.replace(path)
    about.unlink(missing_ok=True)
    return came, sha256.removeprefix("sha256:")


class _Again(Exception):
    """The server's answer is worth another try."""


def _attempt(session: "requests.Session", source: Source, part: Path, about: Path, progress: Progress) -> int:
    """One request to the end of the file; bytes that came. Raises what is worth another try as it comes."""
    url_hash = hashlib.blake2b(source.url.encode(), digest_size=8).hexdigest()
    have, version = _begun(part, about, url_hash)
    headers = {"Accept-Encoding": "identity", "User-Agent": "harness"}  # a compressed answer has other offsets
    if have:
        headers |= {"Range": f"bytes={have}-", "If-Range": version}
    with session.get(source.url, headers=headers, stream=True, timeout=TIMEOUT) as answer:
        if answer.status_code == 416 and have:  # nothing is left, or the file has shrunk
            if answer.headers.get("Content-Range", "").strip() == f"bytes */{have}":
                return 0
            part.unlink()
            raise _Again("the server's file has changed")
        if answer.status_code in (408, 425, 429) or answer.status_code >= 500:
            raise _Again(f"the server answers {answer.status_code} {answer.reason}")
        if answer.status_code not in (200, 206):
            raise RequestError(
                f"{source.shown}: the server answers {answer.status_code} {answer.reason}. Check the address."
            )
        goes_on = answer.status_code == 206 and answer.headers.get("Content-Range", "").startswith(f"bytes {have}-")
        if answer.status_code == 206 and not goes_on:
            part.unlink(missing_ok=True)
            raise _Again("the server sent another part than was asked for")
        have = have if goes_on else 0
        length = int(answer.headers.get("Content-Length") or 0)
        _require_space(part.parent, length)
        if not goes_on:
            part.unlink(missing_ok=True)
            # a weak ETag names no bytes; without any name for the version nothing can be resumed
            etag = answer.headers.get("ETag", "")
            version = etag if etag and not etag.startswith("W/") else answer.headers.get("Last-Modified", "")
            write_json(about, {"url": url_hash, "version": version})
        came = 0
        with open(part, "ab") as file:
            while chunk := answer.raw.read1(DOWNLOAD_CHUNK):  # iter_content would lose what came before a cut
                file.write(chunk)
                came += len(chunk)
                progress("fetch (kB)", (have + came) // 1000, (have + length) // 1000)
        if length and came != length:  # proxies may end an answer early and politely
            raise _Again("the connection was cut")
        return came


def _begun(part: Path, about: Path, url_hash: str) -> tuple[int, str]:
    """(bytes kept, their version) of a download that can go on; (0, '') where there is none."""
    if not part.exists() or not about.exists():
        return 0, ""
    known = read_json(about)
    version = str(known.get("version") or "")
    if known.get("url") != url_hash or not version:
        return 0, ""
    return part.stat().st_size, version


def _checksum(path: Path, like: str) -> str:
    """'md5:...' of a file, by the algorithm of `like`; '' for ''."""
    if not like:
        return ""
    algorithm = like.split(":")[0]
    with open(path, "rb") as file:
        return f"{algorithm}:{hashlib.file_digest(file, algorithm).hexdigest()}"


def _no_connection(error: Exception) -> bool:
    import requests

    return isinstance(error, requests.ConnectionError | requests.ConnectTimeout)


def _cut_off(source: Source, path: Path, kept: int, error: Exception) -> str:
    """One line: what failed and what to type. The libraries' own words would quote the whole address."""
    import requests

    host = urlsplit(source.url).hostname
    if isinstance(error, requests.exceptions.SSLError):
        why = f"the certificate of {host} is not accepted"
    elif _no_connection(error):
        why = f"{host} cannot be reached"
    else:
        why = f"{host}: {error if isinstance(error, _Again) else 'the connection was cut'}"
    so_far = f" {kept} bytes are kept." if kept else ""
    return (
        f"{why}.{so_far} Type the same command again when the connection works, or download {source.shown} elsewhere "
        f"and put it at {path}"
    )


def _require_space(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed + DOWNLOAD_SPARE_BYTES:
        raise RequestError(
            f"the download needs {needed} bytes under {folder}, and {free} are free. Free some space, or --to FOLDER."
        )


SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
UNPACK_SPARE_BYTES = 64 * 2**20
"""left free on the disk"""
MOST_FILES = 2_000_000
FREE_BYTES, MOST_TIMES = 100 * 2**20, 100
"""a bomb: more than so many bytes, and more than so many times the archive; images shrink by far less"""
UNPACK_CHUNK = 2**20


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
    room = shutil.disk_usage(archive.parent).free - UNPACK_SPARE_BYTES
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
                    while chunk := source.read(UNPACK_CHUNK):  # sizes that an archive declares are not believed
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
