"""Averages of members: mean, weighted mean, greedy selection.

The simple mean of the members' probabilities: always computed, and what every other method has to beat.

A member's probability is itself the mean over its K fold models, so the mean of members is the mean over all
K x M fold models: every network has the same say. Nothing is fitted, so nothing can leak: the out-of-fold
probability of a row is the mean over members of the one fold model's that never saw the row's group.
Source: the linear opinion pool (Stone 1961); deep ensembles (Lakshminarayanan et al. 2017).

The weighted mean of members: the weights that make the held-out labels most likely.

The log-likelihood of a mixture with fixed components is concave in its weights, so there is one best answer, and EM
(Dempster, Laird, Rubin 1977) climbs to it without a step size: a member's new weight is the mean share that it has in
the rows' probabilities. A Dirichlet prior of PRIOR pseudo-rows, spread evenly, keeps small sets from a verdict that
their noise made: with few rows the weights stay near the mean, with many the prior is forgotten.
Source: stacking of predictive distributions (Yao, Vehtari, Simpson, Gelman 2018), with that prior. Knows arrays only.

Greedy selection of members with replacement: how often a member was taken is its weight.

Starting from the best few by themselves, the member whose addition lowers the log-loss of the mean most is taken, again
and again, the same one several times if it helps; the best point on that way is kept. Selecting from many on few rows
over-fits, so it is done on BAGS random halves of the members, and the selections are averaged (bagged selection).
Log-loss, not the study's metric: it moves with every row, where ranking metrics stand still and tie.
Source: Caruana, Niculescu-Mizil, Crew, Ksikes 2004, "Ensemble selection from libraries of models" (sorted start: 2.2;
bagging: 2.3). Knows arrays only.

Ensembles that are one weight per member: how they are kept and applied. `weighted` and `greedy` choose the weights.

The probability of a row is the weighted mean of the members' (the linear opinion pool, Stone 1961). Weights are
numbers of members, not of fold models, so they are as good for a member's mean over its K fold models as for one.
Choosing is a fit: it is cross-fitted like every other (oof.py). Knows arrays only.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from harness.ensemble.oof import (
    Embed,
    Fitted,
    Learn,
    OofTable,
    check_table,
    cross_fit,
    mean_oof,
    mean_predict,
    over_folds,
    rows_without,
    single_oof,
)
from harness.errors import RequestError
from harness.metrics import softmax
from harness.seeds import derive_seed
from harness.store.arrays import pack, unpack
from harness.types import Progress


@dataclass(frozen=True)
class MeanModel:
    def predict(self, logits: NDArray[np.float32], embed: Embed | None = None) -> NDArray[np.float64]:
        return mean_predict(logits)

    def files(self) -> dict[str, bytes]:
        return {}


def fit_mean(table: OofTable, embed: Embed | None = None, seed: int = 0, progress: Progress | None = None) -> Fitted:
    """Raises HarnessError when a member lacks a row."""
    check_table(table)
    oof = mean_oof(table)
    return Fitted(MeanModel(), oof, oof)


def load_mean(files: Mapping[str, bytes]) -> MeanModel:
    return MeanModel()


PRIOR = 20.0
"""pseudo-rows that speak for equal weights"""
EM_STEPS = 500
ENOUGH = 1e-6
"""a step that moves no weight by more than this is the last"""


def weighted_learner(table: OofTable, seed: int) -> Learn:
    """Nothing is random here: the seed is not used."""
    return weights_learner(lambda q, order, _: most_likely(q), table, seed)


def fit_weighted(
    table: OofTable, embed: Embed | None = None, seed: int = 0, progress: Progress | None = None
) -> Fitted:
    """Raises HarnessError when a member lacks a row."""
    return cross_fit(weighted_learner(table, seed), "weighted", table, progress)


def most_likely(q: NDArray[np.floating], prior: float = PRIOR) -> NDArray[np.float64]:
    """(M,) weights, of sum 1, that maximise sum_n log(q w) + prior/M sum_m log w_m, for q (n, M), each member's
    probability of the true class."""
    n, members = q.shape
    wide = np.maximum(q.astype(np.float64), 1e-7)
    w = np.full(members, 1.0 / members)
    for _ in range(EM_STEPS):
        shares = (wide.T @ (1.0 / (wide @ w))) * w
        new = (shares + prior / members) / (n + prior)
        moved = float(np.abs(new - w).max())
        w = new
        if moved < ENOUGH:
            break
    return np.asarray(w / w.sum())


BAGS = 10
SHARE = 0.5
"""of the members that each bag may choose from; at least FEW"""
FEW = 4
"""so few members are all in every bag: one bag then says all"""
GREEDY_STEPS = 30
"""members taken at most, in each bag"""
BETTER = 1e-6
"""a fall of the loss that counts; less is rounding in float32's sums"""
PATIENCE = 5
"""takings without a better loss before a bag stops"""


