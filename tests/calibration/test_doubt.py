"""Confidence, disagreement and abstention: by hand, by their laws, and the promised share on rows never seen."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.calibration.maps import answer, fit_calibration
from harness.calibration.uncertainty import (
    abstains,
    confidence,
    coverage_curve,
    describe_doubt,
    disagreement,
    least_confidence,
)
from harness.metrics import sigmoid


def test_disagreement_by_hand():
    one, other = np.array([[0.9, 0.1]]), np.array([[0.1, 0.9]])
    apart = np.log(2) + (0.9 * np.log(0.9) + 0.1 * np.log(0.1))
    np.testing.assert_allclose(disagreement([one, other], False), [apart / np.log(2)])
    np.testing.assert_allclose(disagreement([one, one, one], False), [0.0], atol=1e-12)
    sure = [np.eye(3)[[0]], np.eye(3)[[1]], np.eye(3)[[2]]]
    np.testing.assert_allclose(disagreement(sure, False), [1.0])
    np.testing.assert_allclose(disagreement(sure[:2], False), [1.0])  # two networks can be one bit apart, no more
    assert np.isnan(disagreement([one], False)).all()


def test_disagreement_of_labels_is_the_mean_over_them():
    a, b = np.array([[1.0, 0.3]]), np.array([[0.0, 0.3]])
    np.testing.assert_allclose(disagreement([a, b], True), [0.5])
    np.testing.assert_allclose(confidence(a, True), [0.7])
    np.testing.assert_allclose(confidence(np.array([[0.2, 0.5, 0.3]]), False), [0.5])


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 6), st.integers(2, 5), st.integers(0, 10_000))
def test_disagreement_is_a_share_and_knows_no_order(members, classes, seed):
    rng = np.random.default_rng(seed)
    p = [rng.dirichlet(np.full(classes, 0.3), 20) for _ in range(members)]
    found = disagreement(p, False)
    assert ((found >= 0) & (found <= 1)).all()
    np.testing.assert_allclose(found, disagreement(p[::-1], False), atol=1e-12)


def rows(n, seed, sharp=3.0):
    """Probabilities that are true, their labels, and percentiles of their distances."""
    rng = np.random.default_rng(seed)
    p1 = 1 / (1 + np.exp(-sharp * rng.normal(size=n)))
    return np.column_stack([1 - p1, p1]), (rng.random(n) < p1).astype(np.int64), rng.random(n)


@pytest.mark.parametrize("share", [0.0, 0.02, 0.05, 0.2, 1.0])
@pytest.mark.parametrize("with_reference", [True, False])
def test_the_promised_share_is_left_of_rows_never_seen(share, with_reference):
    left = []
    for seed in range(0, 20, 2):
        p, _, percentile = rows(2000, seed)
        about = describe_doubt(confidence(p, False), percentile if with_reference else None)
        new, _, far = rows(5000, seed + 1)
        left.append(abstains(confidence(new, False), far if with_reference else None, about, share).mean())
    foreign = 0.01 if with_reference else 0.0
    assert np.mean(left) == pytest.approx(max(share, foreign), abs=0.008)


def test_answering_less_is_answering_better():
    p, y, percentile = rows(4000, 0)
    curve = coverage_curve(p, y, percentile)
    assert [point["coverage"] for point in curve] == [1.0, 0.95, 0.9, 0.8, 0.7, 0.6, 0.5]
    accuracy = [point["accuracy"] for point in curve]
    assert accuracy[0] == pytest.approx((p.argmax(axis=1) == y).mean())
    assert accuracy == sorted(accuracy) and accuracy[-1] > accuracy[0] + 0.1


def test_foreign_rows_are_left_whatever_their_confidence():
    p, _, percentile = rows(500, 0)
    about = describe_doubt(confidence(p, False), percentile)
    sure = np.array([1.0, 1.0, 0.5])
    assert abstains(sure, np.array([0.995, 0.5, 0.5]), about, 0.05).tolist() == [True, False, True]
    assert least_confidence(about, 0.001) == 0.0


def test_unknown_labels_take_no_part_in_accuracy():
    p = np.array([[0.9, 0.2], [0.9, 0.2], [0.9, 0.2]])
    y = np.array([[1, 1], [1, -1], [-1, -1]])
    assert coverage_curve(p, y)[0]["accuracy"] == pytest.approx(0.75)
    assert coverage_curve(p[:0], y[:0]) == []


@pytest.mark.parametrize("alike", [0.9, 0.0])
def test_the_promised_share_holds_for_the_mean_over_folds(alike):
    """A development row is known to the networks of one fold index, a new one to all: with fold models that differ, the
    quantiles of the former leave next to nothing of the latter."""
    rng = np.random.default_rng(0)
    members, k, n = 2, 5, 4000

    def draw(n):
        truth = 1.5 * rng.normal(size=n)
        noise = np.sqrt(alike) * rng.normal(size=(1, 1, n)) + np.sqrt(1 - alike) * rng.normal(size=(k, members, n))
        p = sigmoid(2 * (truth + 1.5 * noise)).mean(axis=1)
        return np.stack([1 - p, p], axis=-1), (rng.random(n) < sigmoid(truth)).astype(np.int64)

    (p, y), (test, _), (new, _) = draw(n), draw(n // 4), draw(n)
    fold = np.arange(n) % k
    calibration = fit_calibration(p[fold, np.arange(n)], y, np.arange(n).astype(str), fold, False, test)
    sure = confidence(answer(calibration.about, new), False)
    for share in (0.05, 0.2):
        about = describe_doubt(confidence(calibration.deployed, False), None)
        assert abstains(sure, None, about, share).mean() == pytest.approx(share, rel=0.35)
    former = describe_doubt(confidence(calibration.oof, False), None)
    assert alike > 0.5 or abs(abstains(sure, None, former, 0.2).mean() / 0.2 - 1) > 0.1
