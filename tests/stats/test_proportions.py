"""Shares and their intervals: against scipy, and how often they hold the truth for rows of one group."""

import math

import numpy as np
import pytest
from scipy.stats import binomtest

from harness.stats.intervals import effective_size, share


@pytest.mark.parametrize(("hits", "n"), [(0, 7), (7, 7), (3, 10), (95, 100), (1, 250)])
def test_independent_rows_have_the_score_interval(hits, n):
    found = share(np.arange(n) < hits, np.arange(n).astype(str))
    theirs = binomtest(hits, n).proportion_ci(method="wilson")
    np.testing.assert_allclose([found.value, found.lo, found.hi], [hits / n, theirs.low, theirs.high], atol=1e-12)


@pytest.mark.parametrize("truth", [0.5, 0.9])
def test_holds_the_truth_where_rows_of_a_group_agree(truth):
    rng = np.random.default_rng(0)
    runs, held, naive, widths = 500, 0, 0, []
    for _ in range(runs):
        of_row = np.repeat(np.arange(60), rng.integers(1, 6, 60))
        own = rng.beta(2 * truth, 2 * (1 - truth), 60)  # each group has a share of its own, of mean `truth`
        hit = rng.random(len(of_row)) < own[of_row]
        found, alone = share(hit, of_row.astype(str)), share(hit, np.arange(len(hit)).astype(str))
        held += found.lo <= truth <= found.hi
        naive += alone.lo <= truth <= alone.hi
        widths.append(found.hi - found.lo)
    assert 0.92 <= held / runs <= 0.98, held / runs
    assert naive / runs < 0.90
    assert np.mean(widths) < 0.3


def test_rows_that_are_copies_count_once():
    hit, groups = np.array([True, False, True, False, False]), np.array(list("abcde"))
    once = effective_size(hit, groups)
    assert once == 5
    assert effective_size(np.repeat(hit, 4), np.repeat(groups, 4)) == pytest.approx(4.0, abs=1.1)
    assert effective_size(np.ones(20, bool), np.repeat(groups, 4)) == 5


def test_no_rows_no_share():
    found = share(np.zeros(0, bool), np.zeros(0, str))
    assert math.isnan(found.value) and math.isnan(found.lo)
