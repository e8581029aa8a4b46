"""Calibration error: by hand, its identities, and how often its interval holds a truth that was drawn."""

import numpy as np
import pytest

from harness.metrics import METRICS, logit, sigmoid
from harness.stats.calibration import equal_mass_bins, questions, reliability


def drawn(rng, n: int, temperature: float, per_group: int = 1):
    """y from the true probabilities, and p that is too extreme by `temperature`."""
    true = rng.beta(2, 2, n // per_group).repeat(per_group)
    y = (rng.random(n // per_group).repeat(per_group) < true).astype(np.int64)
    p = sigmoid(logit(true) * temperature)
    return y, p, np.arange(n // per_group).repeat(per_group).astype(str), true


def test_two_bins_by_hand():
    p = np.repeat([0.2, 0.7], 10)
    y = np.array([1] * 4 + [0] * 6 + [1] * 6 + [0] * 4)
    found = reliability("sick", y, p, np.arange(20).astype(str), 0)
    assert [(b.n, b.predicted, b.observed.value) for b in found.bins] == [
        (10, pytest.approx(0.2), 0.4),
        (10, pytest.approx(0.7), 0.6),
    ]
    assert found.ece == pytest.approx(0.5 * 0.2 + 0.5 * 0.1)
    variance = 0.4 * 0.6 / 9  # of a mean of ten, in both bins
    squared = 0.5 * 0.2**2 + 0.5 * 0.1**2 - variance
    assert found.reliability.value == pytest.approx(squared)
    assert found.ece_by_chance == pytest.approx(np.sqrt(2 * variance / np.pi))
    assert found.uncertainty.value == pytest.approx(0.25)


def test_briers_parts_add_up_to_brier():
    y, p, groups, _ = drawn(np.random.default_rng(0), 500, 2.0)
    found = reliability("sick", y, p, groups, 0)
    brier = METRICS["brier"].of(y, np.column_stack([1 - p, p]), None)[0]
    assert found.brier.value == pytest.approx(brier, abs=1e-12)
    parts = found.reliability.value - found.resolution.value + found.uncertainty.value
    assert parts == pytest.approx(brier, abs=1e-12)


@pytest.mark.parametrize("per_group", [1, 4])
def test_true_probabilities_are_not_called_wrong(per_group):
    """The interval of the calibration error reaches 0, and ECE is what it is said to be by chance."""
    rng = np.random.default_rng(1)
    reached, ece, chance = 0, [], []
    runs = 150
    for run in range(runs):
        y, p, groups, _ = drawn(rng, 400, 1.0, per_group)
        found = reliability("sick", y, p, groups, run, reps=200)
        reached += found.error.lo == 0.0
        ece.append(found.ece)
        chance.append(found.ece_by_chance)
    assert reached / runs >= 0.93
    assert np.mean(ece) == pytest.approx(np.mean(chance), rel=0.1)
    assert np.mean(ece) > 0.04  # and it is not small


def test_the_interval_holds_the_true_error():
    rng = np.random.default_rng(2)
    y, p, groups, true = drawn(rng, 200_000, 2.5)
    truth = reliability("sick", y, p, groups, 0, reps=2).error.value  # by ten bins, of as good as infinitely many rows
    assert truth == pytest.approx(np.sqrt(np.mean((p - true) ** 2)), rel=0.05)
    held, runs = 0, 200
    for run in range(runs):
        y, p, groups, _ = drawn(rng, 600, 2.5, per_group=2)
        error = reliability("sick", y, p, groups, run, reps=200).error
        held += error.lo <= truth <= error.hi
    assert 0.90 <= held / runs <= 0.99, held / runs


def test_equal_probabilities_share_a_bin_and_bins_are_filled():
    p = np.concatenate([np.full(500, 0.3), np.linspace(0, 1, 500)])
    bins = equal_mass_bins(p)
    assert len(set(bins[:500].tolist())) == 1
    assert np.array_equal(np.argsort(p, kind="stable"), np.lexsort((np.arange(1000), p)))
    assert (np.diff(bins[np.argsort(p)]) >= 0).all()
    assert equal_mass_bins(np.linspace(0, 1, 100)).max() == 9
    assert np.bincount(equal_mass_bins(np.linspace(0, 1, 100))).tolist() == [10] * 10
    assert equal_mass_bins(np.full(50, 0.5)).tolist() == [0] * 50


def test_one_group_has_values_and_no_interval():
    y, p, _, _ = drawn(np.random.default_rng(3), 40, 1.0)
    found = reliability("sick", y, p, np.array(["one"] * 40), 0)
    assert np.isfinite(found.brier.value) and np.isnan(found.brier.lo)


def test_the_questions_of_each_task():
    p = np.array([[0.5, 0.3, 0.2], [0.1, 0.2, 0.7]])
    found = questions(np.array([0, 1]), p, ("a", "b", "c"), False)
    assert [name for name, *_ in found] == ["most probable class", "a", "b", "c"]
    assert found[0][2].tolist() == [1, 0] and found[0][3].tolist() == [0.5, 0.7]
    labels = questions(np.array([[1, -1, 0], [0, 1, -1]]), p, ("a", "b", "c"), True)
    assert [(name, rows.tolist(), y.tolist()) for name, rows, y, _ in labels] == [
        ("a", [0, 1], [1, 0]),
        ("b", [1], [1]),
        ("c", [0], [0]),
    ]
    (only,) = questions(np.array([0, 1]), p[:, :2], ("a", "b"), False)
    assert only[0] == "b" and only[3].tolist() == [0.3, 0.2]
