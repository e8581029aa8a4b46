"""bundle.json and the files that it names, read as a stranger's: bounded, plain, inside the folder, with their hashes.

The hashes find what was damaged or swapped. They protect from nobody who writes a bundle: he writes the hashes as well.
So every file is also held to what it may be before anything reads it (arrays.py, trees.py, bundle.py).
"""

import hashlib
import re
import stat
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

import pydantic
from pydantic import Field

from harness.config.data import Decode
from harness.errors import RequestError
from harness.store import files as store_files

FORMAT = 4
LARGEST_JSON = 32 * 2**20
"""bytes of bundle.json: 50 members of 5 folds with all their scores are 1 MB"""
LARGEST_FILE = 2 * 2**30
"""bytes of a fitted method or of predictions: boosters of 250 encoders are 50 MB, a million predictions 100 MB"""
LARGEST_CHECKPOINT = 16 * 2**30
"""bytes of a network: the largest that timm has are 7 GB in single precision"""
MOST_CLASSES = 65_536
"""three times the labels of ImageNet-21k"""
MOST_MEMBERS, MOST_FOLDS = 10_000, 50
"""trials of a very long study; folds as a study file allows them"""

Name = Annotated[str, Field(min_length=1, max_length=255)]
Place = Annotated[str, Field(max_length=1000)]
"""of a file in the bundle; see _plain"""
Hash = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
PLAIN = re.compile(r"[^\s/\\:]([^/\\:\n]*[^\s/\\:])?")
"""a folder or a file in a bundle: no space at its ends, nothing that some system takes for a path"""


class _Entry(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(strict=True, extra="allow")


class Fold(_Entry):
    weights: Place
    sha256: Hash
    encoder_id: Annotated[str, Field(pattern=r"^[\w-]{1,64}$")]


class Member(_Entry):
    name: Name
    study: Name
    trial: int | None
    params: dict[str, Any]
    model: dict[str, Any]
    decode: Annotated[int, Field(ge=0)]
    folds: Annotated[list[Fold], Field(min_length=1, max_length=MOST_FOLDS)]


class About(_Entry):
    """What bundle.json must say; parts add sections of their own."""

    format: int
    study: Name
    method: Name
    metric: Name
    judged_on: Literal["test", "nested_full", "none"]
    classes: Annotated[list[Name], Field(min_length=2, max_length=MOST_CLASSES)]
    multilabel: bool
    decodes: Annotated[list[Decode], Field(min_length=1, max_length=100)]
    members: Annotated[list[Member], Field(min_length=1, max_length=MOST_MEMBERS)]
    model: dict[Place, Hash]
    files: dict[Place, Hash]
    versions: dict[Name, Name]


def read_about(path: Path) -> tuple[dict[str, Any], About]:
    """bundle.json of the folder `path`, whole and as what it must say. Raises RequestError, naming what is wrong."""
    root = path.resolve()
    if not (root / "DONE").is_file() or not (root / "bundle.json").exists():
        raise RequestError(
            f"{path} is no finished bundle (bundle.json or DONE is missing). "
            "Type: harness ensemble list, or build one: harness ensemble build"
        )
    try:
        about = store_files.read(_read(root, "bundle.json", LARGEST_JSON), LARGEST_JSON)
        if not isinstance(about, dict):
            raise ValueError("it holds no object")
        if about.get("format") != FORMAT:
            raise RequestError(
                f"{path} has bundle format {str(about.get('format'))[:20]!r}; this program reads {FORMAT}. "
                "Build the ensemble again."
            )
        found = About.model_validate({**about, "decodes": _decodes(about.get("decodes"))})
        if any(member.decode >= len(found.decodes) for member in found.members):
            raise ValueError("a member takes a decoding that the bundle does not list")
        if len({member.name for member in found.members}) < len(found.members):
            raise ValueError("two members have one name")
        return about, found
    except pydantic.ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"]))[:120]
        raise RequestError(f"{path}/bundle.json, {place!r}: {first['msg'][:200]}. Build the ensemble again.") from None
    except (ValueError, TypeError) as error:
        raise RequestError(f"{path}/bundle.json cannot be read ({error}). Build the ensemble again.") from None


def _decodes(blocks: Any) -> Any:
    """The windows of a DICOM decoding are tuples, which JSON has not."""
    return [Decode.model_validate(block) for block in blocks] if isinstance(blocks, list) else blocks


def read_plain(root: Path, name: str, digest: str) -> bytes:
    """A file of the bundle, once read and held against its hash: what is used is what was checked."""
    data = _read(root, name, LARGEST_FILE)
    _require(hashlib.sha256(data).hexdigest() == digest, root / name)
    return data


def checked(root: Path, name: str, digest: str) -> Path:
    """The place of a checkpoint, which is too large to be held in memory, when it has its hash."""
    path = _plain(root, name, LARGEST_CHECKPOINT)
    _require(sha256(path) == digest, path)
    return path


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read(root: Path, name: str, largest: int) -> bytes:
    path = _plain(root, name, largest)
    size = path.stat().st_size
    with path.open("rb") as file:
        data = file.read(size + 1)
    if len(data) != size:
        raise RequestError(f"{path} changes while it is read: refused.")
    return data


def _plain(root: Path, name: str, largest: int) -> Path:
    """`root`/`name` when it is a regular file inside, reached by no link, of no more than `largest` bytes."""
    pure = PurePosixPath(name)
    if not pure.parts or str(pure) != name or not all(PLAIN.fullmatch(part) and part != ".." for part in pure.parts):
        raise RequestError(f"{root}/bundle.json names {name[:200]!r}, which is outside the bundle: refused.")
    path = root / pure
    if path.resolve() != path:
        raise RequestError(f"{path} is a link, and may lead outside the bundle: refused.")
    try:
        status = path.stat()
    except OSError as error:
        raise RequestError(f"{path} is missing: the bundle is not whole. Build the ensemble again.") from error
    if not stat.S_ISREG(status.st_mode):
        raise RequestError(f"{path} is no regular file: refused.")
    if status.st_size > largest:
        raise RequestError(
            f"{path} is {status.st_size:,} bytes long, more than the {largest:,} of such a file: refused."
        )
    return path


def _require(same: bool, path: Path) -> None:
    if not same:
        raise RequestError(
            f"{path} is not the file that the bundle was written with (SHA-256 differs): refused. "
            "Build the ensemble again."
        )
