"""What the saved fold models say of the study's images: logits and embeddings, computed once per encoder and kept.

With bundle.py the only part of this room that touches torch. Kept files are named by encoder_id, so embeddings of two
encoders never meet in one file, and they are trusted only for the very rows and data that they were computed for.
"""

import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from harness.ensemble.members import Member, check_unchanged
from harness.errors import HarnessError, Leak, RequestError
from harness.images.pixels import Pixels, select
from harness.models.network import Network
from harness.seeds import derive_seed
from harness.store.arrays import pack, unpack
from harness.store.files import write_bytes
from harness.store.home import Home
from harness.train.checkpoint import FoldMeta, load_fold, read_meta
from harness.train.inference import infer
from harness.types import Dataset, Folds, Progress

FORMAT = 1
Load = Callable[[Path, str], tuple[Network, FoldMeta]]
"""load_fold, or what remembers what it gave"""
ASKED = 64
"""held-out rows that every fold model of a member has to say again before anything is built on what it said"""
AVERAGE_APART, ROW_APART = 0.05, 0.5
"""how far logits of one network may be apart, on average and for a single number, where logits are of size 1 or less;
more for larger ones"""


@dataclass(frozen=True)
class Outputs:
    """One encoder on some rows."""

    logits: NDArray[np.float32]
    """(n, C)"""
    embeddings: NDArray[np.float32]
    """(n, D)"""


def read_encoders(members: Sequence[Member], dataset: Dataset, folds: Folds) -> list[list[FoldMeta]]:
    """(M x K) what the checkpoints say of themselves.

    Raises HarnessError when one is not the fold model that its folder says, or was trained on other data, folds or
    classes: its held-out rows would not be these, so it may have seen them.
    """
    return [[_checked_meta(member, fold, dataset, folds) for fold in range(folds.k)] for member in members]


def _checked_meta(member: Member, fold: int, dataset: Dataset, folds: Folds) -> FoldMeta:
    path = member.weights(fold)
    meta = read_meta(path)
    wanted = {
        "study": member.study,
        "trial": member.number,
        "fold": fold,
        "classes": dataset.classes,
        "multilabel": dataset.multilabel,
        "data_hash": dataset.data_hash,
        "folds_hash": folds.folds_hash,
    }
    for key, value in wanted.items():
        if getattr(meta, key) != value:
            raise Leak(
                f"trial {member.number}, fold {fold}: the checkpoint {path} says {key} {getattr(meta, key)!r}, not "
                f"{value!r}, so it may have trained on the rows it would be scored on: refused. "
                "Leave the trial out by a smaller --top, or run the study under a new name (--as NEWNAME)."
            )
    return meta


def rows_key(dataset: Dataset, rows: NDArray[np.int64]) -> str:
    """Names these rows of this data set, in this order."""
    state = hashlib.blake2b(f"{FORMAT}\n{dataset.data_hash}\n".encode(), digest_size=8)
    state.update("\n".join(dataset.ids[rows].tolist()).encode())
    return state.hexdigest()


def run_encoder(
    weights: Path, pixels: Pixels, row_sets: Sequence[NDArray[np.int64] | slice], device: str, load: Load = load_fold
) -> tuple[list[Outputs], FoldMeta]:
    """One fold model on images pixels[rows] for each of `row_sets`: loaded once, used and let go.

    Raises HarnessError when an output is not finite.
    """
    network, meta = load(weights, device)
    found = []
    for rows in row_sets:
        numbers = np.arange(len(pixels))[rows]
        out = Outputs(*infer(network, meta, select(pixels, numbers), device))
        if not (np.isfinite(out.logits).all() and np.isfinite(out.embeddings).all()):
            raise HarnessError(
                f"trial {meta.trial}, fold {meta.fold}: its network gives values that are not finite: the training "
                "diverged. Leave the trial out by a smaller --top."
            )
        found.append(out)
    return found, meta


class EncoderCache:
    """Outputs per encoder and named set of rows, on disk under work/STUDY/embeddings/, written whole or not at all."""

    def __init__(self, home: Home, study: str, dataset: Dataset, pixels: Pixels, device: str) -> None:
        self._folder = home.work(study) / "embeddings"
        self.pixels, self._dataset, self._device = pixels, dataset, device

    def outputs(self, meta: FoldMeta, weights: Path, row_sets: dict[str, NDArray[np.int64]]) -> list[Outputs]:
        """The outputs of one encoder on each named set of rows; what is not kept yet is computed in one go."""
        if not re.fullmatch(r"[A-Za-z0-9_-]+", meta.encoder_id):
            raise HarnessError(f"{weights}: its encoder_id {meta.encoder_id!r} is not a plain name.")
        kept = {name: self._read(meta.encoder_id, name, rows) for name, rows in row_sets.items()}
        wanted = [name for name, found in kept.items() if found is None]
        if wanted:
            computed, inside = run_encoder(weights, self.pixels, [row_sets[name] for name in wanted], self._device)
            if inside.encoder_id != meta.encoder_id:
                raise HarnessError(f"{weights} changed while it was read. Build again.")
            for name, found in zip(wanted, computed, strict=True):
                arrays = {
                    "logits": found.logits,
                    "embeddings": found.embeddings,
                    "rows_key": np.array(rows_key(self._dataset, row_sets[name])),
                    "encoder_id": np.array(meta.encoder_id),
                }
                write_bytes(self._path(meta.encoder_id, name), pack(arrays))
                kept[name] = found
        return [found for found in kept.values() if found is not None]

    def _path(self, encoder_id: str, name: str) -> Path:
        return self._folder / f"{encoder_id}-{name}.npz"

    def _read(self, encoder_id: str, name: str, rows: NDArray[np.int64]) -> Outputs | None:
        """The kept outputs, or None where there are none for these rows or the file is damaged."""
        path = self._path(encoder_id, name)
        try:
            arrays = unpack(path.read_bytes(), str(path))
            if str(arrays["rows_key"]) != rows_key(self._dataset, rows) or str(arrays["encoder_id"]) != encoder_id:
                return None
            logits, embeddings = arrays["logits"], arrays["embeddings"]
        except (OSError, RequestError, KeyError):
            return None
        if len(logits) != len(rows) or len(embeddings) != len(rows):
            return None
        return Outputs(logits.astype(np.float32, copy=False), embeddings.astype(np.float32, copy=False))


