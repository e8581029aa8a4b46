"""The corrected resampled t-test against the formula by hand, and against cross-validation under the null."""

import numpy as np
import pytest
from scipy import stats
from sklearn.datasets import make_moons
from sklearn.model_selection import RepeatedStratifiedKFold, cross_val_score
from sklearn.svm import SVC

from harness.stats.paired import corrected_t


def test_without_correction_it_is_the_paired_t_test():
    d = np.array([0.02, -0.01, 0.03, 0.015, 0.0])
    found, plain = corrected_t(d, 0.0), stats.ttest_1samp(d, 0.0)
    assert found.p == pytest.approx(plain.pvalue, abs=1e-12)
    interval = plain.confidence_interval(0.95)
    assert (found.lo, found.hi) == (pytest.approx(interval.low), pytest.approx(interval.high))


def test_the_correction_widens_by_what_the_paper_says():
    # 5 folds: 1/5 becomes 1/5 + (1/5)/(4/5), so t shrinks by sqrt(.2 / .45) = 2/3
    d = np.array([0.02, -0.01, 0.03, 0.015, 0.0])
    t = stats.ttest_1samp(d, 0.0).statistic * 2 / 3
    assert corrected_t(d, 1 / 5).p == pytest.approx(2 * stats.t.sf(t, 4), abs=1e-12)


def test_the_example_in_the_documentation_of_scikit_learn():
    """Its page on comparing models of a grid search: rbf against linear gives t = 0.750, one-sided p = 0.227."""
    x, y = make_moons(noise=0.352, random_state=1, n_samples=100)
    splits = RepeatedStratifiedKFold(n_splits=10, n_repeats=10, random_state=0)
    rbf, linear = (cross_val_score(SVC(kernel=k), x, y, scoring="roc_auc", cv=splits) for k in ("rbf", "linear"))
    found = corrected_t(rbf - linear, 1 / 10)
    assert round(found.p / 2, 3) == 0.227
    assert round(float(stats.t.isf(found.p / 2, 99)), 3) == 0.750


def test_folds_of_one_data_set_are_not_independent():
    """Two equally good learners on many data sets: nearest means on two different noisy copies of the features. The
    plain t-test of 10 folds, twice, says "different" far too often, the corrected one does not."""
    rng = np.random.default_rng(1)
    corrected, plain = [], []
    for _ in range(150):
        y = np.arange(60) % 2
        x = rng.normal(size=(2, 60, 5)) + 0.6 * y[None, :, None]
        d = []
        for _ in range(2):
            folds = rng.permutation(60) % 10
            for fold in range(10):
                held_out = folds == fold
                scores = []
                for features in x:
                    means = [features[~held_out & (y == c)].mean(0) for c in (0, 1)]
                    far = [((features[held_out] - mean) ** 2).sum(1) for mean in means]
                    scores.append(((far[1] < far[0]) == y[held_out]).mean())
                d.append(scores[0] - scores[1])
        corrected.append(corrected_t(np.array(d), 0.1).p < 0.05)
        plain.append(corrected_t(np.array(d), 0.0).p < 0.05)
    assert np.mean(corrected) <= 0.10
    assert np.mean(plain) > 0.13


def test_what_is_not_defined_has_no_p():
    assert np.isnan(corrected_t(np.array([0.1]), 0.2).p) and np.isnan(corrected_t(np.array([0.1, np.nan]), 0.2).p)
    same = corrected_t(np.zeros(5), 0.2)
    assert (same.value, same.lo, same.hi, same.p) == (0.0, 0.0, 0.0, 1.0)
