"""Stacking: a regularised multinomial logistic regression on the members' out-of-fold log-probabilities.

Features of a row are, for two classes, each member's log-odds (M of them); for more, each member's log-probabilities
centred over the classes (M x C), so that no class plays the reference and the penalty treats all alike. They are cut
off at +-15: an overconfident network has one vote, not an infinite one.

Leak-free scores by cross-fitting over the study's own folds: rows of fold k are predicted by a meta-learner fitted on
the other folds' rows. The strength of its penalty is chosen by log-loss on those other folds alone, each left out in
turn, so groups never straddle fit and choice: from strong to weak, as long as the loss falls. A fit without folds
{j, k} serves both as k's inner fit for j and as j's for k, which halves the work. (As in all stacking over one set of
folds, the networks behind the features of the other folds have trained on fold k; the test split, which no network and
no meta-learner has seen, is the number to report.)

New rows: the meta-learner, refitted on all development rows, was fitted on logits of SINGLE fold models. The mean
over K fold models is less noisy and less spread than one, another distribution than it knows, so it is applied to each
fold index's logits of all members, and the K probabilities are averaged.

Sources: Wolpert 1992; van der Laan, Polley, Hubbard 2007 (super learner). Knows arrays only.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from harness.ensemble.arrays import pack, unpack
from harness.ensemble.logistic import Linear, fit_logistic
from harness.ensemble.oof import Embed, Fitted, OofTable, check_probabilities, check_table, silent
from harness.records import Progress

STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
"""inverse penalties tried; small is strong"""
FALLBACK = 1e-2
"""the strength where two folds leave no third one to choose it on"""
CUT = 15.0


@dataclass(frozen=True)
class StackingModel:
    linear: Linear
    strength: float

    def predict(self, logits: NDArray[np.float32], embed: Embed | None = None) -> NDArray[np.float64]:
        """(M, K, n, C) -> (n, C): one meta-prediction per fold index, averaged."""
        per_fold = [self.linear.predict(features(logits[:, k].swapaxes(0, 1))) for k in range(logits.shape[1])]
        return np.asarray(np.mean(per_fold, axis=0))

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


def fit(table: OofTable, embed: Embed | None = None, seed: int = 0, progress: Progress | None = None) -> Fitted:
    """Nothing is random here: the seed is not used. Raises HarnessError when a member lacks a row."""
    check_table(table)
    report = progress or silent
    x, y, fold, classes = features(table.logits), table.y, table.fold, table.classes
    folds = range(table.k)
    pairs = list(combinations(folds, 2)) if table.k > 2 else []
    total, done = len(STRENGTHS) * (len(pairs) + table.k), 0

    def without(*left_out: int, strength: float) -> Linear:
        nonlocal done
        rows = ~np.isin(fold, left_out)
        done += 1
        report("stacking", min(done, total), total)
        return fit_logistic(x[rows], y[rows], classes, strength)

    # losses[k, s]: log-loss of the folds other than k, each by fits that saw neither it nor k. losses[K, s]: of all
    # folds, each by a fit without it; the refit's strength is chosen by that, which is fair: the refit is scored on
    # the test split only
    losses = np.zeros((table.k + 1, len(STRENGTHS)))
    outer_oof = np.zeros((len(STRENGTHS), len(y), classes))
    for s, strength in enumerate(STRENGTHS):
        for j, k in pairs:
            linear = without(j, k, strength=strength)
            losses[k, s] += _loss(linear, x[fold == j], y[fold == j])
            losses[j, s] += _loss(linear, x[fold == k], y[fold == k])
        for k in folds:
            outer_oof[s][fold == k] = without(k, strength=strength).predict(x[fold == k])
        losses[table.k, s] = _log_loss(outer_oof[s], y)
        if pairs and s and all(_first_minimum(row[: s + 1]) < s for row in losses):
            losses = losses[:, : s + 1]  # every fold has made its choice; weaker penalties are the slow ones
            break
    report("stacking", total, total)
    chosen = [_first_minimum(row) for row in losses] if pairs else [STRENGTHS.index(FALLBACK)] * (table.k + 1)
    oof = np.full((len(y), classes), np.nan)
    for k in folds:
        oof[fold == k] = outer_oof[chosen[k]][fold == k]
    strength = STRENGTHS[_first_minimum(losses[table.k])]
    linear = fit_logistic(x, y, classes, strength)
    check_probabilities(oof, "stacking, out of fold")
    return Fitted(StackingModel(linear, strength), oof, linear.predict(x))


def load(files: Mapping[str, bytes]) -> StackingModel:
    arrays = unpack(files["stacking.npz"], "stacking.npz")
    weights, bias = arrays["weights"].astype(np.float64), arrays["bias"].astype(np.float64)
    return StackingModel(Linear(weights, bias), float(arrays["strength"].astype(np.float64)))


def _first_minimum(losses: NDArray[np.float64]) -> int:
    """Where the losses, from the strongest penalty on, first stop falling."""
    rising = np.flatnonzero(np.diff(losses) >= 0)
    return int(rising[0]) if len(rising) else len(losses) - 1


def _loss(linear: Linear, x: NDArray[np.float64], y: NDArray[np.int64]) -> float:
    return _log_loss(linear.predict(x), y) if len(y) else 0.0


def _log_loss(p: NDArray[np.float64], y: NDArray[np.int64]) -> float:
    """Summed; a class that was absent from the fit costs much, not infinitely much."""
    return float(-np.log(np.clip(p[np.arange(len(y)), y], 1e-7, 1.0)).sum())
