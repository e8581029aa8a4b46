"""Fold models on different scales, simulated with the truth known."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.metrics import METRICS, mean_over_folds, sigmoid
from harness.stats.fold_scale import _mean_over, scale_gap, scales_disagree

K = 5


def drawn(rng, patients=200, images=2, shift=0.0, signal=1.5):
    """(y, p, groups, fold): correlated images of a patient, whole patients in a fold; `shift`: SD of the offsets."""
    y_patient = rng.permutation(np.arange(patients) % 2)
    of_row = np.repeat(np.arange(patients), images)
    y = y_patient[of_row]
    fold_of = np.empty(patients, dtype=np.int64)
    for c in (0, 1):
        own = rng.permutation(np.flatnonzero(y_patient == c))
        fold_of[own] = np.arange(len(own)) % K
    fold = fold_of[of_row]
    noise = np.sqrt(0.5) * (rng.normal(size=patients)[of_row] + rng.normal(size=len(of_row)))
    score = signal * y + noise + shift * rng.normal(size=K)[fold]
    p = sigmoid(score)
    return y, np.column_stack([1 - p, p]), np.array([f"g{i}" for i in of_row]), fold


def share(shift, repeats, **more):
    rng = np.random.default_rng(0)
    return np.mean([scales_disagree(*drawn(rng, shift=shift, **more), 0) for _ in range(repeats)])


def test_equal_scales_are_seldom_called_different_and_offsets_of_one_sd_are_noticed():
    # one-sided at two standard deviations: 2.3% nominal; three Monte-Carlo errors of 100 draws above
    assert share(0.0, 100) <= 0.023 + 3 * np.sqrt(0.023 * 0.977 / 100)
    assert share(1.0, 40) >= 0.9


def test_the_standard_error_is_that_of_repeated_draws():
    rng = np.random.default_rng(1)
    found = np.array([scale_gap(*drawn(rng, patients=60), 0) for _ in range(100)])
    assert abs(found[:, 0].mean()) < 4 * found[:, 0].std() / 10
    assert found[:, 1].mean() == pytest.approx(found[:, 0].std(), rel=0.3)  # four Monte-Carlo errors of the latter


def test_the_gap_is_that_of_the_metrics():
    rng = np.random.default_rng(2)
    y, p, groups, fold = drawn(rng, shift=1.0)
    assert scale_gap(y, p, groups, fold, 0)[0] == pytest.approx(
        mean_over_folds("auroc", y, p, fold)[0] - METRICS["auroc"].of(y, p, None)[0]
    )
    y3, p3 = rng.integers(0, 3, 300), rng.dirichlet(np.ones(3), 300)
    names, k = np.arange(300).astype(np.str_), np.arange(300) % 3
    wanted = mean_over_folds("auroc", y3, p3, k)[0] - METRICS["auroc"].of(y3, p3, None)[0]
    assert scale_gap(y3, p3, names, k, 0)[0] == pytest.approx(wanted)
    several = rng.integers(-1, 2, (300, 3))
    wanted = mean_over_folds("auroc", several, p3, k)[0] - METRICS["auroc"].of(several, p3, None)[0]
    assert scale_gap(several, p3, names, k, 0)[0] == pytest.approx(wanted)


def test_permuted_values_are_those_of_the_metric_ties_included():
    rng = np.random.default_rng(3)
    positive, score = rng.random(80) < 0.4, rng.integers(0, 9, 80) / 8
    fold = rng.integers(0, 3, (5, 80))
    p = np.column_stack([1 - score, score])
    wanted = [mean_over_folds("auroc", positive.astype(np.int64), p, one)[0] for one in fold]
    np.testing.assert_allclose(_mean_over(fold, positive, score), wanted)


def test_what_is_not_defined_is_no_disagreement():
    y, p = np.array([0, 1, 0, 0]), np.array([[0.9, 0.1], [0.1, 0.9], [0.8, 0.2], [0.7, 0.3]])
    names, fold = np.array(list("abcd")), np.array([0, 0, 1, 1])
    assert np.isnan(scale_gap(y, p, names, fold, 0)).all() and not scales_disagree(y, p, names, fold, 0)
    assert not scales_disagree(y[:0], p[:0], names[:0], fold[:0], 0)


@settings(deadline=None, max_examples=20)
@given(st.lists(st.floats(-3, 3), min_size=K, max_size=K), st.integers(0, 2**31))
def test_a_constant_that_a_fold_model_adds_changes_no_mean_over_folds(offsets, seed):
    y, p, _, fold = drawn(np.random.default_rng(seed), patients=60)
    logit = np.log(p[:, 1] / p[:, 0]) + np.array(offsets)[fold]
    moved = np.column_stack([1 - sigmoid(logit), sigmoid(logit)])
    for metric in ("auroc", "auprc"):
        assert mean_over_folds(metric, y, moved, fold)[0] == pytest.approx(mean_over_folds(metric, y, p, fold)[0])
