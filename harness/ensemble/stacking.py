"""Stacking: a regularised multinomial logistic regression on the members' out-of-fold log-probabilities.

Features of a row are, for two classes, each member's log-odds (M of them); for more, each member's log-probabilities
centred over the classes (M x C), so that no class plays the reference and the penalty treats all alike. They are cut
off at +-15: an overconfident network has one vote, not an infinite one.

Cross-fitted over the study's own folds (cross_fit.py). The strength of the penalty is chosen by log-loss on the folds
that a fit may read, each left out in turn, so groups never straddle fit and choice: from strong to weak, as long as the
loss falls. A fit without folds {j, k} serves both as k's inner fit for j and as j's for k, which halves the work.

Sources: Wolpert 1992; van der Laan, Polley, Hubbard 2007 (super learner). Knows arrays only.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from harness.ensemble.cross_fit import cross_fit, over_folds, rows_without
from harness.ensemble.logistic import Linear, fit_logistic
from harness.ensemble.oof import Embed, Fitted, OofTable, check_table
from harness.store.arrays import pack, unpack
from harness.types import Progress

STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
"""inverse penalties tried; small is strong"""
FALLBACK = 1e-2
"""the strength where two folds leave no third one to choose it on"""
CUT = 15.0


@dataclass(frozen=True)
class StackingModel:
    linear: Linear
    strength: float

    def of(self, logits: NDArray[np.float32]) -> NDArray[np.float64]:
        """(n, M, C) -> (n, C)."""
        return self.linear.predict(features(logits))

    def predict(self, logits: NDArray[np.float32], embed: Embed | None = None) -> NDArray[np.float64]:
        """(M, K, n, C) -> (n, C)."""
        return over_folds(self, logits)

    def files(self) -> dict[str, bytes]:
        arrays = {"weights": self.linear.weights, "bias": self.linear.bias, "strength": np.array(self.strength)}
        return {"stacking.npz": pack(arrays)}


def features(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """(n, M, C) logits -> (n, M) log-odds for two classes, else (n, M*C) centred log-probabilities."""
    wide = logits.astype(np.float64)
    if wide.shape[2] == 2:
        return np.asarray(np.clip(wide[:, :, 1] - wide[:, :, 0], -CUT, CUT))
    centred = wide - wide.mean(axis=2, keepdims=True)
    return np.asarray(np.clip(centred, -CUT, CUT).reshape(len(wide), -1))


def learner(table: OofTable, seed: int = 0) -> Callable[[frozenset[int]], StackingModel]:
    """Nothing is random here: the seed is not used. Raises HarnessError when a member lacks a row."""
    check_table(table)
    x, y, fold = features(table.logits), table.y, table.fold
    fits: dict[tuple[frozenset[int], float], Linear] = {}

    def without(left_out: frozenset[int], strength: float) -> Linear:
        if (left_out, strength) not in fits:
            rows = rows_without(table, left_out)
            fits[left_out, strength] = fit_logistic(x[rows], y[rows], table.classes, strength)
        return fits[left_out, strength]

    def loss(left_out: frozenset[int], strength: float) -> float:
        """Of the rows that are not left out, each fold of them by a fit that saw neither it nor the left-out ones."""
        rest = sorted(set(fold.tolist()) - left_out)
        return sum(_log_loss(without(left_out | {j}, strength).predict(x[fold == j]), y[fold == j]) for j in rest)

    def learn(left_out: frozenset[int]) -> StackingModel:
        several = len(set(fold.tolist()) - left_out) > 1
        strength = _first_minimum(lambda s: loss(left_out, s)) if several else FALLBACK
        return StackingModel(without(left_out, strength), strength)

    return learn


def fit(table: OofTable, embed: Embed | None = None, seed: int = 0, progress: Progress | None = None) -> Fitted:
    """Raises HarnessError when a member lacks a row."""
    return cross_fit(learner(table, seed), "stacking", table, progress)


def load(files: Mapping[str, bytes]) -> StackingModel:
    arrays = unpack(files["stacking.npz"], "stacking.npz")
    weights, bias = arrays["weights"].astype(np.float64), arrays["bias"].astype(np.float64)
    return StackingModel(Linear(weights, bias), float(arrays["strength"].astype(np.float64)))


def _first_minimum(loss: Callable[[float], float]) -> float:
    """The strength, from the strongest penalty on, from which the loss first stops falling; weaker ones, which are
    the slow ones, are not tried."""
    lowest = loss(STRENGTHS[0])
    for strength, weaker in pairwise(STRENGTHS):
        found = loss(weaker)
        if found >= lowest:
            return strength
        lowest = found
    return STRENGTHS[-1]


def _log_loss(p: NDArray[np.float64], y: NDArray[np.int64]) -> float:
    """Summed; a class that was absent from the fit costs much, not infinitely much."""
    return float(-np.log(np.clip(p[np.arange(len(y)), y], 1e-7, 1.0)).sum())
