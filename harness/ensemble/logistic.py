"""L2-regularised logistic regression as plain arrays: the heads of bagging and the meta-learner of stacking.

scikit-learn fits; what is kept is one matrix and one vector, so that predicting and storing need neither
scikit-learn nor pickle. Classes absent from the fitted rows get probability 0.
"""

import warnings
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from threadpoolctl import ThreadpoolController

from harness.metrics import softmax


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
