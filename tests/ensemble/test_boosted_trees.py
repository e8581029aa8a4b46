"""Boosted trees against a plain call of XGBoost; labels with gaps; what early stopping watches; the device."""

import numpy as np
import pytest
import xgboost
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.ensemble import boosting
from harness.ensemble.boosting import device_in_use, fit_trees, watched_rows

SETTINGS = {"max_depth": 2, "eta": 0.1, "lambda": 3.0}


def rows(classes: int, n: int = 240, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    y = np.arange(n) % classes
    x = (rng.normal(size=(n, 5)) + rng.normal(size=(classes, 5))[y]).astype(np.float32)
    return x, y, np.array([f"g{i // (2 * classes)}-{i % classes}" for i in range(n)])


def plainly(x: np.ndarray, y: np.ndarray, watched: np.ndarray, new: np.ndarray, margins: tuple | None) -> np.ndarray:
    """(n, C) by XGBoost's own classes, early stopping and all."""
    several = y.max() > 1
    parameters = (
        {"objective": "multi:softprob", "num_class": y.max() + 1} if several else {"objective": "binary:logistic"}
    )
    parameters |= {**SETTINGS, "nthread": 1, "seed": 5, "eval_metric": "mlogloss" if several else "logloss"}
    mine, others = margins or (None, None)

    def matrix(which: np.ndarray) -> xgboost.DMatrix:
        return xgboost.DMatrix(x[which], y[which], base_margin=None if mine is None else mine[which])

    watch = {"evals": [(matrix(watched), "watched")], "early_stopping_rounds": 15, "verbose_eval": False}
    booster = xgboost.train(parameters, matrix(~watched), 200, **watch)
    new_rows = xgboost.DMatrix(new, base_margin=others)
    raw = booster.predict(new_rows, iteration_range=(0, booster.best_iteration + 1))
    return raw if several else np.column_stack([1 - raw, raw])


@pytest.mark.parametrize("classes", [2, 3])
def test_equals_a_plain_call_of_xgboost(classes: int) -> None:
    x, y, groups = rows(classes)
    new = rows(classes, seed=1)[0]
    found = fit_trees(x, y, groups, classes, 5, SETTINGS).predict(new)
    np.testing.assert_allclose(found, plainly(x, y, watched_rows(y, groups, 5), new, None), atol=1e-6)


@pytest.mark.parametrize("classes", [2, 3])
def test_starts_from_the_prior_guess(classes: int) -> None:
    x, y, groups = rows(classes)
    new = rows(classes, seed=1)[0]
    rng = np.random.default_rng(2)
    prior, prior_new = rng.dirichlet(np.ones(classes), len(x)), rng.dirichlet(np.ones(classes), len(new))

    def margin(p: np.ndarray) -> np.ndarray:
        return np.log(p[:, 1] / p[:, 0]) if classes == 2 else np.log(p)

    trees = fit_trees(x, y, groups, classes, 5, SETTINGS, prior=prior)
    expected = plainly(x, y, watched_rows(y, groups, 5), new, (margin(prior), margin(prior_new)))
    np.testing.assert_allclose(trees.predict(new, prior_new), expected, atol=1e-6)
    assert np.abs(trees.predict(new, prior_new) - trees.predict(new, prior_new[::-1])).max() > 0.1


@pytest.mark.parametrize("names", [[1, 4], [0, 2, 5]])
def test_labels_with_gaps_are_those_without(names: list[int]) -> None:
    """XGBoost itself refuses labels that are not 0, 1, 2, ..."""
    x, y, groups = rows(len(names))
    gaps = fit_trees(x, np.array(names)[y], groups, 6, 5, SETTINGS).predict(x)
    np.testing.assert_array_equal(gaps[:, names], fit_trees(x, y, groups, len(names), 5, SETTINGS).predict(x))
    np.testing.assert_allclose(gaps.sum(axis=1), 1.0)


def test_a_prior_for_a_class_that_the_rows_lack_is_left_out() -> None:
    x, y, groups = rows(2)
    rng = np.random.default_rng(3)
    prior = rng.dirichlet(np.ones(3), len(x))
    p = fit_trees(x, 2 * y, groups, 3, 5, SETTINGS, prior=prior).predict(x, prior)
    two = prior[:, [0, 2]]
    np.testing.assert_allclose(
        p[:, [0, 2]], fit_trees(x, y, groups, 2, 5, SETTINGS, prior=two).predict(x, two), atol=1e-7
    )
    np.testing.assert_array_equal(p[:, 1], 0.0)


def test_one_class_needs_no_trees() -> None:
    x, y, groups = rows(2)
    trees = fit_trees(x, np.full_like(y, 2), groups, 3, 5, SETTINGS)
    assert trees.ubj == b""
    np.testing.assert_array_equal(trees.predict(x[:2]), [[0.0, 0.0, 1.0]] * 2)


def test_stops_early_where_nothing_can_be_learned() -> None:
    x, y, groups = rows(2)
    noise = np.random.default_rng(4).permutation(y)
    rounds = xgboost.Booster()
    rounds.load_model(bytearray(fit_trees(x, noise, groups, 2, 5, SETTINGS).ubj))
    assert rounds.num_boosted_rounds() < 30
    rounds.load_model(bytearray(fit_trees(x, y, groups, 2, 5, SETTINGS).ubj))
    assert rounds.num_boosted_rounds() > 30


@settings(max_examples=40, deadline=None)
@given(groups=st.integers(1, 30), classes=st.integers(1, 4), mixed=st.booleans(), seed=st.integers(0, 1000))
def test_early_stopping_watches_whole_groups(groups: int, classes: int, mixed: bool, seed: int) -> None:
    rng = np.random.default_rng(seed)
    group_of_row = np.repeat(np.arange(groups), rng.integers(1, 4, groups))
    label = rng.integers(0, classes, len(group_of_row)) if mixed else rng.integers(0, classes, groups)[group_of_row]
    watched = watched_rows(label, group_of_row.astype(str), seed)
    for group in range(groups):
        assert len(set(watched[group_of_row == group].tolist())) == 1
    assert set(label[~watched].tolist()) == set(label.tolist())


def test_the_device_is_what_xgboost_will_use(monkeypatch: pytest.MonkeyPatch) -> None:
    assert device_in_use("cpu") == "cpu"
    found = device_in_use("cuda")
    assert found == "cpu" or found.startswith("cuda")
    x, y, groups = rows(2)
    on_cpu = fit_trees(x, y, groups, 2, 5, SETTINGS).predict(x)
    asked_for_cuda = fit_trees(x, y, groups, 2, 5, SETTINGS, "cuda").predict(x)
    if found == "cpu":  # a machine without a GPU does the work all the same
        np.testing.assert_array_equal(asked_for_cuda, on_cpu)
    else:
        assert np.corrcoef(asked_for_cuda[:, 1], on_cpu[:, 1])[0, 1] > 0.95
    device_in_use.cache_clear()
    monkeypatch.setattr(boosting.xgboost, "build_info", lambda: {"USE_CUDA": False})
    assert device_in_use("cuda") == "cpu"
    device_in_use.cache_clear()
