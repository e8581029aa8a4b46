"""The files of a bundle: bundle.json, checks of foreign files, writing.

bundle.json and the files that it names, read as a stranger's: bounded, plain, inside the folder, with their hashes.

The hashes find what was damaged or swapped. They protect from nobody who writes a bundle: he writes the hashes as well.
So every file is also held to what it may be before anything reads it (store/arrays.py, boosting.py, bundle.py).

Held against a bundle before it is built: does a checkpoint hold the network that it names, of this bundle's task?

A name is cheap and a network is not: what would need more memory than the checkpoint itself is long is refused before
anything is allocated.

Write an ensemble as a bundle: one directory that predicts by itself. bundle.py says what is in it, and reads it.
"""

import hashlib
import math
import platform
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import version
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pydantic
import safetensors
from pydantic import Field

from harness.config.data import Decode
from harness.config.spec import Model as ModelSpec
from harness.ensemble.inputs import Gathered
from harness.ensemble.oof import Model
from harness.ensemble.scores import EnsembleResult, Predictions, as_json, result_json
from harness.errors import HarnessError, RequestError
from harness.hardware import commit
from harness.models.backbones import resolve
from harness.models.catalog import known_rows
from harness.models.network import outline
from harness.numbering import as_text
from harness.store import files as store_files
from harness.store.files import link_or_copy, write_bytes, write_json
from harness.store.predictions import to_column
from harness.train.checkpoint import FoldMeta, read_meta

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


SLACK = 1.25
"""how many more numbers than a checkpoint the table may give a backbone: it counts three channels and the native
size, and the checkpoint may have one channel and fewer positions"""
SMALL = 5_000_000
"""numbers that no machine minds, in which a stem or positions may differ"""


