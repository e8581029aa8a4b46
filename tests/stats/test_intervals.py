"""The group bootstrap: reproducible, blind to names, and covering what it claims to cover."""

import math

import numpy as np
import pytest
from scipy import stats

from harness.metrics import METRICS
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
    assert found != intervals(y, p, groups, seed=1, reps=300)


def coverage(by_group: bool, simulations: int = 300) -> float:
    """Share of simulations whose AUROC interval holds the true AUROC, P(N(1, 2) > N(0, 2)) = Phi(1/2)."""
    truth = 0.5 * (1 + math.erf(1 / 2 / math.sqrt(2)))
    inside = 0
    for seed in range(simulations):
        y, p, groups = clustered(seed)
        if not by_group:
            groups = np.arange(len(y)).astype(str)
        replicates = np.concatenate([METRICS["auroc"].of(y, p, w) for w in weight_blocks(groups, 300, seed)])
        lo, hi = percentiles(replicates)
        inside += lo <= truth <= hi
    return inside / simulations


def test_the_interval_covers_near_95_percent_where_rows_are_correlated():
    # Monte-Carlo sd of a share of .95 over 300 simulations is .0126: .95 -3 sd is .912; the percentile bootstrap of
    # 80 groups is known to be up to about .015 short of its level
    assert 0.895 <= coverage(by_group=True) <= 0.99


def test_ignoring_the_groups_would_cover_far_less():
    assert coverage(by_group=False) < 0.85


def test_undefined_metrics_have_no_interval():
    y, p, groups = np.zeros(6, np.int64), np.full((6, 2), 0.5), np.array(list("abcdef"))
    found = intervals(y, p, groups, seed=0, reps=50)
    assert np.isnan([found["auroc"].value, found["auroc"].lo, found["auroc"].hi]).all()
    assert found["accuracy"].lo == pytest.approx(0.025 ** (1 / 6))


def test_a_metric_undefined_on_most_replicates_has_no_interval():
    # the only positive group is missing from a replicate with probability about .37; two such classes: about .6
    y = np.array([0] * 18 + [1, 2])
    p = np.eye(3)[y] * 0.4 + 0.2
    found = intervals(y, p, np.arange(20).astype(str), seed=0, reps=400)
    assert found["auroc"].value == 1.0 and math.isnan(found["auroc"].lo)
    assert percentiles(np.array([0.1, np.nan, 0.3, np.nan]))[0] == pytest.approx(0.105)
    assert math.isnan(percentiles(np.array([0.1, np.nan, np.nan]))[0])


def test_a_single_group_has_no_interval():
    y, p, _ = clustered(0)
    found = intervals(y, p, np.full(len(y), "one"), seed=0, reps=20)
    assert found["brier"].value > 0 and math.isnan(found["brier"].lo)


def test_where_nothing_went_wrong_the_interval_still_says_how_little_was_tried():
    y = np.repeat([0, 1], [30, 12])
    groups = np.array([f"g{row // 2}" for row in range(42)])  # 15 groups of one class, 6 of the other
    p = np.column_stack([1.0 - y * 0.8, y * 0.8]) * 0.9 + 0.05
    found = intervals(y, p, groups, 0)
    plain = percentiles(np.concatenate([METRICS["auroc"].of(y, p, w) for w in weight_blocks(groups, 1000, 0)]))
    assert plain == (1.0, 1.0)  # what the bootstrap alone would say
    exact = stats.binomtest(21, 21).proportion_ci(0.95, "exact")
    assert (found["accuracy"].lo, found["accuracy"].hi) == (pytest.approx(exact.low), 1.0)
    rarer = stats.binomtest(6, 6).proportion_ci(0.95, "exact").low
    for name in ("auroc", "auprc", "balanced_accuracy"):
        assert found[name].value == found[name].hi == 1.0 and found[name].lo == pytest.approx(rarer)
    several = intervals(np.column_stack([y, 1 - y]), np.column_stack([p[:, 1], p[:, 0]]), groups, 0)
    assert several["auroc"].lo == pytest.approx(rarer)
