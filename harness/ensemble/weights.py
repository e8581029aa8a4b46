"""Ensembles that are one weight per member: how they are cross-fitted, kept and applied.

`weighted` and `greedy` choose the weights.

The probability of a row is the weighted mean of the members' (the linear opinion pool, Stone 1961). Weights are
numbers of members, not of fold models, so they are as good for a member's mean over its K fold models as for one.

The out-of-fold probability of a row in fold k comes from weights chosen on the OTHER folds' rows: choosing is a fit,
and the rows that it is scored on take no part in it. The weights that are kept are chosen on all development rows.
Knows arrays only.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from harness.ensemble.arrays import pack, unpack
from harness.ensemble.oof import (
    Embed,
    Fitted,
    OofTable,
    check_probabilities,
    check_table,
    silent,
    single_oof,
    single_predict,
)
from harness.errors import RequestError
from harness.records import Progress

Choose = Callable[[NDArray[np.float32], NDArray[np.int64], int], NDArray[np.float64]]
"""choose(q, name_order, seed) -> (M,) weights, at least 0, of sum 1. q (n, M) is each member's probability of the true
class; name_order (M,) puts members into an order that does not depend on how they were listed, for ties and draws."""


@dataclass(frozen=True)
class WeightsModel:
    weights: NDArray[np.float64]
    """(M,)"""

    def predict(self, logits: NDArray[np.float32], embed: Embed | None = None) -> NDArray[np.float64]:
        """(M, K, n, C) -> (n, C)."""
        if len(self.weights) != len(logits):
            raise RequestError(f"{len(self.weights)} weights do not fit {len(logits)} members. Build it again.")
        total = np.zeros(logits.shape[2:])
        for member in np.flatnonzero(self.weights):
            total += self.weights[member] * single_predict(logits, int(member))
        return total

    def files(self) -> dict[str, bytes]:
        return {"weights.npz": pack({"weights": self.weights})}


def fit_weights(choose: Choose, what: str, table: OofTable, seed: int = 0, progress: Progress | None = None) -> Fitted:
    """Raises HarnessError when a member lacks a row."""
    check_table(table)
    report = progress or silent
    p = np.stack([single_oof(table, member) for member in range(table.members)], axis=1)
    q = np.take_along_axis(p, table.y[:, None, None], axis=2)[:, :, 0].astype(np.float32)
    order = np.argsort([ids[0] for ids in table.encoder_ids], kind="stable")
    oof = np.full((len(table.y), table.classes), np.nan)
    for k in range(table.k):
        held_out = table.fold == k
        if held_out.any():
            weights = choose(q[~held_out], order, seed)
            oof[held_out] = np.einsum("nmc,m->nc", p[held_out], weights)
        report(what, k + 1, table.k + 1)
    final = choose(q, order, seed)
    report(what, table.k + 1, table.k + 1)
    check_probabilities(oof, f"{what}, out of fold")
    return Fitted(WeightsModel(final), oof, np.einsum("nmc,m->nc", p, final))


def load(files: Mapping[str, bytes]) -> WeightsModel:
    """Raises RequestError where the weights are none."""
    found = unpack(files["weights.npz"], "weights.npz").get("weights")
    if found is None or found.ndim != 1:
        raise RequestError("weights.npz holds no weights. Build the ensemble again.")
    weights = found.astype(np.float64)
    if not (np.isfinite(weights).all() and (weights >= 0).all() and abs(weights.sum() - 1.0) < 1e-6):
        raise RequestError("weights.npz: the weights of the members are not shares of 1. Build the ensemble again.")
    return WeightsModel(weights)
