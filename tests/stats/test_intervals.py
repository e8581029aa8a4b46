"""Intervals by groups: covering what they claim to cover, wider where less was tried, and the group bootstrap."""

import math
from itertools import pairwise

import numpy as np
import pytest

from benchmarks._coverage_models import Cell, draw, truth
from harness.metrics import METRICS
from harness.stats import coverage
from harness.stats import intervals as module
from harness.stats.intervals import group_weights, intervals, percentiles, weight_blocks


def clustered(seed: int, groups: int = 80, size: int = 4, shift: float = 1.0, spread: float = 1.0):
    """Rows in groups of one label each, with a score that groups share in part: the AUROC is known exactly."""
    rng = np.random.default_rng(seed)
    of_row = np.repeat(np.arange(groups), size)
    y = (of_row % 2).astype(np.int64)
    score = shift * y + spread * rng.standard_normal(groups)[of_row] + rng.standard_normal(len(y))
    p = 1 / (1 + np.exp(-score))
    return y, np.stack([1 - p, p], axis=1), of_row.astype(str)


def test_a_replicate_draws_as_many_groups_as_there_are_and_keeps_them_whole():
    groups = np.array(["a", "b", "b", "c", "a", "d"])
    w = group_weights(groups, 50, seed=3)
    assert w.shape == (50, 6) and w.dtype == np.float64
    assert (w[:, 0] == w[:, 4]).all() and (w[:, 1] == w[:, 2]).all()
    assert (w[:, [0, 1, 3, 5]].sum(axis=1) == 4).all()
    assert (w != w[0]).any()


def test_one_row_per_group_is_the_plain_bootstrap():
    w = group_weights(np.array([f"row{i}" for i in range(200)]), 2000, seed=0)
    assert (w.sum(axis=1) == 200).all()
    assert w.mean() == 1.0
    # a count is binomial(200, 1/200): variance 1 - 1/200; its Monte-Carlo error over 400,000 counts is about 0.003
    assert w.var() == pytest.approx(1 - 1 / 200, abs=0.015)
    assert abs(np.corrcoef(w[:, 0], w[:, 1])[0, 1]) < 0.1


def test_the_seed_decides_and_names_of_groups_do_not():
    groups = np.array(["a", "b", "b", "c", "a", "d"])
    renamed = np.array(["z", "y", "y", "b", "z", "a"])
    np.testing.assert_array_equal(group_weights(groups, 20, 1), group_weights(renamed, 20, 1))
    assert (group_weights(groups, 20, 1) != group_weights(groups, 20, 2)).any()


def test_blocks_are_the_same_replicates(monkeypatch):
    _, _, groups = clustered(0)
    whole = group_weights(groups, 100, 5)
    monkeypatch.setattr(module, "CELLS_AT_ONCE", 7000)
    blocks = list(weight_blocks(groups, 100, 5))
    assert len(blocks) > 1
    np.testing.assert_array_equal(np.concatenate(blocks), whole)


def test_every_metric_has_its_value_inside_its_interval():
    y, p, groups = clustered(1)
    found = intervals(y, p, groups, seed=0, reps=300)
    assert list(found) == list(METRICS)
    for name, interval in found.items():
        assert interval.value == METRICS[name].of(y, p, None)[0]
        assert interval.lo < interval.value < interval.hi
    assert found == intervals(y, p, groups, seed=0, reps=300)
    order = np.random.default_rng(0).permutation(len(y))
    renamed = intervals(y[order], p[order], np.char.add("z", groups)[order], seed=1)
    for name, one in found.items():  # nothing is drawn; names and order do not matter
        assert (one.lo, one.hi) == pytest.approx((renamed[name].lo, renamed[name].hi), abs=1e-9)


def near_one(seed: int, patients: int, images: int, auroc: float, by_group: bool = True):
    """Intervals on one sample of patients whose class is drawn with the patient; half of the variance is theirs."""
    drawn = draw(np.random.default_rng(seed), Cell(patients, images, 0.5, auroc), (auroc,))
    groups = drawn.groups if by_group else np.arange(len(drawn.y)).astype(str)
    return intervals(drawn.y, drawn.p[0], groups, seed)


@pytest.mark.parametrize(("patients", "images", "auroc"), [(40, 4, 0.97), (40, 1, 0.9), (100, 4, 0.7)])
def test_intervals_cover_also_near_one(patients, images, auroc):
    # 20 and more patients of each class. Monte-Carlo sd of .95 over 150 simulations is .018: .95 - 3 sd is .897. The
    # percentile bootstrap holds an AUROC of .97 in .85 to .88.
    true, runs = truth(auroc, 0.5), 150
    held = dict.fromkeys(METRICS, 0)
    for seed in range(runs):
        for name, found in near_one(seed, patients, images, auroc).items():
            held[name] += found.lo <= true[name] <= found.hi
    assert min(held.values()) / runs >= 0.897, held


