"""The line through log-odds against scikit-learn, against truths that were drawn, and where there is none."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from harness.metrics import logit, sigmoid
from harness.stats.calibration import calibration_line, fit_line


def draw(rng, groups: int, intercept: float, slope: float):
    """Rows of groups that share an effect on p, so that rows of one group are alike; y true to the line."""
    size = rng.integers(1, 6, groups)
    group = np.repeat(np.arange(groups), size)
    x = rng.normal(size=groups)[group] * 1.5 + rng.normal(size=len(group)) * 0.5
    y = (rng.random(groups)[group] < sigmoid(intercept + slope * x)).astype(np.int64)  # one draw for the whole group
    return y, sigmoid(x), np.array([f"g{number}" for number in group])


def test_equals_an_unpenalised_logistic_regression():
    rng = np.random.default_rng(0)
    x = rng.normal(size=400) * 3 + 7
    y = (rng.random(400) < sigmoid(-5 + 0.8 * x)).astype(np.int64)
    theirs = LogisticRegression(C=np.inf, tol=1e-12, solver="newton-cholesky").fit(x[:, None], y)
    np.testing.assert_allclose(fit_line(x, y.astype(float)), [theirs.intercept_[0], theirs.coef_[0, 0]], rtol=1e-6)


def test_the_intervals_hold_the_truth_also_where_rows_of_a_group_agree():
    rng = np.random.default_rng(1)
    truth, runs = (0.4, 0.7), 300
    held = np.zeros(2)
    naive = 0
    for _ in range(runs):
        y, p, groups = draw(rng, 120, *truth)
        line = calibration_line(y, p, groups)
        held += [line.intercept.lo <= truth[0] <= line.intercept.hi, line.slope.lo <= truth[1] <= line.slope.hi]
        alone = calibration_line(y, p, np.arange(len(y)).astype(str)).intercept
        naive += alone.lo <= truth[0] <= alone.hi
    assert (np.abs(held / runs - 0.95) < 0.04).all(), held / runs
    assert naive / runs < 0.85  # as if every row were a draw of its own, the interval is far too narrow


def test_in_the_large_is_the_shift_of_all_log_odds():
    rng = np.random.default_rng(2)
    p = rng.uniform(0.05, 0.95, 20000)
    y = (rng.random(20000) < sigmoid(logit(p) + 0.6)).astype(np.int64)
    line = calibration_line(y, p, np.arange(20000).astype(str))
    assert line.in_the_large.value == pytest.approx(0.6, abs=0.06)
    assert sigmoid(logit(p) + line.in_the_large.value).mean() == pytest.approx(y.mean(), abs=1e-8)


@pytest.mark.parametrize(
    ("y", "p"),
    [
        ([0, 0, 1, 1], [0.1, 0.2, 0.8, 0.9]),  # separated: the steeper the better
        ([1, 1, 1, 1], [0.1, 0.2, 0.8, 0.9]),
        ([0, 1, 0, 1], [0.5, 0.5, 0.5, 0.5]),
    ],
)
def test_without_a_best_line_there_is_none(y, p):
    line = calibration_line(np.array(y), np.array(p), np.array(list("abcd")))
    assert np.isnan([line.slope.value, line.intercept.value, line.slope.lo]).all()


def test_probabilities_of_0_and_1_are_finite_and_one_group_has_no_interval():
    y, p = np.array([0, 1, 0, 1, 1, 0]), np.array([0.0, 1.0, 0.4, 0.6, 0.3, 0.7])
    line = calibration_line(y, p, np.array(["one"] * 6))
    assert np.isfinite([line.slope.value, line.intercept.value]).all()
    assert np.isnan([line.slope.lo, line.in_the_large.hi]).all()