def greedy_learner(table: OofTable, seed: int) -> Learn:
    return weights_learner(bagged_selection, table, seed)


def fit_greedy(table: OofTable, embed: Embed | None = None, seed: int = 0, progress: Progress | None = None) -> Fitted:
    """Raises HarnessError when a member lacks a row."""
    return cross_fit(greedy_learner(table, seed), "greedy", table, progress)


def bagged_selection(q: NDArray[np.float32], order: NDArray[np.int64], seed: int) -> NDArray[np.float64]:
    """(M,) weights of sum 1: the mean over bags of the shares with which members were selected. q (n, M)."""
    members = q.shape[1]
    ordered = np.maximum(q[:, order], np.float32(1e-7))
    size = max(FEW, int(np.ceil(SHARE * members)))
    rng = np.random.default_rng(derive_seed(seed, "greedy"))
    shares = np.zeros(members)
    bags = [np.arange(members)] if size >= members else [np.sort(rng.permutation(members)[:size]) for _ in range(BAGS)]
    for bag in bags:
        counts = select(ordered[:, bag])
        shares[bag] += counts / counts.sum()
    out = np.empty(members)
    out[order] = shares / shares.sum()
    return out


def select(q: NDArray[np.floating]) -> NDArray[np.int64]:
    """(M,) how often each of M members was taken. q (n, M): each one's probability of the true class.

    The sorted start takes members from the best on, as many as lower the loss of their mean most.
    """
    columns = np.ascontiguousarray(q.T, dtype=np.float32)  # (M, n)
    own = -np.log(columns).mean(axis=1, dtype=np.float64)
    best_first = np.argsort(own, kind="stable")
    sums = np.cumsum(columns[best_first], axis=0)
    taken = np.arange(1, len(columns) + 1)
    losses = np.log(taken) - np.log(sums).mean(axis=1, dtype=np.float64)
    started = int(losses.argmin()) + 1
    counts = np.zeros(len(columns), dtype=np.int64)
    counts[best_first[:started]] = 1
    total, lowest, kept, idle = sums[started - 1].copy(), float(losses[started - 1]), counts.copy(), 0
    for size in range(started + 1, started + GREEDY_STEPS + 1):
        with_each = np.log(size) - np.log(total + columns).mean(axis=1, dtype=np.float64)
        member = int(with_each.argmin())
        counts[member] += 1
        total += columns[member]
        if with_each[member] < lowest - BETTER:
            lowest, kept, idle = float(with_each[member]), counts.copy(), 0
        else:
            idle += 1
            if idle >= PATIENCE:
                break
    return kept


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


def weights_learner(choose: Choose, table: OofTable, seed: int) -> Learn:
    """Raises HarnessError when a member lacks a row."""
    check_table(table)
    q = np.empty((len(table.y), table.members), dtype=np.float32)
    for member in range(table.members):
        q[:, member] = np.take_along_axis(single_oof(table, member), table.y[:, None], axis=1)[:, 0]
    order = np.argsort([ids[0] for ids in table.encoder_ids], kind="stable")
    return lambda left_out: WeightsModel(choose(q[rows_without(table, left_out)], order, seed))


def load_weights(files: Mapping[str, bytes]) -> WeightsModel:
    """Raises RequestError where the weights are none."""
    found = unpack(files["weights.npz"], "weights.npz").get("weights")
    if found is None or found.ndim != 1:
        raise RequestError("weights.npz holds no weights. Build the ensemble again.")
    weights = found.astype(np.float64)
    if not (np.isfinite(weights).all() and (weights >= 0).all() and abs(weights.sum() - 1.0) < 1e-6):
        raise RequestError("weights.npz: the weights of the members are not shares of 1. Build the ensemble again.")
    return WeightsModel(weights)