def test_ignoring_the_groups_would_cover_far_less():
    true = truth(0.7, 0.5)["auroc"]
    found = [near_one(seed, 40, 8, 0.7, by_group=False)["auroc"] for seed in range(100)]
    assert np.mean([one.lo <= true <= one.hi for one in found]) < 0.85


def test_undefined_metrics_have_no_interval():
    y, p, groups = np.zeros(6, np.int64), np.full((6, 2), 0.5), np.array(list("abcdef"))
    found = intervals(y, p, groups, seed=0, reps=50)
    assert np.isnan([found["auroc"].value, found["auroc"].lo, found["auroc"].hi]).all()
    assert found["auroc"].reason == "one-class" and found["accuracy"].reason == ""
    assert 0.4 < found["accuracy"].lo < 1.0 == found["accuracy"].hi


def test_fewer_than_three_groups_of_a_class_have_no_interval_and_say_why():
    y = np.array([0] * 18 + [1, 2])
    p = np.eye(3)[y] * 0.4 + 0.2
    found = intervals(y, p, np.arange(20).astype(str), seed=0)
    assert found["auroc"].value == 1.0 and math.isnan(found["auroc"].lo) and found["auroc"].reason == "too-few-groups"
    assert found["accuracy"].lo < 1.0 and found["accuracy"].reason == ""
    two = intervals(np.array([0, 1]), np.array([[0.6, 0.4], [0.3, 0.7]]), np.array(["a", "b"]), seed=0)
    assert {one.reason for one in two.values()} == {"too-few-groups"}


def test_percentiles_leave_out_what_is_undefined():
    assert percentiles(np.array([0.1, np.nan, 0.3, np.nan]))[0] == pytest.approx(0.105)
    assert math.isnan(percentiles(np.array([0.1, np.nan, np.nan]))[0])


def test_a_single_group_has_no_interval():
    y, p, _ = clustered(0)
    found = intervals(y, p, np.full(len(y), "one"), seed=0, reps=20)
    assert found["brier"].value > 0 and math.isnan(found["brier"].lo)


def wrong(count: int, per_group: int = 1, patients: int = 40):
    """Intervals where the first `count` groups, of alternating classes, are taken for the other class."""
    of_group = np.arange(patients) % 2
    y, number = of_group.repeat(per_group), np.arange(patients).repeat(per_group)
    said = np.where(number < count, 1 - y, y)
    yes = np.where(said == 1, 0.9, 0.1) + 0.001 * np.linspace(0, 1, len(y))
    return intervals(y, np.column_stack([1 - yes, yes]), number.astype(str), 0)


@pytest.mark.parametrize("per_group", [1, 4])
def test_one_error_never_gives_a_higher_lower_end_than_none(per_group):
    """39 of 40 right used to have [.925, 1.000], 40 of 40 [.912, 1.000]."""
    found = [wrong(count, per_group) for count in range(8)]
    for name in ("accuracy", "balanced_accuracy", "auroc", "auprc"):
        lows = [one[name].lo for one in found]
        assert found[0][name].value == found[0][name].hi == 1.0
        assert all(better >= worse for better, worse in pairwise(lows)), (name, lows)
    if per_group == 1:
        assert found[0]["accuracy"].lo == pytest.approx(0.907, abs=0.001)  # Wilson's with t in place of z


def test_out_of_fold_rows_of_several_models_have_wider_intervals():
    y, p, groups = clustered(2)
    fold = np.unique(groups, return_inverse=True)[1] % 5
    plain, aware = intervals(y, p, groups, 0), intervals(y, p, groups, 0, fold=fold)
    for name in METRICS:
        assert aware[name].value == plain[name].value
        ratio = (aware[name].hi - aware[name].lo) / (plain[name].hi - plain[name].lo)
        assert 1.35 < ratio < 1.65, name  # the square root of 1 + 5 / 4, on a bent scale
    assert intervals(y, p, groups, 0, fold=np.zeros(len(y), np.int64)) == plain


def test_intervals_that_cover_too_seldom_say_so(monkeypatch):
    y, p, groups = clustered(3)
    cell = {"metric": "auroc", "several": True, "rarer": 30, "value": 0.7, "coverage": 0.91}
    others = [dict(cell, coverage=0.95, rarer=300), dict(cell, coverage=0.95, several=False)]
    monkeypatch.setattr(coverage, "_table", lambda: {"single": [cell, *others], "paired": []})
    found = intervals(y, p, groups, 0)
    assert found["auroc"].coverage == 0.91 and found["brier"].coverage is None
    assert intervals(y, p, np.arange(len(y)).astype(str), 0)["auroc"].coverage is None
