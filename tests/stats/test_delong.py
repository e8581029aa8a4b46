"""DeLong's variance against pROC, Obuchowski's clustered form against the authors' R function, both against pairs."""

import numpy as np
import pytest
from asah import POOR, S100B, WFNS
from scipy.stats import t

from harness.metrics import METRICS, logit
from harness.stats.paired import auroc_covariance, delong_difference, delong_interval

ALONE = np.arange(113).astype(str)


def test_one_image_a_group_is_what_pROC_says():
    # pROC 1.18.0: var, cov, ci, and roc.test(method = "delong", paired = TRUE)
    auroc, covariance = auroc_covariance(POOR, np.stack([S100B, WFNS]), ALONE)
    np.testing.assert_allclose(auroc, [0.7313685636856369, 0.8236788617886179], atol=1e-12)
    expected = [[0.002668682457172438, 0.001196155673767545], [0.001196155673767545, 0.001469914708823626]]
    np.testing.assert_allclose(covariance, expected, atol=1e-12)
    one, error = delong_interval(POOR, S100B, ALONE), covariance[0, 0] ** 0.5
    half = t.ppf(0.975, POOR.sum() - 1) * error / (auroc[0] * (1 - auroc[0]))  # on the logit scale
    assert logit(np.array([one.lo, one.hi])) == pytest.approx(logit(auroc[:1]) + np.array([-half, half]), abs=1e-9)
    two = delong_difference(POOR, S100B, WFNS, ALONE)
    assert two.p == pytest.approx(0.02717578222918815, abs=1e-9)
    assert (two.lo, two.hi) == (pytest.approx(-0.1742144192495, abs=1e-9), pytest.approx(-0.0104061769565, abs=1e-9))


def test_groups_of_three_are_what_the_authors_function_says():
    # clusteredROC of the Cleveland Clinic, as doAUCcluster in the R package iMRMCcluster keeps it
    groups = (np.arange(113) // 3).astype(str)
    _, covariance = auroc_covariance(POOR, np.stack([S100B, WFNS]), groups)
    expected = [[0.003618667481636556, 0.001479638889234349], [0.001479638889234349, 0.001681364293437287]]
    np.testing.assert_allclose(covariance, expected, atol=1e-12)
    assert delong_difference(POOR, S100B, WFNS, groups).p == pytest.approx(0.05639468219362742, abs=1e-9)


def all_pairs(positive, score, groups):
    """The same from every pair of rows, by the formulas of Obuchowski 1997, section 3."""
    x, y = score[positive], score[~positive]
    wins = (x[:, None] > y[None]) + 0.5 * (x[:, None] == y[None])
    value, m, n = wins.mean(), len(x), len(y)
    names = np.unique(groups)
    of_x = np.array([(wins.mean(1) - value)[groups[positive] == g].sum() for g in names])
    of_y = np.array([(wins.mean(0) - value)[groups[~positive] == g].sum() for g in names])
    i10, i01, i = len(np.unique(groups[positive])), len(np.unique(groups[~positive])), len(names)
    s10, s01 = i10 / (i10 - 1) / m * (of_x**2).sum(), i01 / (i01 - 1) / n * (of_y**2).sum()
    return value, s10 / m + s01 / n + 2 * i / (i - 1) * (of_x * of_y).sum() / (m * n)


@pytest.mark.parametrize("seed", range(5))
def test_midranks_are_all_pairs(seed):
    rng = np.random.default_rng(seed)
    positive, groups = rng.random(60) < 0.4, rng.integers(0, 20, 60).astype(str)
    score = np.round(rng.normal(size=60) + positive, 1)  # with ties
    auroc, covariance = auroc_covariance(positive, score[None], groups)
    value, variance = all_pairs(positive, score, groups)
    assert auroc[0] == pytest.approx(value, abs=1e-12) and covariance[0, 0] == pytest.approx(variance, abs=1e-12)
    p = np.stack([-score, score], axis=1)
    assert auroc[0] == pytest.approx(METRICS["auroc"].of(positive.astype(np.int64), p, None)[0], abs=1e-12)


def clustered(rng, groups=60):
    of_row = np.repeat(np.arange(groups), rng.integers(1, 6, groups))
    y = (of_row % 2).astype(bool)
    common = 1.2 * y + rng.normal(size=groups)[of_row]
    return y, *(common + rng.normal(size=groups)[of_row] + 0.5 * rng.normal(size=len(y)) for _ in "ab"), of_row


def test_it_holds_its_level_with_groups_and_would_not_without():
    rng = np.random.default_rng(3)
    with_groups, without = [], []
    for _ in range(600):
        y, a, b, groups = clustered(rng)
        with_groups.append(delong_difference(y, a, b, groups.astype(str)).p < 0.05)
        without.append(delong_difference(y, a, b, np.arange(len(y)).astype(str)).p < 0.05)
    # Monte-Carlo sd .009
    assert 0.025 <= np.mean(with_groups) <= 0.08
    assert np.mean(without) > 0.12


def test_where_there_is_nothing_to_compare():
    same = delong_difference(POOR, S100B, 2 * S100B, ALONE)
    assert (same.value, same.lo, same.hi, same.p) == (0.0, 0.0, 0.0, 1.0)
    one_class = delong_difference(np.ones(113, bool), S100B, WFNS, ALONE)
    assert np.isnan([one_class.value, one_class.lo, one_class.p]).all()
    one_group = delong_interval(POOR, S100B, np.full(113, "one"))
    assert one_group.value == pytest.approx(0.7313685636856369) and np.isnan(one_group.lo)
