"""Stacking by boosted trees: XGBoost on the members' out-of-fold log-odds, starting from their simple mean.

The features are those of linear stacking. Every row's first guess is the members' mean, and the trees add corrections
to it, as long as these help on a watched fifth of the groups: with few rows it stays near the mean, with many it finds
what no line can, that a member is to be believed in one region and not in another. The trees are shallow (two splits
deep) and slow (eta .05), for M features of one kind hold few interactions.

Cross-fitted over the study's folds (cross_fit.py); early stopping watches a part of the rows that a fit may read.
Sources: Wolpert 1992; Chen and Guestrin 2016. Knows arrays only.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from harness.ensemble.boosted_trees import BoostedTrees, fit_trees, read_trees
from harness.ensemble.cross_fit import Learn, cross_fit, over_folds, rows_without
from harness.ensemble.oof import Embed, Fitted, OofTable, check_table
from harness.ensemble.stacking import features
from harness.errors import RequestError
from harness.metrics import softmax
from harness.seeds import derive_seed
from harness.store.arrays import pack, unpack
from harness.types import Progress

SETTINGS = {"max_depth": 2, "eta": 0.05, "min_child_weight": 5.0, "lambda": 10.0, "max_bin": 64}


@dataclass(frozen=True)
class StackingBoostedModel:
    trees: BoostedTrees
    order: NDArray[np.int64]
    """(M,) the members by name, as the trees know them: of equally good splits the first is taken"""

    def of(self, logits: NDArray[np.float32]) -> NDArray[np.float64]:
        """(n, M, C) -> (n, C)."""
        ordered = logits[:, self.order]
        return self.trees.predict(features(ordered).astype(np.float32), mean_of(ordered))

    def predict(self, logits: NDArray[np.float32], embed: Embed | None = None) -> NDArray[np.float64]:
        """(M, K, n, C) -> (n, C)."""
        return over_folds(self, logits)

    def files(self) -> dict[str, bytes]:
        arrays = {"present": self.trees.present, "classes": np.array(self.trees.classes), "order": self.order}
        return {"stacking_boosted.ubj": self.trees.ubj, "stacking_boosted.npz": pack(arrays)}


def mean_of(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """(n, M, C) logits -> (n, C) mean of the members' probabilities, one member in memory at a time."""
    total = np.zeros((len(logits), logits.shape[2]))
    for member in range(logits.shape[1]):
        total += softmax(logits[:, member])
    return np.asarray(total / logits.shape[1])


def learner(table: OofTable, seed: int) -> Learn:
    """Raises HarnessError when a member lacks a row."""
    check_table(table)
    order = np.argsort([ids[0] for ids in table.encoder_ids], kind="stable")
    ordered = table.logits[:, order]
    x, prior = features(ordered).astype(np.float32), mean_of(ordered)

    def learn(left_out: frozenset[int]) -> StackingBoostedModel:
        rows = rows_without(table, left_out)
        own_seed = derive_seed(seed, "stacking-boosted", *sorted(left_out))
        y, groups = table.y[rows], table.groups[rows]
        trees = fit_trees(x[rows], y, groups, table.classes, own_seed, SETTINGS, prior=prior[rows])
        return StackingBoostedModel(trees, order)

    return learn


def fit(table: OofTable, embed: Embed | None = None, seed: int = 0, progress: Progress | None = None) -> Fitted:
    """Raises HarnessError when a member lacks a row."""
    return cross_fit(learner(table, seed), "stacking-boosted", table, progress)


def load(files: Mapping[str, bytes]) -> StackingBoostedModel:
    """Raises RequestError where the trees or the members' order are missing."""
    arrays = unpack(files["stacking_boosted.npz"], "stacking_boosted.npz")
    order = arrays["order"].astype(np.int64)
    if sorted(order.tolist()) != list(range(len(order))):
        raise RequestError("stacking_boosted.npz: the order of its members is none. Build the ensemble again.")
    present, classes = arrays["present"].astype(np.int64), int(arrays["classes"].astype(np.int64))
    name = "stacking_boosted.ubj"
    return StackingBoostedModel(read_trees(present, classes, files[name], name), order)
