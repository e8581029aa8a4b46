"""Greedy selection of members with replacement: how often a member was taken is its weight.

Starting from the best few by themselves, the member whose addition lowers the log-loss of the mean most is taken, again
and again, the same one several times if it helps; the best point on that way is kept. Selecting from many on few rows
over-fits, so it is done on BAGS random halves of the members, and the selections are averaged (bagged selection).
Log-loss, not the study's metric: it moves with every row, where ranking metrics stand still and tie.
Source: Caruana, Niculescu-Mizil, Crew, Ksikes 2004, "Ensemble selection from libraries of models" (sorted start: 2.2;
bagging: 2.3). Knows arrays only.
"""

import numpy as np
from numpy.typing import NDArray

from harness.ensemble import weights
from harness.ensemble.cross_fit import Learn, cross_fit
from harness.ensemble.oof import Embed, Fitted, OofTable
from harness.ensemble.weights import load
from harness.seeds import derive_seed
from harness.types import Progress

__all__ = ["fit", "learner", "load"]

BAGS = 10
SHARE = 0.5
"""of the members that each bag may choose from; at least FEW"""
FEW = 4
"""so few members are all in every bag: one bag then says all"""
STEPS = 30
"""members taken at most, in each bag"""
BETTER = 1e-6
"""a fall of the loss that counts; less is rounding in float32's sums"""
PATIENCE = 5
"""takings without a better loss before a bag stops"""


def learner(table: OofTable, seed: int) -> Learn:
    return weights.learner(bagged_selection, table, seed)


def fit(table: OofTable, embed: Embed | None = None, seed: int = 0, progress: Progress | None = None) -> Fitted:
    """Raises HarnessError when a member lacks a row."""
    return cross_fit(learner(table, seed), "greedy", table, progress)


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
    for size in range(started + 1, started + STEPS + 1):
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
