"""A bundle: an ensemble as one directory that predicts by itself, safe to take from a stranger.

    bundle.json              what it is: study, method, classes, decodings, members, scores, code; SHA-256 of every
                             other file; a section for each part (calibration, decisions, reference)
    members/trial-0007/fold_0/weights.safetensors, ...   hard links to the trials' checkpoints: one copy on disk
    stacking.npz, bagging.npz, boosting.npz, booster_*.ubj   the fitted method: arrays without pickle, XGBoost's UBJSON
    PART/...                 files of such a part
    predictions.parquet      id, group (salted hash), y, split (oof, test), probabilities
    DONE

Nothing in it is executable. Loading checks every hash and follows no path out of the directory.
"""

import hashlib
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pydantic
from numpy.typing import NDArray

from harness.ensemble.embed import run_encoder
from harness.ensemble.labels import LabelModels
from harness.ensemble.methods import KNOWN, reader
from harness.ensemble.oof import Embed, Model, check_probabilities, silent
from harness.errors import HarnessError, RequestError
from harness.home import is_done, read_json
from harness.ragged import Pixels, Ragged
from harness.records import Progress
from harness.study.dataset import Decode

FORMAT = 3


@dataclass(frozen=True)
class Bundle:
    path: Path
    study: str
    method: str
    classes: tuple[str, ...]
    multilabel: bool
    """each class a question of its own: the probabilities of a row need not add up to 1"""
    decodes: tuple[Decode, ...]
    """the ways in which images are decoded for its members; one for most bundles"""
    metric: str
    members: tuple[str, ...]
    """M names, such as trial-0007"""
    decode_of: tuple[int, ...]
    """(M,) which of `decodes` a member takes"""
    weights: tuple[tuple[Path, ...], ...]
    """M x K checkpoints"""
    model: Model
    about: dict[str, Any]
    """bundle.json, whole"""

    def read(self, name: str) -> bytes:
        """A file that bundle.json lists under `files`, checked again. Raises RequestError where it is not listed."""
        if name not in self.about["files"]:
            raise RequestError(f"{self.path}/bundle.json lists no file {name!r}. Build the ensemble again.")
        return _checked(self.path, name, self.about["files"][name]).read_bytes()


@dataclass(frozen=True)
class BundleOutputs:
    """What a bundle says of n images."""

    probabilities: NDArray[np.float64]
    """(n, C) by the fitted method, not calibrated"""
    logits: NDArray[np.float32]
    """(M, K, n, C) by every network"""
    embeddings: dict[tuple[int, int], NDArray[np.float32]]
    """(n, D) by encoder (m, k); empty where they were not asked for and the method needs none"""