class StudyOutputs:
    """What the fold models of some members say of the study's images, one encoder in memory at a time."""

    def __init__(
        self,
        caches: Sequence[EncoderCache],
        members: Sequence[Member],
        metas: Sequence[Sequence[FoldMeta]],
        folds: Folds,
        oof_logits: NDArray[np.float32],
    ) -> None:
        """caches: M, one per member. oof_logits (N, M, C): what stage 1 wrote down, to know the networks by."""
        self._caches, self._members, self._metas, self._folds = caches, members, metas, folds
        self._oof_logits = oof_logits
        self._test = {"test": folds.test_rows()}
        self._development = folds.development_rows()
        # kept fold by fold: bagging needs each encoder on its own held-out fold only, boosting on all of them
        self._parts = {f"fold_{k}": folds.held_out_rows(k) for k in range(folds.k)}

    def test_logits(self, progress: Progress) -> NDArray[np.float32]:
        """(M, K, T, C) logits of the test rows by every fold model. On the way each one is asked for a few of the rows
        that it held out. Raises Leak where it does not repeat what its predictions file says of them."""
        rows, classes = len(self._test["test"]), self._oof_logits.shape[2]
        logits = np.empty((len(self._members), self._folds.k, rows, classes), dtype=np.float32)
        for m in range(len(self._members)):
            for k in range(self._folds.k):
                asked = self._asked(m, k)
                on_test, again = self._get(m, k, self._test | {f"asked_{k}": asked})
                self._check_known(m, k, again.logits, self._oof_logits[np.searchsorted(self._development, asked), m])
                logits[m, k] = on_test.logits
                progress(
                    "test images through the fold models", m * self._folds.k + k + 1, logits.shape[0] * self._folds.k
                )
        return logits

    def cache(self, m: int) -> EncoderCache:
        """Of the study of member m, whose pixels it takes."""
        return self._caches[m]

    def test_embeddings(self, m: int, k: int) -> NDArray[np.float32]:
        """(T, D)"""
        return self._get(m, k, self._test)[0].embeddings

    def held_out_embeddings(self, m: int, k: int) -> NDArray[np.float32]:
        """(N, D) of the development rows; NaN but for those of fold k."""
        return self._on_development(m, k, {f"fold_{k}": self._parts[f"fold_{k}"]})

    def development_embeddings(self, m: int, k: int) -> NDArray[np.float32]:
        """(N, D) of all development rows."""
        return self._on_development(m, k, self._parts)

    def _get(self, m: int, k: int, row_sets: dict[str, NDArray[np.int64]]) -> list[Outputs]:
        weights = self._members[m].weights(k)
        check_unchanged(self._members[m], weights)
        return self._caches[m].outputs(self._metas[m][k], weights, row_sets)

    def _on_development(self, m: int, k: int, parts: dict[str, NDArray[np.int64]]) -> NDArray[np.float32]:
        found = self._get(m, k, parts)
        out = np.full((len(self._development), found[0].embeddings.shape[1]), np.nan, dtype=np.float32)
        for rows, outputs in zip(parts.values(), found, strict=True):
            places = np.searchsorted(self._development, rows)
            out[places] = outputs.embeddings
            if rows is self._parts[f"fold_{k}"]:
                self._check_known(m, k, outputs.logits, self._oof_logits[places, m])
        return out

    def _asked(self, m: int, k: int) -> NDArray[np.int64]:
        """(n,) a few of the rows that encoder (m, k) held out, drawn by its name."""
        rows = self._parts[f"fold_{k}"]
        rng = np.random.default_rng(derive_seed("asked", self._metas[m][k].encoder_id))
        return np.sort(rng.choice(rows, min(ASKED, len(rows)), replace=False))

    def _check_known(self, m: int, k: int, logits: NDArray[np.float32], written: NDArray[np.float32]) -> None:
        """A network that does not repeat what its trial wrote down of its held-out rows, each single one, is another
        network, and may have seen them; or the predictions were changed. Devices and library versions differ by far
        less than is allowed here."""
        if not len(logits):
            return
        apart = np.abs(logits - written)
        allowed = 1.0 + float(np.abs(written).mean())
        if apart.mean() > AVERAGE_APART * allowed or apart.max() > ROW_APART * allowed:
            raise Leak(
                f"trial {self._members[m].number}, fold {k}: its network gives other logits for its held-out rows than "
                f"its predictions file has ({apart.mean():.2g} apart on average, {apart.max():.2g} at most), so the "
                "two do not belong together: refused. "
                "Leave the trial out by a smaller --top, or run the study under a new name (--as NEWNAME)."
            )
