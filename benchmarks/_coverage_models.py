"""Predictions whose true scores are known: patients with several images, models that share what is hard about them.

A patient's images share half of the variance of the score. Scores are normal within each class, so the AUROC is known,
and probabilities are the true posterior; its other scores are those of a sample of 400,000 images.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from harness.metrics import METRICS, sigmoid

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
SHARED = 0.5
"""of the variance of a score within its class: the patient's share; and what two models have in common"""
FEWEST = 3
"""patients of each class that a draw has at least"""


@dataclass(frozen=True)
class Cell:
    """A situation to simulate."""

    patients: int
    images: int
    """of each patient; 0: from 1 to 8, at random"""
    prevalence: float
    auroc: float
    by_image: bool = False
    """whether each image has a class of its own"""

    @property
    def rarer(self) -> int:
        """expected patients of the rarer class"""
        if self.by_image:
            return self.patients
        return round(self.patients * min(self.prevalence, 1 - self.prevalence))


@dataclass(frozen=True)
class Drawn:
    y: Ints
    p: tuple[Floats, ...]
    """of each model (N, 2)"""
    groups: NDArray[np.str_]


def draw(rng: np.random.Generator, cell: Cell, aurocs: tuple[float, ...]) -> Drawn:
    """One sample of patients, and models of the given AUROC that find the same images hard in part."""
    sick = rng.random(cell.patients) < cell.prevalence
    while not FEWEST <= sick.sum() <= cell.patients - FEWEST:
        sick = rng.random(cell.patients) < cell.prevalence
    sizes = np.full(cell.patients, cell.images) if cell.images else rng.integers(1, 9, cell.patients)
    of_row = np.repeat(np.arange(cell.patients), sizes)
    y = (rng.random(len(of_row)) < cell.prevalence) if cell.by_image else sick[of_row]

    def noise() -> Floats:
        patient = rng.standard_normal(cell.patients)[of_row]
        return np.asarray(SHARED**0.5 * patient + (1 - SHARED) ** 0.5 * rng.standard_normal(len(of_row)))

    common = noise() if len(aurocs) > 1 else 0.0
    share = SHARED if len(aurocs) > 1 else 0.0
    p = [posterior(y, share**0.5 * common + (1 - share) ** 0.5 * noise(), a, cell.prevalence) for a in aurocs]
    return Drawn(y.astype(np.int64), tuple(p), of_row.astype(np.str_))


def posterior(y: NDArray[np.bool_], noise: Floats, auroc: float, prevalence: float) -> Floats:
    """(N, 2) P(class | score) where scores are N(0, 1) and N(d, 1)."""
    d = 2**0.5 * float(ndtri(auroc))
    yes = sigmoid(d * (d * y + noise) - d * d / 2 + np.log(prevalence / (1 - prevalence)))
    return np.column_stack([1 - yes, yes])


@lru_cache(maxsize=64)
def truth(auroc: float, prevalence: float) -> dict[str, float]:
    """Every metric of a model, of all patients there are."""
    rng, n = np.random.default_rng(1), 400_000
    y = np.arange(n) < round(prevalence * n)
    p = posterior(y, rng.standard_normal(n), auroc, prevalence)
    return {name: float(metric.of(y.astype(np.int64), p, None)[0]) for name, metric in METRICS.items()}


FOLDS = 5


@dataclass(frozen=True)
class Recipes:
    """Two recipes trained once a fold, on the same patients: equal in truth, for each sees its own features."""

    patients: int
    images: int
    signal: float
    ridge: float
    """1e-4: every training image is memorised"""


def trained(rng: np.random.Generator, cell: Recipes) -> tuple[Drawn, Ints]:
    """Out-of-fold predictions of both recipes, and the fold of each row. Linear learners with four features an image:
    half of the features are common to both."""
    drawn, (fold,) = _trained(rng, cell, 1)
    return drawn, fold


def trained_apart(rng: np.random.Generator, cell: Recipes) -> tuple[Drawn, Ints, Ints]:
    """The same of two recipes that divide the patients differently, with the folds of either."""
    drawn, (of_a, of_b) = _trained(rng, cell, 2)
    return drawn, of_a, of_b


def _trained(rng: np.random.Generator, cell: Recipes, divisions: int) -> tuple[Drawn, list[Ints]]:
    n, d = cell.patients, 4 * cell.patients * cell.images // 3
    sick = rng.permutation(np.arange(n) % 2 == 0)
    of_row = np.repeat(np.arange(n), cell.images)
    folds = []
    for _ in range(divisions):
        fold = np.empty(n, dtype=np.int64)
        for side in (sick, ~sick):
            fold[side] = rng.permutation(np.arange(side.sum()) % FOLDS)
        folds.append(fold[of_row])
    y = sick[of_row]
    kernels = []
    for _ in range(3):
        patient = rng.standard_normal((n, d)) + cell.signal * (2 * sick[:, None] - 1) / (3 * d) ** 0.5
        x = patient[of_row] + 0.5 * rng.standard_normal((len(of_row), d))
        kernels.append(x @ x.T / (3 * d))
    p = tuple(_ridge(kernels[0] + kernels[1 + m], y, folds[m % divisions], cell.ridge) for m in range(2))
    return Drawn(y.astype(np.int64), p, of_row.astype(np.str_)), folds


def _ridge(kernel: Floats, y: NDArray[np.bool_], fold: Ints, ridge: float) -> Floats:
    score, target = np.empty(len(y)), 2.0 * y - 1
    for k in range(FOLDS):
        train, held_out = np.flatnonzero(fold != k), np.flatnonzero(fold == k)
        inside = kernel[np.ix_(train, train)] + ridge * np.eye(len(train))
        score[held_out] = kernel[np.ix_(held_out, train)] @ np.linalg.solve(
            inside, target[train] - target[train].mean()
        )
    yes = sigmoid(3 * score)
    return np.column_stack([1 - yes, yes])