def check_network(path: Path, encoder_id: str, model: dict[str, Any], decode: Decode, about: About) -> None:
    """Reads the header alone. Raises RequestError when it says something else than bundle.json, or holds too little."""
    try:
        meta = read_meta(path)
        own = ModelSpec.model_validate({**meta.model, "weights": "none"})
        needed = _numbers(own, len(meta.classes))
        held = _held(path)
        same = {
            "classes": (list(meta.classes), about.classes),
            "multilabel": (meta.multilabel, about.multilabel),
            "encoder_id": (meta.encoder_id, encoder_id),
            "model": (meta.model, model),
            "decode": (Decode.model_validate(meta.decode), decode),
        }
        for name, (there, here) in same.items():
            if there != here:
                raise RequestError(
                    f"{path} says {name} {str(there)[:80]!r}, and bundle.json {str(here)[:80]!r}: refused."
                )
        _check_scale(meta, decode.channels)
    except RequestError:
        raise
    except (HarnessError, pydantic.ValidationError, OSError, ValueError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise RequestError(f"{path} is no checkpoint of this bundle ({reason}). Build the ensemble again.") from error
    if needed > SLACK * held + SMALL:
        raise RequestError(
            f"{path} holds {held:,} numbers, and the {own.backbone} with which it wants to be read has about "
            f"{needed:,}: refused."
        )


def _check_scale(meta: FoldMeta, channels: int) -> None:
    for name, values in (("mean", meta.mean), ("std", meta.std)):
        fine = len(values) == channels and all(isinstance(one, float | int) and math.isfinite(one) for one in values)
        if not fine or (name == "std" and min(values) <= 0):
            raise ValueError(f"its {name} is no number for each of {channels} channels")


def _held(path: Path) -> int:
    """Numbers in a checkpoint."""
    try:
        with safetensors.safe_open(str(path), framework="pt") as file:
            return sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118
    except safetensors.SafetensorError as error:
        raise ValueError(error) from error


def _numbers(model: ModelSpec, classes: int) -> int:
    """About as many as the network of a spec has; nothing is built but where the table does not know a backbone."""
    parameters, embedding = _backbone(resolve(model.backbone).name)
    head = embedding * classes if model.head == "linear" else model.hidden * (embedding + classes)
    return parameters + head


@cache
def _backbone(name: str) -> tuple[int, int]:
    known = {row.name: (row.parameters, row.embedding) for row in known_rows()}
    if name in known:
        return known[name]
    network = outline(name, 2, 3, 224)
    return sum(parameter.numel() for parameter in network.parameters()), network.embedding_size


PACKAGES = ("harness", "torch", "timm", "torchvision", "numpy", "scikit-learn", "xgboost")
"""whose versions a bundle names"""


@dataclass(frozen=True)
class Part:
    """A section of bundle.json, and the files that go with it."""

    about: dict[str, Any]
    """plain JSON"""
    files: dict[str, bytes] = field(default_factory=dict)
    """by name, in a folder named after the part"""


@dataclass(frozen=True)
class Network:
    """One checkpoint that a bundle keeps."""

    weights: Path
    meta: FoldMeta


@dataclass(frozen=True)
class NetworkSet:
    """The checkpoints of one member of the bundle."""

    name: str
    """such as trial-0007: the folder under members/"""
    study: str
    trial: int | None
    """None where the checkpoint was made from several trials"""
    params: dict[str, Any]
    networks: tuple[Network, ...]


def own_networks(found: Gathered) -> list[NetworkSet]:
    """The members' own checkpoints."""
    return [
        NetworkSet(
            name,
            member.study,
            member.number,
            member.trial.params,
            tuple(Network(member.weights(meta.fold), meta) for meta in metas),
        )
        for name, member, metas in zip(found.names, found.members, found.metas, strict=True)
    ]


def write_bundle(
    folder: Path,
    found: Gathered,
    result: EnsembleResult,
    model: Model,
    predictions: Predictions,
    members: list[NetworkSet],
    parts: Mapping[str, Part],
    seed: int,
) -> None:
    """Fill the empty `folder`; bundle.json comes last."""
    model_files = model.files()
    for name, content in model_files.items():
        write_bytes(folder / name, content)
    decodes: list[dict[str, Any]] = []
    entries = [_member(folder, member, decodes) for member in members]
    _write_predictions(folder / "predictions.parquet", found, predictions)
    others = ["predictions.parquet"]
    for part, content_of in parts.items():
        for name, content in content_of.files.items():
            write_bytes(folder / part / name, content)
            others.append(f"{part}/{name}")
    first = found.studies[0]
    about = {
        "format": FORMAT,
        "study": result.study,
        "studies": [study.name for study in found.studies],
        "method": result.method,
        "metric": result.metric,
        "trials": result.members,
        "top": found.top,
        "seed": seed,
        "classes": list(found.data.dataset.classes),
        "multilabel": found.data.dataset.multilabel,
        "decodes": decodes,
        "members": entries,
        "model": {name: sha256(folder / name) for name in model_files},
        "files": {name: sha256(folder / name) for name in others},
        **result_json(result),
        "spec_hash": first.spec_hash,
        "data_hash": first.data_hash,
        "folds_hash": first.folds_hash,
        "commit": commit(),
        "versions": {"python": platform.python_version()} | {name: version(name) for name in PACKAGES},
        **{part: content_of.about for part, content_of in parts.items()},
    }
    write_json(folder / "bundle.json", as_json(about))


def _member(folder: Path, member: NetworkSet, decodes: list[dict[str, Any]]) -> dict[str, Any]:
    """What bundle.json says of a member; its decoding is added to `decodes` where that is new."""
    decode = member.networks[0].meta.decode
    if decode not in decodes:
        decodes.append(decode)
    folds = []
    for number, network in enumerate(member.networks):
        name = f"members/{member.name}/fold_{number}/weights.safetensors"
        link_or_copy(network.weights, folder / name)
        folds.append({"weights": name, "sha256": sha256(folder / name), "encoder_id": network.meta.encoder_id})
    return {
        "name": member.name,
        "study": member.study,
        "trial": member.trial,
        "params": member.params,
        "model": member.networks[0].meta.model,
        "decode": decodes.index(decode),
        "folds": folds,
    }


def _write_predictions(path: Path, found: Gathered, predictions: Predictions) -> None:
    """A bundle travels, so it names no file and nobody: rows by their number in the study's manifest, groups by theirs.
    The home of the study alone can say who they are (data/people.py)."""
    data = found.data
    development, test = data.folds.development_rows(), data.folds.test_rows()
    rows = np.concatenate([development, test])
    table = pa.table(
        {
            "id": pa.array(as_text(rows, "r").tolist(), pa.string()),
            "group": pa.array(data.dataset.groups[rows].tolist(), pa.string()),
            "y": to_column(data.dataset.y[rows]),
            "split": pa.array(["oof"] * len(development) + ["test"] * len(test), pa.string()),
            "probabilities": to_column(np.concatenate([predictions.oof, predictions.test])),
        }
    )
    pq.write_table(table, path)
