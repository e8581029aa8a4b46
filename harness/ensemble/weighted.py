"""The weighted mean of members: the weights that make the held-out labels most likely.

The log-likelihood of a mixture with fixed components is concave in its weights, so there is one best answer, and EM
(Dempster, Laird, Rubin 1977) climbs to it without a step size: a member's new weight is the mean share that it has in
the rows' probabilities. A Dirichlet prior of PRIOR pseudo-rows, spread evenly, keeps small sets from a verdict that
their noise made: with few rows the weights stay near the mean, with many the prior is forgotten.
Source: stacking of predictive distributions (Yao, Vehtari, Simpson, Gelman 2018), with that prior. Knows arrays only.
"""

import numpy as np
from numpy.typing import NDArray

from harness.ensemble import weights
from harness.ensemble.cross_fit import Learn, cross_fit
from harness.ensemble.oof import Embed, Fitted, OofTable
from harness.ensemble.weights import load
from harness.types import Progress

__all__ = ["fit", "learner", "load"]

PRIOR = 20.0
"""pseudo-rows that speak for equal weights"""
STEPS = 500
ENOUGH = 1e-6
"""a step that moves no weight by more than this is the last"""


def learner(table: OofTable, seed: int) -> Learn:
    """Nothing is random here: the seed is not used."""
    return weights.learner(lambda q, order, _: most_likely(q), table, seed)


def fit(table: OofTable, embed: Embed | None = None, seed: int = 0, progress: Progress | None = None) -> Fitted:
    """Raises HarnessError when a member lacks a row."""
    return cross_fit(learner(table, seed), "weighted", table, progress)


def most_likely(q: NDArray[np.floating], prior: float = PRIOR) -> NDArray[np.float64]:
    """(M,) weights, of sum 1, that maximise sum_n log(q w) + prior/M sum_m log w_m, for q (n, M), each member's
    probability of the true class."""
    n, members = q.shape
    wide = np.maximum(q.astype(np.float64), 1e-7)
    w = np.full(members, 1.0 / members)
    for _ in range(STEPS):
        shares = (wide.T @ (1.0 / (wide @ w))) * w
        new = (shares + prior / members) / (n + prior)
        moved = float(np.abs(new - w).max())
        w = new
        if moved < ENOUGH:
            break
    return np.asarray(w / w.sum())
