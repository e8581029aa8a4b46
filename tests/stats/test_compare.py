"""Paired differences say "different" no more often than they claim, and find what is there."""

import math

import numpy as np
import pytest

from harness.errors import RequestError
from harness.metrics import METRICS
from harness.stats.compare import holm, paired_difference


def two_models(seed: int, better: float = 0.0, groups: int = 60, size: int = 3):
    """Two models with the same signal and shared difficulty per group; b gets `better` more signal."""
    rng = np.random.default_rng(seed)
    of_row = np.repeat(np.arange(groups), size)
    y = (of_row % 2).astype(np.int64)
    common = rng.standard_normal(groups)[of_row]

    def model(signal: float):
        own = rng.standard_normal(groups)[of_row]
        p = 1 / (1 + np.exp(-(signal * y + common + own + rng.standard_normal(len(y)))))
        return np.stack([1 - p, p], axis=1)

    return y, model(1.5), model(1.5 + better), of_row.astype(str)


@pytest.mark.parametrize("metric", list(METRICS))
def test_identical_predictions_do_not_differ(metric):
    y, p, _, groups = two_models(0)
    found = paired_difference(metric, y, p, p.copy(), groups, seed=0, reps=100)
    assert (found.value, found.lo, found.hi, found.p) == (0.0, 0.0, 0.0, 1.0)


@pytest.mark.parametrize("metric", ["auroc", "brier"])
def test_the_difference_is_a_minus_b_and_turns_with_the_order(metric):
    y, a, b, groups = two_models(1, better=2.0)
    forward = paired_difference(metric, y, a, b, groups, seed=0, reps=500)
    back = paired_difference(metric, y, b, a, groups, seed=0, reps=500)
    assert forward.value == METRICS[metric].of(y, a, None)[0] - METRICS[metric].of(y, b, None)[0]
    assert forward.lo < forward.value < forward.hi
    assert back.value == -forward.value and back.p == forward.p
    assert back.lo == pytest.approx(-forward.hi) and back.hi == pytest.approx(-forward.lo)


def test_a_real_difference_is_found():
    y, a, b, groups = two_models(2, better=3.0)
    found = paired_difference("auroc", y, a, b, groups, seed=0)
    assert found.hi < 0 and found.p < 0.01
    assert found.p >= 1 / 2001


def test_false_positives_come_as_often_as_stated():
    """Under the null, p < .05 in about 5% of 400 simulations: Monte-Carlo sd .011, so .05 + 3 sd = .083.

    The bootstrap of 60 groups is known to be slightly liberal, which the upper bound allows for.
    """
    ps = [paired_difference("auroc", *two_models(1000 + seed), seed=seed, reps=300).p for seed in range(400)]
    assert 0.02 <= np.mean(np.array(ps) < 0.05) <= 0.09
    # and the p-values spread over the unit interval: the share below one half is .5 +- 3 * .025
    assert 0.42 <= np.mean(np.array(ps) < 0.5) <= 0.58


def test_undefined_is_nan_and_not_significant():
    y, p = np.zeros(8, np.int64), np.full((8, 2), 0.5)
    found = paired_difference("auroc", y, p, p, np.arange(8).astype(str), seed=0, reps=20)
    assert np.isnan([found.value, found.lo, found.hi, found.p]).all()
    y[4:] = 1
    assert math.isnan(paired_difference("auroc", y, p, p, np.full(8, "one"), seed=0, reps=20).p)


def test_an_unknown_metric_is_refused_with_the_nearest():
    y, a, b, groups = two_models(0)
    with pytest.raises(RequestError, match="Did you mean auroc"):
        paired_difference("aurocc", y, a, b, groups, seed=0)


def test_holm_by_hand():
    # sorted .01 .03 .04: times 3, 2, 1 gives .03 .06 .04, and the last may not fall below the one before
    np.testing.assert_allclose(holm(np.array([0.04, 0.01, 0.03])), [0.06, 0.03, 0.06])
    np.testing.assert_allclose(holm(np.array([0.9, 0.8])), [1.0, 1.0])
    np.testing.assert_allclose(holm(np.array([0.02, np.nan, 0.5])), [0.04, np.nan, 0.5])
    assert holm(np.array([])).shape == (0,)
    with pytest.raises(ValueError, match=r"not at 0\.1 or 1\.5"):
        holm(np.array([0.1, 1.5]))