def link_or_copy(source: Path, target: Path) -> None:
    """A hard link, or a copy where the file system has no links between the two places."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def load_bundle(path: Path) -> Bundle:
    """Raises RequestError, naming the file, when the directory is no whole bundle, was changed after it was written,
    or names files outside itself."""
    root = path.resolve()
    if not is_done(root) or not (root / "bundle.json").is_file():
        raise RequestError(
            f"{path} is no finished bundle (bundle.json or DONE is missing). "
            "Type: harness ensemble list, or build one: harness ensemble build --method stacking"
        )
    try:
        about = read_json(root / "bundle.json")
        if about["format"] != FORMAT:
            raise RequestError(
                f"{path} has bundle format {about['format']!r}; this program reads {FORMAT}. Build the ensemble again."
            )
        method = reader(about["method"])
        if method is None:
            raise RequestError(f"{path} uses the method {about['method']!r}; known are {', '.join(KNOWN)}.")
        folds = [[(fold["weights"], fold["sha256"]) for fold in member["folds"]] for member in about["members"]]
        if not folds or not all(folds) or len({len(row) for row in folds}) != 1:
            raise RequestError(f"{path}/bundle.json lists no members, or members of different numbers of folds.")
        weights = tuple(tuple(_checked(root, name, digest) for name, digest in row) for row in folds)
        files = {str(name): _checked(root, str(name), digest).read_bytes() for name, digest in about["model"].items()}
        for name, digest in about["files"].items():
            _checked(root, name, digest)
        classes = tuple(str(name) for name in about["classes"])
        multilabel = bool(about["multilabel"])
        model = method.load(files, len(classes), multilabel)
        _check_encoders(model, path, len(folds), len(folds[0]))
        decodes = tuple(Decode.model_validate(decode) for decode in about["decodes"])
        decode_of = tuple(int(member["decode"]) for member in about["members"])
        if not all(0 <= number < len(decodes) for number in decode_of):
            raise RequestError(f"{path}/bundle.json: a member takes a decoding that the bundle does not list.")
        return Bundle(
            path=root,
            study=str(about["study"]),
            method=str(about["method"]),
            classes=classes,
            multilabel=multilabel,
            decodes=decodes,
            metric=str(about["metric"]),
            members=tuple(str(member["name"]) for member in about["members"]),
            decode_of=decode_of,
            weights=weights,
            model=model,
            about=about,
        )
    except RequestError:
        raise
    except (HarnessError, KeyError, TypeError, ValueError, AttributeError, OSError, pydantic.ValidationError) as error:
        raise RequestError(f"{path} is no bundle of this program ({error!r}). Build the ensemble again.") from error


def _checked(root: Path, name: object, digest: object) -> Path:
    """The file `name` of the bundle, when it lies inside and has its hash."""
    text = str(name)
    pure = PurePosixPath(text)
    plain = isinstance(name, str) and text and "\\" not in text and ":" not in text and "\0" not in text
    if not plain or pure.is_absolute() or ".." in pure.parts or not (root / pure).resolve().is_relative_to(root):
        raise RequestError(f"{root}/bundle.json names {text!r}, which is outside the bundle: refused.")
    path = root / pure
    if not path.is_file():
        raise RequestError(f"{path} is missing: the bundle is not whole. Build the ensemble again.")
    if sha256(path) != digest:
        raise RequestError(
            f"{path} is not the file that the bundle was written with (SHA-256 differs): refused. "
            "Build the ensemble again."
        )
    return path


def _check_encoders(model: Model, path: Path, members: int, folds: int) -> None:
    """A model per encoder must be one of the encoders that the bundle has."""
    for one in model.models if isinstance(model, LabelModels) else (model,):
        for part in ("heads", "boosters"):
            per_encoder = getattr(one, part, None)
            if per_encoder is None:
                continue
            if not per_encoder or any(m >= members or k >= folds for m, k in per_encoder):
                raise RequestError(f"{path}: its {part} do not fit its {members} members of {folds} folds.")


def _check_pixels(bundle: Bundle, decode: Decode, pixels: Pixels) -> None:
    size, channels = decode.size, decode.channels
    if isinstance(pixels, Ragged):
        fits, given = size == "native" and pixels.channels == channels, f"images of {pixels.channels} channels"
    else:
        fits = pixels.dtype == np.uint8 and pixels.shape[1:] == (size, size, channels)
        given = f"{pixels.dtype} {pixels.shape}"
    if not fits:
        wanted = "their own sizes" if size == "native" else f"{size} x {size}"
        raise RequestError(f"{bundle.path} takes uint8 images of {wanted} x {channels}, not {given}.")


def predict_bundle(
    bundle: Bundle, images: Sequence[Pixels], device: str = "cpu", progress: Progress | None = None
) -> NDArray[np.float64]:
    """(n, C) probabilities of n images, not calibrated: the same numbers as the build gave for the same images, to
    1e-5. See outputs_of_bundle."""
    return outputs_of_bundle(bundle, images, device, progress).probabilities


def outputs_of_bundle(
    bundle: Bundle,
    images: Sequence[Pixels],
    device: str = "cpu",
    progress: Progress | None = None,
    embeddings: bool = False,
) -> BundleOutputs:
    """What a bundle and its networks say of n images, in one pass; with `embeddings` those too.

    `images` are the same n images once for each of bundle.decodes: (n, S, S, channels), or of their own sizes. Raises
    RequestError when the pixels have another shape than the bundle was built for, or a checkpoint is another one's.
    """
    if len(images) != len(bundle.decodes) or len({len(pixels) for pixels in images}) != 1:
        raise RequestError(f"{bundle.path} takes the same images in {len(bundle.decodes)} decodings.")
    for decode, pixels in zip(bundle.decodes, images, strict=True):
        _check_pixels(bundle, decode, pixels)
    report = progress or silent
    method = reader(bundle.method)
    keep = embeddings or (method is not None and method.needs_embeddings)
    members, folds, n = len(bundle.weights), len(bundle.weights[0]), len(images[0])
    logits = np.empty((members, folds, n, len(bundle.classes)), dtype=np.float32)
    kept: dict[tuple[int, int], NDArray[np.float32]] = {}
    if not n:
        return BundleOutputs(np.empty((0, len(bundle.classes))), logits, kept)
    for m in range(members):
        decode = bundle.decodes[bundle.decode_of[m]]
        for k in range(folds):
            (out,), meta = run_encoder(bundle.weights[m][k], images[bundle.decode_of[m]], [slice(None)], device)
            same_task = (meta.classes, meta.multilabel) == (bundle.classes, bundle.multilabel)
            if not same_task or Decode.model_validate(meta.decode) != decode:
                raise RequestError(f"{bundle.weights[m][k]} was trained for other classes or pixels than its bundle.")
            logits[m, k] = out.logits
            if keep:
                kept[m, k] = out.embeddings
            report("fold models", m * folds + k + 1, members * folds)

    def embed(m: int, k: int) -> NDArray[np.float32]:
        return kept[m, k]

    lookup: Embed | None = embed if keep else None
    try:
        p = bundle.model.predict(logits, lookup)
    except (KeyError, ValueError, IndexError) as error:
        raise HarnessError(f"{bundle.path}: its fitted method does not fit its networks ({error}).") from error
    return BundleOutputs(check_probabilities(p, f"{bundle.path}, new images", bundle.multilabel), logits, kept)
