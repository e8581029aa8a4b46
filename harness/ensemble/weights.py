"""Ensembles that are one weight per member: how they are kept and applied. `weighted` and `greedy` choose the weights.

The probability of a row is the weighted mean of the members' (the linear opinion pool, Stone 1961). Weights are
numbers of members, not of fold models, so they are as good for a member's mean over its K fold models as for one.
Choosing is a fit: it is cross-fitted like every other (cross_fit.py). Knows arrays only.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from harness.ensemble.cross_fit import Learn, over_folds, rows_without
from harness.ensemble.oof import Embed, OofTable, check_table, single_oof
from harness.errors import RequestError
from harness.metrics import softmax
from harness.store.arrays import pack, unpack

Choose = Callable[[NDArray[np.float32], NDArray[np.int64], int], NDArray[np.float64]]
"""choose(q, name_order, seed) -> (M,) weights, at least 0, of sum 1. q (n, M) is each member's probability of the true
class; name_order (M,) puts members into an order that does not depend on how they were listed, for ties and draws."""


@dataclass(frozen=True)
class WeightsModel:
    weights: NDArray[np.float64]
    """(M,)"""

    def of(self, logits: NDArray[np.float32]) -> NDArray[np.float64]:
        """(n, M, C) -> (n, C)."""
        if len(self.weights) != logits.shape[1]:
            raise RequestError(f"{len(self.weights)} weights do not fit {logits.shape[1]} members. Build it again.")
        total = np.zeros((len(logits), logits.shape[2]))
        for member in np.flatnonzero(self.weights):
            total += self.weights[member] * softmax(logits[:, member])
        return total

    def predict(self, logits: NDArray[np.float32], embed: Embed | None = None) -> NDArray[np.float64]:
        """(M, K, n, C) -> (n, C)."""
        return over_folds(self, logits)

    def files(self) -> dict[str, bytes]:
        return {"weights.npz": pack({"weights": self.weights})}


def learner(choose: Choose, table: OofTable, seed: int) -> Learn:
    """Raises HarnessError when a member lacks a row."""
    check_table(table)
    q = np.empty((len(table.y), table.members), dtype=np.float32)
    for member in range(table.members):
        q[:, member] = np.take_along_axis(single_oof(table, member), table.y[:, None], axis=1)[:, 0]
    order = np.argsort([ids[0] for ids in table.encoder_ids], kind="stable")
    return lambda left_out: WeightsModel(choose(q[rows_without(table, left_out)], order, seed))


def load(files: Mapping[str, bytes]) -> WeightsModel:
    """Raises RequestError where the weights are none."""
    found = unpack(files["weights.npz"], "weights.npz").get("weights")
    if found is None or found.ndim != 1:
        raise RequestError("weights.npz holds no weights. Build the ensemble again.")
    weights = found.astype(np.float64)
    if not (np.isfinite(weights).all() and (weights >= 0).all() and abs(weights.sum() - 1.0) < 1e-6):
        raise RequestError("weights.npz: the weights of the members are not shares of 1. Build the ensemble again.")
    return WeightsModel(weights)
