"""Two independent samples: no difference is found where there is none, and a real one is; rows of a group agree."""

import numpy as np
import pytest
from scipy.stats import ks_2samp

from harness.metrics import METRICS, sigmoid
from harness.stats.intervals import wilson
from harness.stats.subgroups import Sample, kolmogorov_smirnov, share_difference, unpaired_differences
from harness.types import Interval


def draw(rng, groups: int, signal: float = 1.0) -> Sample:
    """Three images of each patient, all with the patient's label and most of the patient's score."""
    y = rng.integers(0, 2, groups)
    z = (signal * (2 * y - 1) + rng.normal(size=groups)).repeat(3) + 0.3 * rng.normal(size=3 * groups)
    p = sigmoid(z)
    return Sample(y.repeat(3), np.column_stack([1 - p, p]), np.arange(groups).repeat(3).astype(str))


def test_no_difference_is_found_as_rarely_as_promised():
    rng = np.random.default_rng(0)
    runs, found, held, naive = 300, 0, 0, 0
    for run in range(runs):
        here, home = draw(rng, 50), draw(rng, 70)
        difference = unpaired_differences(here, home, run, reps=200)["auroc"]
        found += difference.p < 0.05
        held += difference.lo <= 0 <= difference.hi
        rows = [Sample(side.y, side.p, np.arange(len(side.y)).astype(str)) for side in (here, home)]
        naive += unpaired_differences(rows[0], rows[1], run, reps=200)["auroc"].p < 0.05
    assert found / runs < 0.09
    assert held / runs > 0.91
    assert naive / runs > 0.12  # as if images of one patient were independent


def test_a_real_drop_is_found_and_the_interval_holds_it():
    rng = np.random.default_rng(1)
    big = [draw(rng, 40_000, signal) for signal in (0.4, 1.2)]
    truth = float(np.subtract(*(METRICS["auroc"].of(side.y, side.p, None)[0] for side in big)))
    runs, held, found = 150, 0, 0
    for run in range(runs):
        difference = unpaired_differences(draw(rng, 80, 0.4), draw(rng, 80, 1.2), run, reps=200)["auroc"]
        held += difference.lo <= truth <= difference.hi
        found += difference.p < 0.05 and difference.value < 0
    assert 0.90 <= held / runs <= 0.99
    assert found / runs > 0.9


def test_the_same_rows_twice_are_two_samples_not_one():
    """Their difference is 0, and not known any better for that: replicates must not go up and down together."""
    side = draw(np.random.default_rng(2), 60)
    difference = unpaired_differences(side, side, 0, reps=300)["auroc"]
    assert difference.value == 0.0 and difference.hi - difference.lo > 0.1 and difference.p > 0.5


def test_what_is_not_defined_is_nan():
    rng = np.random.default_rng(3)
    side = draw(rng, 20)
    one_class = Sample(np.zeros_like(side.y), side.p, side.groups)
    found = unpaired_differences(one_class, side, 0, reps=50)
    assert np.isnan(found["auroc"].value) and np.isnan(found["auroc"].p) and np.isfinite(found["brier"].p)
    alone = Sample(side.y, side.p, np.array(["one"] * len(side.y)))
    assert np.isnan(unpaired_differences(alone, side, 0, reps=50)["brier"].lo)


def test_difference_of_shares_is_newcombes():
    """56 of 70 against 48 of 80: his example (1998, table II, method 10)."""
    here, home = (Interval(x / n, *wilson(x / n, n)) for x, n in ((56, 70), (48, 80)))
    found = share_difference(here, home)
    assert [round(end, 4) for end in (found.value, found.lo, found.hi)] == [0.2, 0.0524, 0.3339]


def test_the_distance_of_distributions_is_scipys_with_ties():
    rng = np.random.default_rng(4)
    a, b = np.round(rng.uniform(size=90), 1), np.round(rng.uniform(size=60) ** 1.5, 1)
    found = kolmogorov_smirnov(a, np.arange(90).astype(str), b, np.arange(60).astype(str), 0, reps=499)
    assert found.statistic == pytest.approx(ks_2samp(a, b).statistic)
    smooth_a, smooth_b = rng.uniform(size=90), rng.uniform(size=60) ** 1.4
    found = kolmogorov_smirnov(smooth_a, np.arange(90).astype(str), smooth_b, np.arange(60).astype(str), 0, 9999)
    assert found.p == pytest.approx(ks_2samp(smooth_a, smooth_b).pvalue, abs=0.015)


def test_a_shift_is_not_made_up_of_images_of_one_patient():
    rng = np.random.default_rng(5)
    runs, found, naive = 200, 0, 0
    for run in range(runs):
        here, home = draw(rng, 25), draw(rng, 25)
        found += kolmogorov_smirnov(here.p[:, 1], here.groups, home.p[:, 1], home.groups, run, 99).p <= 0.05
        naive += ks_2samp(here.p[:, 1], home.p[:, 1]).pvalue <= 0.05
    assert found / runs < 0.09
    assert naive / runs > 0.12


def test_no_rows_no_shift():
    none = kolmogorov_smirnov(np.empty(0), np.empty(0, str), np.ones(3), np.array(list("abc")), 0)
    assert np.isnan(none.statistic) and np.isnan(none.p)
