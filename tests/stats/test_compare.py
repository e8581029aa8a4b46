"""Paired differences say "different" no more often than they claim, and find what is there."""

import math

import numpy as np
import pytest

from benchmarks._coverage_models import Cell, Recipes, draw, trained, trained_apart
from harness.errors import RequestError
from harness.metrics import METRICS, mean_over_folds
from harness.stats.paired import _scale, _swap_terms, holm, paired_difference


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


@pytest.mark.parametrize("metric", list(METRICS))
@pytest.mark.parametrize("patients", [6, 10, 40])
def test_equal_models_differ_no_more_often_than_stated_also_with_few_patients(metric, patients):
    """The bootstrap had p < .05 in .12 to .175 of studies for log loss with 6 patients. Monte-Carlo sd of .05 over 200
    simulations is .015."""
    cell = Cell(patients, 4, 0.5, 0.9)
    drawn = [draw(np.random.default_rng(seed), cell, (0.9, 0.9)) for seed in range(200)]
    found = [paired_difference(metric, one.y, one.p[0], one.p[1], one.groups, 0, reps=199) for one in drawn]
    assert np.mean([one.p < 0.05 for one in found]) <= 0.05 + 2.5 * 0.0154
    if patients == 40:
        assert np.mean([one.lo <= 0 <= one.hi for one in found]) >= 0.95 - 2.5 * 0.0154


@pytest.mark.parametrize("metric", ["accuracy", "log_loss", "brier"])
@pytest.mark.parametrize("count", [3, 4, 6])
def test_no_p_is_below_what_the_groups_can_give(metric, count):
    y = np.arange(count) % 2
    yes = np.where(y == 1, 0.9, 0.1) + 0.01 * np.arange(count) / count
    a = np.column_stack([1 - yes, yes])
    found = paired_difference(metric, y, a, a[:, ::-1].copy(), np.arange(count).astype(str), seed=0)
    assert found.p == 2 / 2**count


def test_two_groups_have_no_p():
    y, a, b, _ = two_models(0)
    found = paired_difference("log_loss", y, a, b, np.where(y == 1, "x", "y"), seed=0)
    assert math.isnan(found.p) and found.reason == "too-few-groups"


@pytest.mark.parametrize("metric", ["auroc", "accuracy", "balanced_accuracy", "log_loss", "brier"])
def test_the_terms_of_the_swaps_are_what_swapping_gives(metric):
    """Exactly, for every pattern of swaps, with ties: the metric of the swapped rows of a minus that of b."""
    y, a, b, groups = two_models(5, better=1.0, groups=8)
    numbered = np.unique(groups, return_inverse=True)[1]
    a, b = (_scale(metric, y, np.round(p, 1)) for p in (a, b))
    terms = _swap_terms(metric, y, a, b, numbered, 8, None)
    of = METRICS[metric].of
    for signs in np.random.default_rng(0).choice([-1, 1], (20, 8)):
        swap = (signs[numbered] < 0)[:, None]
        apart = of(y, np.where(swap, b, a), None)[0] - of(y, np.where(swap, a, b), None)[0]
        assert signs @ terms == pytest.approx(apart, abs=1e-12)


def test_models_on_different_scales_can_be_swapped():
    y, a, _, groups = two_models(3)
    squeezed = np.column_stack([1 - a[:, 1] ** 9, a[:, 1] ** 9])
    found = paired_difference("auroc", y, a, squeezed, groups, seed=0)
    assert (found.value, found.lo, found.hi, found.p) == (0.0, 0.0, 0.0, 1.0)


def test_recipes_that_memorise_differ_by_chance_no_more_often_than_stated():
    """Two equal recipes, really trained once a fold on labels that mean nothing. As if their rows were independent,
    p < .05 comes in .09 to .25. Monte-Carlo sd of .05 over 120 simulations is .02."""
    rng = np.random.default_rng(0)
    below, naive, held = 0, 0, 0
    for _ in range(120):
        drawn, fold = trained(rng, Recipes(40, 2, 0.0, 1e-4))
        a, b = drawn.p
        found = paired_difference("log_loss", drawn.y, a, b, drawn.groups, 0, 199, fold)
        below += found.p < 0.05
        held += found.lo <= 0 <= found.hi
        naive += paired_difference("log_loss", drawn.y, a, b, drawn.groups, 0, 199).p < 0.05
    assert below / 120 <= 0.10 and held / 120 >= 0.88
    assert naive / 120 >= 0.09


def test_recipes_in_other_folds_differ_by_chance_no_more_often_than_stated():
    """As above, each recipe with a division of its own. Seen in 100 simulations of eight cells: 0 to .10."""
    rng = np.random.default_rng(5)
    below, held = 0, 0
    for _ in range(120):
        drawn, of_a, of_b = trained_apart(rng, Recipes(40, 2, 0.0, 1e-4))
        found = paired_difference("auroc", drawn.y, *drawn.p, drawn.groups, 0, 199, of_a, of_b)
        below += found.p < 0.05
        held += found.lo <= 0 <= found.hi
    assert below / 120 <= 0.10 and held / 120 >= 0.88
    expected = [mean_over_folds("auroc", drawn.y, p, f)[0] for p, f in zip(drawn.p, (of_a, of_b), strict=True)]
    assert found.value == pytest.approx(expected[0] - expected[1], abs=1e-12)


def test_with_folds_the_difference_is_that_of_the_means_over_folds():
    y, a, b, groups = two_models(4, better=0.5)
    fold = (np.unique(groups, return_inverse=True)[1] // 2) % 5
    found = paired_difference("auroc", y, a, b, groups, 0, fold=fold)
    expected = mean_over_folds("auroc", y, a, fold) - mean_over_folds("auroc", y, b, fold)
    assert found.value == pytest.approx(expected[0], abs=1e-12)
    fold[y == 1] = 0
    undefined = paired_difference("auroc", y, a, b, groups, 0, fold=fold)
    assert math.isnan(undefined.value) and math.isnan(undefined.p) and undefined.reason


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
