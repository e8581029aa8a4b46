"""The derivative of every metric, against small changes of the weights."""

import numpy as np
import pytest

from harness.metrics import METRICS
from harness.stats.influence import influence


def draw(rng, classes: int, several: bool):
    n = 40
    p = np.round(rng.dirichlet(np.ones(classes), n), 2)  # with ties
    if several:
        return rng.integers(-1, 2, (n, classes)), p
    return np.append(np.arange(classes), rng.integers(0, classes, n - classes)), p


@pytest.mark.parametrize("metric", list(METRICS))
@pytest.mark.parametrize(("classes", "several"), [(2, False), (4, False), (3, True)])
def test_it_is_the_derivative_of_the_metric(metric, classes, several):
    y, p = draw(np.random.default_rng(classes), classes, several)
    value, moved = influence(metric, y, p)
    of, step = METRICS[metric].of, 1e-6
    around = of(y, p, 1 + step * np.concatenate([np.eye(len(y)), -np.eye(len(y))]))
    assert value == pytest.approx(of(y, p, None)[0], abs=1e-12)
    np.testing.assert_allclose(moved, (around[: len(y)] - around[len(y) :]) / (2 * step), atol=1e-8)
    assert moved.sum() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("metric", ["auroc", "auprc", "balanced_accuracy"])
def test_undefined_is_nan(metric):
    value, moved = influence(metric, np.zeros(5, np.int64), np.full((5, 2), 0.5))
    assert np.isnan(value) and np.isnan(moved).all()
