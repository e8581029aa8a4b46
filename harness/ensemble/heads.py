"""Logistic heads on embeddings, one fit per encoder, and their mean.

L2-regularised logistic regression as plain arrays: the heads of bagging and the meta-learner of stacking.

scikit-learn fits; what is kept is one matrix and one vector, so that predicting and storing need neither
scikit-learn nor pickle. Classes absent from the fitted rows get probability 0.

Methods that fit something of their own to every encoder: who is fitted on what, and how encoders are put together.

Encoder (m, k), fold model k of member m, has an embedding space of its own, so each gets a fit of its own (honesty
rule 5): on the embeddings of the rows that the encoder trained on (folds other than k), scored on the held-out fold k,
applied to new rows. Neither encoder nor fit saw fold k. Probabilities are averaged over encoders.

Nothing is chosen on the rows that are scored: from its held-out embedding a row is only ever predicted by fits without
it, so what the final model says of development rows is the out-of-fold prediction itself. Knows arrays only.
"""

import os
import warnings
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from threadpoolctl import ThreadpoolController

from harness.ensemble.oof import Embed, OofTable, check_probabilities, check_table
from harness.errors import HarnessError
from harness.metrics import softmax
from harness.seeds import derive_seed
from harness.types import Progress, silent


@dataclass(frozen=True)
class Linear:
    weights: NDArray[np.float64]
    """(F, C) on the raw features: the standardisation is folded in"""
    bias: NDArray[np.float64]
    """(C,); -inf for a class that was absent"""

    def predict(self, x: NDArray[np.floating]) -> NDArray[np.float64]:
        """(n, F) -> (n, C) probabilities."""
        return softmax(x.astype(np.float64) @ self.weights + self.bias)


@cache
def _libraries() -> ThreadpoolController:
    """One thread for matrices this small: several gain nothing, and wait for each other on a busy machine (two of ten
    encoders' heads in 211 s, against all ten in 43 s with one thread on a quiet one). The number of threads cannot
    change a last digit then, either."""
    return ThreadpoolController()


def fit_logistic(
    x: NDArray[np.floating],
    y: NDArray[np.int64],
    classes: int,
    strength: float,
    weight: NDArray[np.float64] | None = None,
) -> Linear:
    """Fit on features x (n, F), labels y (n,) in 0..classes-1, row weights (n,).

    Minimises |w|^2 / 2 + strength * sum of weighted log-losses over features standardised with the (weighted) mean
    and deviation of these very rows; the intercept is free. With one class only there is nothing to separate: the
    result is constant, the class shares with one pseudo-count per class (Laplace), so that no row gets a flat 0 or 1.
    """
    w = np.ones(len(y)) if weight is None else weight
    x = x.astype(np.float64)
    present = np.unique(y)
    if len(present) < 2:
        share = (np.bincount(y, weights=w, minlength=classes) + 1.0) / (w.sum() + classes)
        return Linear(np.zeros((x.shape[1], classes)), np.log(share))
    mean = np.average(x, axis=0, weights=w)
    deviation = np.sqrt(np.average((x - mean) ** 2, axis=0, weights=w))
    # a feature that does not vary here says nothing, and dividing by its rounding error would make noise of it
    useful = deviation > 1e-6 * np.maximum(np.abs(mean), 1e-6)
    scale = np.where(useful, deviation, np.inf)
    z = (x - mean) / scale
    binary_and_small = len(present) == 2 and x.shape[1] <= 128
    model = LogisticRegression(
        C=strength, solver="newton-cholesky" if binary_and_small else "lbfgs", tol=1e-6, max_iter=1000
    )
    with warnings.catch_warnings(), _libraries().limit(limits=1):
        # the objective is strictly convex: stopping a hair before the optimum moves no third digit
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(z, y, sample_weight=w)
    coefficients, intercept = model.coef_, model.intercept_
    if len(present) == 2:  # scikit-learn keeps the log-odds only
        coefficients = np.vstack([np.zeros_like(coefficients[0]), coefficients[0]])
        intercept = np.array([0.0, intercept[0]])
    weights = np.zeros((x.shape[1], classes))
    bias = np.full(classes, -np.inf)
    weights[:, present] = (coefficients / scale).T
    bias[present] = intercept - mean @ weights[:, present]
    return Linear(weights, bias)


class OfEncoder(Protocol):
    """What is fitted to one encoder."""

    def predict(self, x: NDArray[np.float32]) -> NDArray[np.float64]:
        """(n, D) embeddings -> (n, C) probabilities."""
        ...


One = TypeVar("One", bound=OfEncoder)
FitOne = Callable[[NDArray[np.float32], NDArray[np.int64], NDArray[np.str_], int], One]
"""fit(x (n, D), y (n,), groups (n,), seed)"""


def require_embeddings(embed: Embed | None, what: str) -> Embed:
    """Raises HarnessError where there are none."""
    if embed is None:
        raise HarnessError(f"{what} works on embeddings, and none were given.")
    return embed


def fit_encoders(
    fit_one: FitOne[One],
    what: str,
    table: OofTable,
    embed: Embed | None,
    seed: int,
    progress: Progress | None = None,
    jobs: int = 8,
) -> tuple[dict[tuple[int, int], One], NDArray[np.float64]]:
    """One fit for every encoder (m, k), and the (N, C) out-of-fold probabilities, averaged over members.

    embed(m, k) gives the (N, D) embeddings of the development rows by encoder (m, k). The seed of a fit is made of
    the encoder's name. At most `jobs` fits at a time. Raises HarnessError when a member lacks a row or an embedding is
    not finite.
    """
    check_table(table)
    given = require_embeddings(embed, what)
    report = progress or silent
    encoders = [(m, k) for m in range(table.members) for k in range(table.k) if (table.fold == k).any()]

    def one(encoder: tuple[int, int]) -> tuple[One, NDArray[np.float64]]:
        m, k = encoder
        x, name = given(m, k), table.encoder_ids[m][k]
        if not np.isfinite(x).all():
            raise HarnessError(f"the embeddings of {name} are not finite. Leave that trial out.")
        train = table.fold != k
        fitted = fit_one(x[train], table.y[train], table.groups[train], derive_seed(seed, what, name))
        return fitted, fitted.predict(x[~train])

    found: dict[tuple[int, int], One] = {}
    oof = np.zeros((len(table.y), table.classes))
    # the libraries let go of the interpreter while they work, so threads share the machine without copying embeddings
    pool = ThreadPoolExecutor(min(len(encoders), os.cpu_count() or 1, jobs))
    try:
        for done, (encoder, (fitted, p)) in enumerate(zip(encoders, pool.map(one, encoders), strict=True), start=1):
            found[encoder] = fitted
            oof[table.fold == encoder[1]] += p
            report(what, done, len(encoders))
    finally:
        pool.shutdown(cancel_futures=True)  # on Ctrl-C only the fits underway are waited for
    return found, check_probabilities(oof / table.members, f"{what}, out of fold")


def mean_of_encoders(
    fitted: Mapping[tuple[int, int], OfEncoder], shape: tuple[int, ...], embed: Embed | None, what: str
) -> NDArray[np.float64]:
    """Of new rows, whose embeddings embed(m, k) gives; shape is (n, C)."""
    given = require_embeddings(embed, what)
    total = np.zeros(shape)
    for m, k in sorted(fitted):
        total += fitted[m, k].predict(given(m, k))
    return total / len(fitted)
