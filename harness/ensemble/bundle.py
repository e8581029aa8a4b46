"""A bundle loaded: its outputs on images, ONNX export, diagram, digests of its images.

A bundle: an ensemble as one directory that predicts by itself, safe to take from a stranger.

    bundle.json              what it is: study, method, classes, decodings, members, scores, code; SHA-256 of every
                             other file; a section for each part (calibration, decisions, reference)
    members/trial-0007/fold_0/weights.safetensors, ...   hard links to the trials' checkpoints: one copy on disk
    stacking.npz, bagging.npz, boosting.npz, booster_*.ubj   the fitted method: arrays without pickle, XGBoost's UBJSON
    PART/...                 files of such a part
    predictions.parquet      id and group (numbers, no names), y, split (oof, test), probabilities
    DONE

Nothing in it is executable. Loading checks every hash, follows no path out of the directory, and holds every file to
what it may be (bundle_files.py) before anything reads it.

Which images a bundle has seen, as salted digests of their pixels: evaluating on them again would be a leak.

A digest tells whoever holds an image whether the bundle was made with it, and nothing to anybody else. It is of the
decoded pixels, so the same picture in another file format has the same one; a picture that was resized or compressed
again has another. Digests are stored in sorted order and say nothing of rows. Knows arrays and bytes only.

How a bundle answers, as a drawing: decoding, members and their fold models, method, calibration, decision.

Drawn from the bundle's own bundle.json; no network is loaded.

One network of a bundle as an ONNX file.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.config.data import Decode
from harness.ensemble.boosting import check_trees
from harness.ensemble.bundle_files import About, Member, check_network, checked, read_about, read_plain
from harness.ensemble.embed import Load, run_encoder
from harness.ensemble.methods import METHODS, LabelModels, by_fold_index, reader
from harness.ensemble.names import FITTED, KNOWN
from harness.ensemble.oof import Embed, Model, check_probabilities
from harness.errors import HarnessError, RequestError, nearest
from harness.images.pixels import Pixels, Ragged
from harness.models.diagram import Arrow, Box, Drawing
from harness.models.onnx import write_onnx
from harness.store.arrays import pack, unpack
from harness.train.batches import STRIDE
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
    names files outside itself, or holds what would harm: see bundle_files.py,
    store/arrays.py and boosting.py for what is refused.

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


SIZE = 8
"""bytes of a digest: two images in a billion share one by chance"""
PARTS = ("development", "test")
FILE = "digests.npz"


def digests(pixels: Pixels, rows: Sequence[int] | NDArray[np.int64], salt: str) -> NDArray[np.uint64]:
    """(n,) of the images `rows`, each (H, W, channels) uint8."""
    key = bytes.fromhex(salt)
    found = np.empty(len(rows), dtype=np.uint64)
    for place, row in enumerate(rows):
        image = np.ascontiguousarray(pixels[int(row)])
        digest = hashlib.blake2b(repr(image.shape).encode(), key=key, digest_size=SIZE)
        digest.update(image.data)
        found[place] = int.from_bytes(digest.digest(), "little")
    return found


def contents_section(
    pixels: Pixels, development: NDArray[np.int64], test: NDArray[np.int64], salt: str
) -> tuple[dict[str, Any], dict[str, bytes]]:
    """(what bundle.json says, files): digests of the development and the test rows, decoded as the bundle's first
    decoding says. salt: hexadecimal, of this data set."""
    parts = zip(PARTS, (development, test), strict=True)
    stored = pack({part: np.sort(digests(pixels, rows, salt)) for part, rows in parts})
    about = {"salt": salt, "decode": 0, "development": len(development), "test": len(test)}
    return about, {FILE: stored}


def seen(about: dict[str, Any], stored: bytes, pixels: Pixels) -> dict[str, NDArray[np.bool_]]:
    """By part, (n,) which images are among the bundle's own. `pixels`: n images in the bundle's first decoding;
    `stored`: the file of `contents_section`. Raises RequestError where the section is none."""
    try:
        mine = digests(pixels, range(len(pixels)), about["salt"])
        known = unpack(stored, FILE)
        return {part: np.isin(mine, known[part].astype(np.uint64)) for part in PARTS}
    except (KeyError, TypeError, ValueError) as error:
        raise RequestError(f"the bundle's contents cannot be read ({error}). Build the ensemble again.") from error


SHOWN = 8
"""members drawn one by one, and classes named"""


def ensemble_diagram(about: Mapping[str, Any], found: About) -> Drawing:
    """`about`, `found`: what about.read_about gives."""
    method = METHODS.get(found.method)
    classes, needs = len(found.classes), method is not None and method.needs_embeddings
    boxes = [Box("image", ("image file", "PNG, JPEG, TIFF, DICOM"), round=True)]
    arrows = []
    for number, decode in enumerate(found.decodes):
        boxes.append(Box(f"decode {number}", ("decode", *_decoding(decode))))
        arrows.append(Arrow("image", f"decode {number}"))
    fitted = FITTED.get(found.method, "")
    for place, member in enumerate(found.members[:SHOWN]):
        boxes.append(Box(f"member {place}", _member(member), ("members",)))
        decode = found.decodes[member.decode]
        arrows.append(Arrow(f"decode {member.decode}", f"member {place}", _shape(decode)))
        logits = f"{len(member.folds)} x {classes} logits"
        arrows.append(Arrow(f"member {place}", "method", f"{logits}, embeddings" if needs else logits))
    more = len(found.members) - SHOWN
    if more > 0:
        boxes.append(
            Box("more", (f"{more} more members", f"{_folds(found.members[SHOWN:])} fold models"), ("members",))
        )
        arrows += [Arrow(f"decode {number}", "more") for number in sorted({m.decode for m in found.members[SHOWN:]})]
        arrows.append(Arrow("more", "method"))
    boxes.append(Box("method", (found.method, fitted) if fitted else (found.method,)))
    last = "method"
    for key, lines in (("calibration", _calibration(about)), ("decisions", _decisions(about))):
        if key in about:
            boxes.append(Box(key, lines))
            arrows.append(Arrow(last, key, f"{classes} probabilities"))
            last = key
    named = ", ".join(found.classes[:SHOWN]) + (f" and {classes - SHOWN} more" if classes > SHOWN else "")
    kind = "a probability for each label" if found.multilabel else "probabilities that sum to 1"
    boxes.append(Box("answer", ("answer", kind, named), round=True))
    arrows.append(Arrow(last, "answer", f"{classes} probabilities" if last != "decisions" else "and a decision"))
    if "reference" in about:
        boxes.append(Box("reference", ("reference", "how far an image is from the development images")))
        arrows += [
            Arrow(f"member {place}", "reference", "embeddings") for place in range(min(SHOWN, len(found.members)))
        ]
        arrows.append(Arrow("reference", "answer", "out-of-distribution score"))
    return Drawing(tuple(boxes), tuple(arrows))


def _decoding(decode: Decode) -> tuple[str, ...]:
    colour = "grey" if decode.channels == 1 else "RGB"
    size = f"own size, up to {decode.longest} px" if decode.size == "native" else f"{decode.size} x {decode.size} px"
    window = () if decode.window is None else (f"DICOM window {decode.window}",)
    return (f"{size}, {colour}", f"fit: {decode.fit}", *window)


def _shape(decode: Decode) -> str:
    side = "H x W" if decode.size == "native" else f"{decode.size} x {decode.size}"
    return f"{decode.channels} x {side}"


def _member(member: Member) -> tuple[str, ...]:
    folds = len(member.folds)
    return (member.name, str(member.model.get("backbone", "?")), f"{folds} fold model{'s' if folds > 1 else ''}")


def _folds(members: list[Member]) -> int:
    return sum(len(member.folds) for member in members)


def _calibration(about: Mapping[str, Any]) -> tuple[str, ...]:
    maps = about.get("calibration", {}).get("maps", [])
    kinds = dict.fromkeys(str(one.get("method", "?")) for one in maps)
    return ("calibration", ", ".join(kinds) or "?")


def _decisions(about: Mapping[str, Any]) -> tuple[str, ...]:
    chosen = about.get("decisions", {}).get("default")
    return ("decision", str(chosen)) if isinstance(chosen, str) else ("decision",)


KEPT = ("classes", "multilabel", "decode", "mean", "std", "model", "study", "trial", "fold", "encoder_id")
"""what the file says of itself: enough to decode an image for it and to read its answer"""


def export_network(bundle: Path, out: Path, member: str | None = None, fold: int | None = None) -> tuple[str, float]:
    """Write a network of a bundle to `out`; returns its name and the largest difference found to it.

    member: trial-0007; fold: its number; both may be left out where there is no choice. Raises RequestError where the
    bundle is none, has no such network, or several and none is named.
    """
    found = load_bundle(bundle)
    names = list(found.members)
    if member is None and len(names) > 1:
        raise RequestError(f"{bundle} has {len(names)} members, and a file one network: --member {' or '.join(names)}.")
    name = names[0] if member is None else member
    if name not in names:
        raise RequestError(f"--member {name}: no such member.{nearest(name, names)} Members: {', '.join(names)}.")
    weights = found.weights[names.index(name)]
    if fold is None and len(weights) > 1:
        raise RequestError(f"{name} has {len(weights)} networks: --fold N, 0 to {len(weights) - 1}.")
    number = fold or 0
    if not 0 <= number < len(weights):
        raise RequestError(f"--fold {number}: {name} has the folds 0 to {len(weights) - 1}.")
    network, meta = load_fold(weights[number])
    decode = Decode.model_validate(meta.decode)
    facts = {key: value for key, value in asdict(meta).items() if key in KEPT}
    stride = STRIDE if decode.size == "native" else 0
    apart = write_onnx(out, network, meta.mean, meta.std, decode.channels, decode.side, facts, stride)
    return f"{name}, fold {number}", apart
