"""Bagging: all K x M fold models averaged, plus bootstrap-resampled linear heads on every encoder's embeddings.

Encoder (m, k), fold model k of member m, never saw the rows of fold k. On those held-out rows B = 20 heads are fitted,
each an L2-regularised logistic regression on a bootstrap resample of their GROUPS. A row whose group is not in a
head's resample is out of bag: neither encoder nor head saw it, so the mean of its out-of-bag heads is a leak-free
out-of-fold prediction. New rows get the mean over all heads of all encoders; each encoder's embeddings are a space of
their own and only probabilities are ever averaged. The final probability is the average of the networks' mean and the
heads' mean.

Coverage: a group that sits in every resample by chance gets one more head, fitted on a resample of the other groups,
so every row has an out-of-bag head where its fold has two groups or more; else the row is NaN and refused.

Source: Breiman 1996 (bagging predictors; out-of-bag estimation). Knows arrays only.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from harness.ensemble.heads import fit_logistic, mean_of_encoders, require_embeddings
from harness.ensemble.oof import Embed, Fitted, OofTable, check_probabilities, check_table, mean_oof, mean_predict
from harness.errors import HarnessError, RequestError
from harness.metrics import softmax
from harness.numbering import by_appearance
from harness.seeds import derive_seed
from harness.store.arrays import pack, unpack
from harness.types import Progress, silent

HEADS = 20
"""resamples per encoder"""
REDRAWS = 50
"""further draws allowed where a resample holds one class only; after them the constant head is taken"""


@dataclass(frozen=True)
class Heads:
    """The heads of one encoder."""

    weights: NDArray[np.float32]
    """(B, D, C)"""
    bias: NDArray[np.float32]
    """(B, C)"""

    def predict(self, x: NDArray[np.float32]) -> NDArray[np.float64]:
        """(n, D) -> (n, C), the mean over heads."""
        return np.asarray(self.each(x).mean(axis=0))

    def each(self, x: NDArray[np.float32]) -> NDArray[np.float64]:
        """(n, D) -> (B, n, C)."""
        wide = x.astype(np.float64)
        return softmax(np.einsum("nd,bdc->bnc", wide, self.weights, optimize=True) + self.bias[:, None])


@dataclass(frozen=True)
class BaggingModel:
    heads: dict[tuple[int, int], Heads]

    def predict(self, logits: NDArray[np.float32], embed: Embed | None) -> NDArray[np.float64]:
        heads = mean_of_encoders(self.heads, logits.shape[2:], embed, "bagging")
        return (mean_predict(logits) + heads) / 2

    def files(self) -> dict[str, bytes]:
        arrays: dict[str, NDArray[np.generic]] = {}
        for (m, k), heads in self.heads.items():
            arrays[f"weights_{m}_{k}"], arrays[f"bias_{m}_{k}"] = heads.weights, heads.bias
        return {"bagging.npz": pack(arrays)}


def fit(table: OofTable, embed: Embed | None, seed: int, progress: Progress | None = None) -> Fitted:
    """embed(m, k) gives the (N, D) embeddings of the development rows; only those of fold k are used.

    Raises HarnessError when a member lacks a row, or a row no out-of-bag head.
    """
    check_table(table)
    given = require_embeddings(embed, "bagging")
    report = progress or silent
    heads: dict[tuple[int, int], Heads] = {}
    out_of_bag, in_bag_too = (np.zeros((len(table.y), table.classes)) for _ in range(2))
    for m in range(table.members):
        for k in range(table.k):
            rows = np.flatnonzero(table.fold == k)
            if not len(rows):
                continue
            encoder = table.encoder_ids[m][k]
            x = given(m, k)[rows]
            if not np.isfinite(x).all():
                raise HarnessError(f"the embeddings of {encoder} are not finite. Leave that trial out.")
            rng = np.random.default_rng(derive_seed(seed, "bagging", encoder))
            heads[m, k], p = _fit_encoder(x, table.y[rows], table.groups[rows], table.classes, rng)
            out_of_bag[rows] += p
            in_bag_too[rows] += heads[m, k].predict(x)
            report("bagging heads", m * table.k + k + 1, table.members * table.k)
    networks = mean_oof(table)
    oof = (networks + out_of_bag / table.members) / 2
    check_probabilities(oof, "bagging, out of bag (a fold with a single group leaves none out)")
    return Fitted(BaggingModel(heads), oof, (networks + in_bag_too / table.members) / 2)


def resamples(
    y: NDArray[np.int64], groups: NDArray[np.str_], rng: np.random.Generator, heads: int = HEADS
) -> NDArray[np.int64]:
    """(B, n) how often each row is in each group-bootstrap resample; every group is left out at least once, where
    there are two or more. B is `heads`, plus one for each group that chance never left out."""
    member_of = by_appearance(groups)
    count = int(member_of.max(initial=-1)) + 1
    everyone = np.arange(count)

    def draw(among: NDArray[np.int64]) -> NDArray[np.int64]:
        counts = np.zeros(count, dtype=np.int64)
        for _ in range(REDRAWS):
            counts = np.bincount(rng.choice(among, size=len(among)), minlength=count)
            if len(np.unique(y[counts[member_of] > 0])) > 1:
                break
        return counts

    drawn = [draw(everyone) for _ in range(heads)]
    if count > 1:
        for group in np.flatnonzero(np.min(drawn, axis=0) > 0):
            drawn.append(draw(everyone[everyone != group]))
    return np.array([counts[member_of] for counts in drawn])


def _fit_encoder(
    x: NDArray[np.float32], y: NDArray[np.int64], groups: NDArray[np.str_], classes: int, rng: np.random.Generator
) -> tuple[Heads, NDArray[np.float64]]:
    """The heads of one encoder and the (n, C) out-of-bag means of the rows, NaN where every head saw the row."""
    counts = resamples(y, groups, rng)
    # with D standardised features, strength 1/D is a prior of unit variance on the log-odds whatever D is
    strength = 1.0 / x.shape[1]
    weights = np.zeros((len(counts), x.shape[1], classes), dtype=np.float32)
    bias = np.zeros((len(counts), classes), dtype=np.float32)
    for b, count in enumerate(counts):
        rows = count > 0
        linear = fit_logistic(x[rows], y[rows], classes, strength, count[rows].astype(np.float64))
        weights[b], bias[b] = linear.weights, linear.bias
    heads = Heads(weights, bias)
    p = heads.each(x)
    p[counts > 0] = np.nan
    left_out = (counts == 0).sum(axis=0)[:, None]
    with np.errstate(invalid="ignore"):
        return heads, np.nansum(p, axis=0) / np.where(left_out > 0, left_out, np.nan)


def load(files: Mapping[str, bytes]) -> BaggingModel:
    arrays = unpack(files["bagging.npz"], "bagging.npz")
    heads: dict[tuple[int, int], Heads] = {}
    for name, weights in arrays.items():
        kind, _, rest = name.partition("_")
        m, _, k = rest.partition("_")
        if kind == "weights" and m.isdigit() and k.isdigit():
            bias = arrays.get(f"bias_{rest}")
            if bias is None or bias.shape != (weights.shape[0], weights.shape[2]):
                raise RequestError(f"bagging.npz lacks the bias of {name}. Build the ensemble again.")
            heads[int(m), int(k)] = Heads(weights.astype(np.float32), bias.astype(np.float32))
    return BaggingModel(heads)
