"""Boosting: gradient-boosted trees (XGBoost) on each encoder's own embeddings, averaged over encoders.

Who is fitted on what stands in encoders.py, early stopping in boosted_trees.py: it watches whole groups of the TRAINING
rows, never the held-out fold.
Limit, by construction: an encoder separates the rows it trained on better than new ones, so the trees are more
confident than they should be; they are shallow and strongly regularised for that reason, and log-loss and Brier score
are printed beside the ranking metrics.

On `device` cuda XGBoost uses the GPU where it finds one; the trees of CPU and GPU differ a little, as sums are added in
another order. Prediction is on the CPU. Source: Chen and Guestrin 2016. Knows arrays only.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from harness.ensemble.boosted_trees import BoostedTrees, device_in_use, fit_trees, read_trees
from harness.ensemble.encoders import fit_encoders, mean_of_encoders
from harness.ensemble.oof import Embed, Fitted, OofTable
from harness.errors import RequestError
from harness.store.arrays import pack, unpack
from harness.types import Progress

SETTINGS = {
    "max_depth": 3,
    "eta": 0.1,
    "min_child_weight": 2.0,
    "lambda": 10.0,
    "subsample": 0.7,
    "colsample_bytree": 0.3,
    "max_bin": 64,
}


@dataclass(frozen=True)
class BoostingModel:
    boosters: dict[tuple[int, int], BoostedTrees]

    def predict(self, logits: NDArray[np.float32], embed: Embed | None) -> NDArray[np.float64]:
        return mean_of_encoders(self.boosters, logits.shape[2:], embed, "boosting")

    def files(self) -> dict[str, bytes]:
        out = {f"booster_{m}_{k}.ubj": trees.ubj for (m, k), trees in self.boosters.items() if trees.ubj}
        arrays: dict[str, NDArray[np.generic]] = {
            f"present_{m}_{k}": trees.present for (m, k), trees in self.boosters.items()
        }
        arrays["classes"] = np.array(next(iter(self.boosters.values())).classes)
        return {**out, "boosting.npz": pack(arrays)}


def fit(
    table: OofTable, embed: Embed | None, seed: int, progress: Progress | None = None, device: str = "cpu"
) -> Fitted:
    """embed(m, k) gives the (N, D) embeddings of the development rows by encoder (m, k); device is cpu, cuda or cuda:N.

    Raises HarnessError when a member lacks a row or an embedding is not finite.
    """

    def one(x: NDArray[np.float32], y: NDArray[np.int64], groups: NDArray[np.str_], own_seed: int) -> BoostedTrees:
        return fit_trees(x, y, groups, table.classes, own_seed, SETTINGS, device)

    # one fit at a time fills a GPU
    jobs = 8 if device_in_use(device) == "cpu" else 1
    boosters, oof = fit_encoders(one, "boosting", table, embed, seed, progress, jobs)
    return Fitted(BoostingModel(boosters), oof, oof)


def load(files: Mapping[str, bytes]) -> BoostingModel:
    """Raises RequestError where a booster is missing."""
    arrays = unpack(files["boosting.npz"], "boosting.npz")
    classes = int(arrays["classes"].astype(np.int64))
    boosters: dict[tuple[int, int], BoostedTrees] = {}
    for name, present in arrays.items():
        if not name.startswith("present_"):
            continue
        m, _, k = name.removeprefix("present_").partition("_")
        trees = f"booster_{m}_{k}.ubj"
        ubj = files.get(trees, b"")
        if len(present) > 1 and not ubj:
            raise RequestError(f"{trees} is missing. Build the ensemble again.")
        boosters[int(m), int(k)] = read_trees(present.astype(np.int64), classes, ubj, trees)
    return BoostingModel(boosters)
