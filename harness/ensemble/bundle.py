"""A bundle: an ensemble as one directory that predicts by itself, safe to take from a stranger.

    bundle.json              what it is: study, method, classes, decodings, members, scores, code; SHA-256 of every
                             other file; a section for each part (calibration, decisions, reference)
    members/trial-0007/fold_0/weights.safetensors, ...   hard links to the trials' checkpoints: one copy on disk
    stacking.npz, bagging.npz, boosting.npz, booster_*.ubj   the fitted method: arrays without pickle, XGBoost's UBJSON
    PART/...                 files of such a part
    predictions.parquet      id and group (numbers, no names), y, split (oof, test), probabilities
    DONE

Nothing in it is executable. Loading checks every hash, follows no path out of the directory, and holds every file to
what it may be (about.py) before anything reads it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.config.data import Decode
from harness.ensemble.about import checked, read_about, read_plain
from harness.ensemble.embed import Load, run_encoder
from harness.ensemble.labels import LabelModels, by_fold_index
from harness.ensemble.methods import reader
from harness.ensemble.names import KNOWN
from harness.ensemble.networks import check_network
from harness.ensemble.oof import Embed, Model, check_probabilities
from harness.ensemble.trees import check_trees
from harness.errors import HarnessError, RequestError
from harness.images.pixels import Pixels, Ragged
from harness.train.checkpoint import load_fold
from harness.types import Progress, silent


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
    load: Load = load_fold
    """gives the network of a checkpoint; a server keeps them"""

    def read(self, name: str) -> bytes:
        """A file that bundle.json lists under `files`, checked again. Raises RequestError where it is not listed."""
        if name not in self.about["files"]:
            raise RequestError(f"{self.path}/bundle.json lists no file {name!r}. Build the ensemble again.")
        return read_plain(self.path, name, self.about["files"][name])


@dataclass(frozen=True)
class BundleOutputs:
    """What a bundle says of n images."""

    probabilities: NDArray[np.float64]
    """(n, C) by the fitted method, not calibrated"""
    logits: NDArray[np.float32]
    """(M, K, n, C) by every network"""
    each: NDArray[np.float64]
    """(K, n, C) as `probabilities`, by the networks of each fold index: what calibration.answer takes"""
    embeddings: dict[tuple[int, int], NDArray[np.float32]]
    """(n, D) by encoder (m, k); empty where they were not asked for and the method needs none"""


def load_bundle(path: Path) -> Bundle:
    """Raises RequestError, naming the file, when the directory is no whole bundle, was changed after it was written,
    names files outside itself, or holds what would harm: see about.py, arrays.py and trees.py for what is refused.

    Files that bundle.json does not name are not opened.
    """
    about, found = read_about(path)
    root = path.resolve()
    method = reader(found.method)
    if method is None:
        raise RequestError(f"{path} uses the method {found.method!r}; known are {', '.join(KNOWN)}.")
    if len({len(member.folds) for member in found.members}) != 1:
        raise RequestError(f"{path}/bundle.json lists members of different numbers of folds.")
    weights = tuple(
        tuple(checked(root, fold.weights, fold.sha256) for fold in member.folds) for member in found.members
    )
    for member, places in zip(found.members, weights, strict=True):
        for fold, place in zip(member.folds, places, strict=True):
            check_network(place, fold.encoder_id, member.model, found.decodes[member.decode], found)
    files = {name: read_plain(root, name, digest) for name, digest in found.model.items()}
    for name, data in files.items():
        if name.endswith(".ubj"):
            check_trees(data, f"{path}/{name}")
        elif not name.endswith(".npz"):
            raise RequestError(f"{path}/{name} is no file of a fitted method: those are .npz and .ubj. Refused.")
    for name, digest in found.files.items():
        read_plain(root, name, digest)
    try:
        model = method.load(files, len(found.classes), found.multilabel)
        _check_encoders(model, path, len(weights), len(weights[0]), len(found.classes))
    except RequestError:
        raise
    except (HarnessError, KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise RequestError(
            f"{path}: its fitted method cannot be read ({error!r}). Build the ensemble again."
        ) from error
    return Bundle(
        path=root,
        study=found.study,
        method=found.method,
        classes=tuple(found.classes),
        multilabel=found.multilabel,
        decodes=tuple(found.decodes),
        metric=found.metric,
        members=tuple(member.name for member in found.members),
        decode_of=tuple(member.decode for member in found.members),
        weights=weights,
        model=model,
        about=about,
    )


def _check_encoders(model: Model, path: Path, members: int, folds: int, classes: int) -> None:
    """A model per encoder must be one of the encoders that the bundle has, and answer with the bundle's classes."""
    labels = isinstance(model, LabelModels)
    for one in model.models if isinstance(model, LabelModels) else (model,):
        fits = [getattr(one, "trees", None)]
        for part in ("heads", "boosters"):
            per_encoder = getattr(one, part, None)
            if per_encoder is None:
                continue
            if not per_encoder or any(not (0 <= m < members and 0 <= k < folds) for m, k in per_encoder):
                raise RequestError(f"{path}: its {part} do not fit its {members} members of {folds} folds.")
            fits += per_encoder.values()
        for fit in fits:
            own, present = getattr(fit, "classes", None), np.asarray(getattr(fit, "present", 0))
            wanted = 2 if labels else classes
            if own not in (None, wanted) or present.size == 0 or not ((present >= 0) & (present < wanted)).all():
                raise RequestError(f"{path}: its fitted method answers with other classes than its {classes}.")


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
        nothing = np.empty((folds, 0, len(bundle.classes)))
        return BundleOutputs(nothing[0], logits, nothing, kept)
    for m in range(members):
        decode = bundle.decodes[bundle.decode_of[m]]
        for k in range(folds):
            (out,), meta = run_encoder(
                bundle.weights[m][k], images[bundle.decode_of[m]], [slice(None)], device, bundle.load
            )
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
        each = by_fold_index(bundle.model, logits, lookup)
    except (KeyError, ValueError, IndexError) as error:
        raise HarnessError(f"{bundle.path}: its fitted method does not fit its networks ({error}).") from error
    p = np.asarray(each.mean(axis=0))
    return BundleOutputs(check_probabilities(p, f"{bundle.path}, new images", bundle.multilabel), logits, each, kept)
