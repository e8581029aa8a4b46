"""Every metric against scikit-learn under row weights, with ties and with classes that are absent."""

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as reference

from harness.metrics import METRICS, UNKNOWN, mean_over_folds, score, sigmoid, softmax


def draw_case(seed: int, classes: int, tied: bool, n: int = 60):
    """Labels with every class, probabilities (on a coarse grid when tied), and weights with zeros."""
    rng = np.random.default_rng(seed)
    y = np.concatenate([np.arange(classes), rng.integers(0, classes, n - classes)])
    p = rng.integers(1, 5, (n, classes)).astype(float) if tied else rng.random((n, classes))
    p[np.arange(n), y] += 0.3
    p /= p.sum(axis=1, keepdims=True)
    w = rng.integers(0, 4, (5, n)).astype(float)
    w[:, :classes] += 1.0
    w[0] *= rng.random(n) + 0.1
    return y, p, w


def expected(name: str, y, p, w) -> float:
    one_hot = np.eye(p.shape[1])[y]
    columns = [1] if p.shape[1] == 2 else range(p.shape[1])
    match name:
        case "auroc":
            return np.mean([reference.roc_auc_score(one_hot[:, c], p[:, c], sample_weight=w) for c in columns])
        case "auprc":
            return np.mean(
                [reference.average_precision_score(one_hot[:, c], p[:, c], sample_weight=w) for c in columns]
            )
        case "accuracy":
            return reference.accuracy_score(y, p.argmax(axis=1), sample_weight=w)
        case "balanced_accuracy":
            return reference.balanced_accuracy_score(y, p.argmax(axis=1), sample_weight=w)
        case "log_loss":
            return reference.log_loss(y, p, sample_weight=w)
        case _:
            if p.shape[1] == 2:
                return reference.brier_score_loss(y, p[:, 1], sample_weight=w)
            return np.average(((p - one_hot) ** 2).sum(axis=1), weights=w)


@pytest.mark.parametrize("name", list(METRICS))
@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), classes=st.sampled_from([2, 3, 5]), tied=st.booleans())
def test_every_weighting_agrees_with_scikit_learn(name, seed, classes, tied):
    y, p, w = draw_case(seed, classes, tied)
    got = METRICS[name].of(y, p, w)
    assert got.shape == (5,)
    np.testing.assert_allclose(got, [expected(name, y, p, row) for row in w], rtol=1e-9)
    np.testing.assert_allclose(METRICS[name].of(y, p, None), [expected(name, y, p, np.ones(len(y)))], rtol=1e-9)


@pytest.mark.parametrize("name", list(METRICS))
def test_a_weight_of_two_is_the_row_twice(name):
    y, p, _ = draw_case(3, 3, tied=True)
    counts = np.random.default_rng(0).integers(0, 3, len(y))
    rows = np.repeat(np.arange(len(y)), counts)
    np.testing.assert_allclose(
        METRICS[name].of(y, p, counts[None].astype(float)), METRICS[name].of(y[rows], p[rows], None), rtol=1e-12
    )


def test_all_scores_equal_is_chance():
    y, p = np.array([0, 1, 1, 0, 1]), np.full((5, 2), 0.5)
    assert score(y, p)["auroc"] == 0.5
    assert score(y, p)["auprc"] == pytest.approx(0.6)


@pytest.mark.parametrize("only", [0, 1])
def test_one_class_only_is_nan_and_silent(only):
    p = np.array([[0.2, 0.8], [0.6, 0.4]])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        got = score(np.array([only, only]), p)
    assert np.isnan([got["auroc"], got["auprc"], got["balanced_accuracy"]]).all()
    assert got["accuracy"] == 0.5
    assert np.isfinite([got["log_loss"], got["brier"]]).all()


def test_a_class_absent_in_one_replicate_is_nan_there_alone():
    y, p, w = draw_case(1, 3, tied=False)
    w[2, y == 2] = 0.0
    for name in ("auroc", "auprc", "balanced_accuracy"):
        assert np.isnan(METRICS[name].of(y, p, w)).tolist() == [False, False, True, False, False]


@pytest.mark.parametrize("name", list(METRICS))
def test_no_rows_no_weight_and_missing_predictions_are_nan(name):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.isnan(METRICS[name].of(np.zeros(0, np.int64), np.zeros((0, 2)), None)).all()
        y, p, w = draw_case(2, 2, tied=False)
        assert np.isnan(METRICS[name].of(y, p, np.zeros_like(w))).all()
        p[7] = np.nan
        assert np.isnan(METRICS[name].of(y, p, w)).all()


def test_certain_and_wrong_is_finite():
    assert score(np.array([0, 1]), np.array([[0.0, 1.0], [0.0, 1.0]]))["log_loss"] == pytest.approx(
        reference.log_loss([0, 1], [[0.0, 1.0], [0.0, 1.0]])
    )


def test_softmax_is_stable_and_sums_to_one():
    logits = np.array([[1000.0, 0.0], [-1000.0, -1001.0], [0.0, 0.0]])
    p = softmax(logits)
    assert p.dtype == np.float64
    np.testing.assert_allclose(p.sum(axis=1), 1.0)
    np.testing.assert_allclose(p[:, 0], [1.0, 1.0 / (1.0 + np.exp(-1.0)), 0.5])


def test_shapes_that_do_not_fit_raise():
    with pytest.raises(ValueError, match="shapes do not fit"):
        METRICS["brier"].of(np.zeros(3, np.int64), np.ones((4, 2)), None)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), name=st.sampled_from(sorted(METRICS)))
def test_several_labels_are_the_mean_of_single_ones_where_known(seed: int, name: str) -> None:
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 2, (40, 3))
    y[:2] = [[0, 0, 0], [1, 1, 1]]
    y[2:][rng.random((38, 3)) < 0.3] = UNKNOWN
    p = rng.random((40, 3))
    w = rng.integers(1, 4, (5, 40)).astype(float)
    single = []
    for c in range(3):
        known = y[:, c] != UNKNOWN
        two = np.column_stack([1 - p[known, c], p[known, c]])
        single.append([expected(name, y[known, c], two, weights[known]) for weights in w])
    np.testing.assert_allclose(METRICS[name].of(y, p, w), np.mean(single, axis=0), atol=1e-12)


def test_a_label_with_one_answer_leaves_ranking_undefined() -> None:
    y, p = np.array([[0, 1], [1, 1], [0, UNKNOWN]]), np.full((3, 2), 0.5)
    assert np.isnan(score(y, p)["auroc"]) and score(y, p)["brier"] == pytest.approx(0.25)


def test_sigmoid_is_the_softmax_of_two() -> None:
    z = np.array([-800.0, -3.0, 0.0, 2.5, 800.0])
    both = softmax(np.stack([np.zeros_like(z), z], axis=1))[:, 1]
    np.testing.assert_allclose(sigmoid(z), both, rtol=1e-12, atol=1e-300)


def test_mean_over_folds_ignores_a_shift_between_fold_models() -> None:
    rng = np.random.default_rng(0)
    y, fold = np.tile([0, 1], 50), np.repeat(np.arange(5), 20)
    logit = rng.normal(size=100) + y
    plain, shifted = (sigmoid(np.column_stack([-z, z])) for z in (logit, logit + 4.0 * fold))
    one = mean_over_folds("auroc", y, plain, fold)
    assert one == pytest.approx(mean_over_folds("auroc", y, shifted, fold), abs=1e-12)
    assert METRICS["auroc"].of(y, shifted, None)[0] < one[0] - 0.1
    assert np.isnan(mean_over_folds("auroc", y, plain, np.where(y == 1, 0, 1))).all()
