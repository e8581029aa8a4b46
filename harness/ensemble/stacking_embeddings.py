"""Stacking with the embeddings passed through: beside each member's logits stands a second opinion from its embedding.

Embeddings of different encoders share no space (honesty rule 5), so what is passed through are not their coordinates
but class scores: for encoder (m, k), fold model k of member m, an L2-regularised logistic head on its embeddings of
fold k, the rows that it held out. (A linear head on the rows that the encoder trained on would only find the network's
own last layer again.) Log-probabilities of heads mean the same for every encoder, so they stand in one column per
member, and linear stacking is fitted over 2 M columns: M networks, M heads.

    head scores of fold k   from heads fitted on the other PARTS - 1 parts of fold k, by whole groups
    nested score of fold k  by a stacking fitted on the other folds' columns
    new rows                the head of encoder (m, k), refitted on all of fold k; stacking applied per fold index

So a row's nested prediction has seen neither its group nor, in the stacking, its fold; the heads behind it have seen
other groups of its fold, and nothing of other folds. Source: Wolpert 1992, with features beside the level-0 guesses
(Sill, Takacs, Mackey, Lin 2009, feature-weighted linear stacking, is a relative). Knows arrays only.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from harness.ensemble import stacking
from harness.ensemble.cross_fit import cross_fit
from harness.ensemble.encoders import require_embeddings
from harness.ensemble.logistic import Linear, fit_logistic
from harness.ensemble.oof import Embed, Fitted, OofTable, check_table
from harness.errors import HarnessError, RequestError
from harness.numbering import by_appearance, first_rows
from harness.seeds import derive_seed
from harness.store.arrays import pack, unpack
from harness.types import Progress, silent

PARTS = 5
"""of a fold's groups, each left out in turn"""
SMALLEST = 1e-7


@dataclass(frozen=True)
class StackingEmbeddingsModel:
    heads: dict[tuple[int, int], Linear]
    stacked: stacking.StackingModel

    def predict(self, logits: NDArray[np.float32], embed: Embed | None) -> NDArray[np.float64]:
        """(M, K, n, C) logits and the embeddings of n new rows -> (n, C)."""
        given = require_embeddings(embed, "stacking-embeddings")
        members, folds = logits.shape[:2]
        said = [[_scores(self.heads[m, k], given(m, k)) for k in range(folds)] for m in range(members)]
        return self.stacked.predict(np.concatenate([logits, np.array(said)]))

    def files(self) -> dict[str, bytes]:
        arrays: dict[str, NDArray[np.generic]] = {}
        for (m, k), head in self.heads.items():
            arrays[f"weights_{m}_{k}"], arrays[f"bias_{m}_{k}"] = head.weights, head.bias
        return {"heads.npz": pack(arrays), **self.stacked.files()}


def fit(table: OofTable, embed: Embed | None, seed: int, progress: Progress | None = None) -> Fitted:
    """embed(m, k) gives the (N, D) embeddings of the development rows; only those of fold k are used.

    Raises HarnessError when a member lacks a row, an embedding is not finite, or a fold has one group only.
    """
    check_table(table)
    given = require_embeddings(embed, "stacking-embeddings")
    report = progress or silent
    heads: dict[tuple[int, int], Linear] = {}
    cross_fitted, refitted = np.empty_like(table.logits), np.empty_like(table.logits)
    for m in range(table.members):
        for k in range(table.k):
            rows = np.flatnonzero(table.fold == k)
            x, y, groups = given(m, k)[rows], table.y[rows], table.groups[rows]
            if not np.isfinite(x).all():
                raise HarnessError(f"the embeddings of {table.encoder_ids[m][k]} are not finite. Leave that trial out.")
            if len(np.unique(groups)) < 2:
                raise HarnessError(f"fold {k} has a single group: no head can be fitted without the rows it scores.")
            # the same parts for all members: what stacking compares differs by encoder alone
            part = parts(y, groups, derive_seed(seed, "stacking-embeddings", k))
            for i in np.unique(part):
                inside = _fit_head(x[part != i], y[part != i], table.classes)
                cross_fitted[rows[part == i], m] = _scores(inside, x[part == i])
            heads[m, k] = _fit_head(x, y, table.classes)
            refitted[rows, m] = _scores(heads[m, k], x)
            report("heads on embeddings", m * table.k + k + 1, table.members * table.k)
    learn = stacking.learner(_beside(table, cross_fitted))
    oof = cross_fit(learn, "stacking-embeddings", _beside(table, cross_fitted), progress).oof
    stacked = learn(frozenset())
    return Fitted(StackingEmbeddingsModel(heads, stacked), oof, stacked.of(_beside(table, refitted).logits))


def parts(y: NDArray[np.int64], groups: NDArray[np.str_], seed: int) -> NDArray[np.int64]:
    """(n,) part of each row: whole groups, each class (by a group's first row) dealt out evenly; at most PARTS, at
    least two where there are two groups."""
    rng = np.random.default_rng(seed)
    group_of = by_appearance(groups)
    first = first_rows(group_of)
    part_of, dealt = np.zeros(len(first), dtype=np.int64), 0
    for value in np.unique(y[first]):
        own = rng.permutation(np.flatnonzero(y[first] == value))
        part_of[own] = (dealt + np.arange(len(own))) % min(PARTS, len(first))
        dealt += len(own)
    return np.asarray(part_of[group_of])


def _fit_head(x: NDArray[np.float32], y: NDArray[np.int64], classes: int) -> Linear:
    # with D standardised features, strength 1/D is a prior of unit variance on the log-odds whatever D is
    return fit_logistic(x, y, classes, 1.0 / x.shape[1])


def _scores(head: Linear, x: NDArray[np.float32]) -> NDArray[np.float32]:
    """(n, D) -> (n, C) log-probabilities; finite where a class was absent."""
    return np.log(np.maximum(head.predict(x), SMALLEST)).astype(np.float32)


def _beside(table: OofTable, scores: NDArray[np.float32]) -> OofTable:
    """The table with the heads as further members."""
    names = tuple(tuple(f"{name}-head" for name in names) for names in table.encoder_ids)
    logits = np.concatenate([table.logits, scores], axis=1)
    return replace(table, logits=logits, encoder_ids=table.encoder_ids + names)


def load(files: Mapping[str, bytes]) -> StackingEmbeddingsModel:
    """Raises RequestError where a head is not whole."""
    arrays = unpack(files["heads.npz"], "heads.npz")
    heads: dict[tuple[int, int], Linear] = {}
    for name, weights in arrays.items():
        kind, _, encoder = name.partition("_")
        if kind != "weights":
            continue
        m, _, k = encoder.partition("_")
        bias = arrays.get(f"bias_{encoder}")
        if bias is None or weights.ndim != 2 or bias.shape != weights.shape[1:]:
            raise RequestError(f"heads.npz: the head of encoder {encoder} is not whole. Build the ensemble again.")
        heads[int(m), int(k)] = Linear(weights.astype(np.float64), bias.astype(np.float64))
    return StackingEmbeddingsModel(heads, stacking.load(files))
