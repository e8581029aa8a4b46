"""McNemar's test against published examples, scipy's binomial test, and simulations with groups."""

import numpy as np
import pytest
from scipy import stats

from harness.stats.paired import mcnemar


def of_counts(both: int, only_a: int, only_b: int, neither: int):
    """Two models by their table of agreement, every row a group of its own."""
    a = np.repeat([True, True, False, False], [both, only_a, only_b, neither])
    b = np.repeat([True, False, True, False], [both, only_a, only_b, neither])
    return mcnemar(a, b, np.arange(len(a)).astype(str))


def test_the_published_example():
    # Fagerland, Lydersen and Laake 2013, table 1 (airway hyper-responsiveness): exact p = .070, mid-p = .039
    found = of_counts(1, 1, 7, 12)
    assert (found.only_a, found.only_b) == (1, 7)
    assert found.exact == pytest.approx(0.0703125, abs=1e-12) and found.mid_p == pytest.approx(0.0390625, abs=1e-12)


def test_approval_ratings():
    # Agresti 2002, table 10.1: chi-squared 17.356 without correction; mcnemar.test of R 4.2: p = 3.099293441045e-05.
    # With one row a group, Durkalski's denominator is the number of discordant rows, which is McNemar's.
    found = of_counts(794, 150, 86, 570)
    assert found.statistic == pytest.approx(17.35593220339, abs=1e-6)
    assert found.clustered == pytest.approx(3.099293441045e-05, rel=1e-9)
    assert found.exact == pytest.approx(stats.binomtest(86, 236).pvalue, rel=1e-9)


@pytest.mark.parametrize(("only_a", "only_b"), [(0, 0), (3, 3), (0, 5), (12, 4)])
def test_exact_is_the_binomial_test(only_a, only_b):
    found = of_counts(5, only_a, only_b, 5)
    wanted = stats.binomtest(only_a, only_a + only_b).pvalue if only_a + only_b else 1.0
    assert found.exact == pytest.approx(wanted, abs=1e-12)
    assert 0 < found.mid_p <= found.exact


def test_groups_by_hand():
    # shares of (only a) - (only b) in the groups: 2/4, -1/2, 1, 0
    a = np.array([1, 1, 1, 0, 0, 1, 1, 1, 0], dtype=bool)
    b = np.array([1, 0, 0, 0, 1, 1, 0, 1, 0], dtype=bool)
    found = mcnemar(a, b, np.array(list("wwwwxxyzz")))
    assert found.statistic == pytest.approx((0.5 - 0.5 + 1.0) ** 2 / (0.25 + 0.25 + 1.0))
    assert found.clustered == pytest.approx(stats.chi2.sf(found.statistic, 1))


def test_with_groups_only_the_clustered_form_holds_its_level():
    rng = np.random.default_rng(0)
    clustered, mid_p = [], []
    for _ in range(600):
        of_row = np.repeat(np.arange(60), 6)
        a, b = (rng.random(360) < rng.beta(1.5, 1, 60)[of_row] for _ in "ab")  # a patient is hard for one model or not
        found = mcnemar(a, b, of_row.astype(str))
        clustered.append(found.clustered < 0.05)
        mid_p.append(found.mid_p < 0.05)
    assert 0.025 <= np.mean(clustered) <= 0.08  # Monte-Carlo sd .009
    assert np.mean(mid_p) > 0.12


def test_one_group_has_no_clustered_answer():
    assert np.isnan(mcnemar(np.array([True, False]), np.array([False, False]), np.array(["g", "g"])).clustered)
