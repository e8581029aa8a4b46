"""The score that counts the choice: at chance where there is nothing to find, and equal to the recipe written out."""

import numpy as np
import pytest

from harness.ensemble.nested import best, stitched, values_without
from harness.metrics import METRICS, softmax

AUROC = METRICS["auroc"].of


def test_a_trial_is_valued_without_the_fold() -> None:
    rng = np.random.default_rng(0)
    y, fold = rng.integers(0, 3, 90), rng.integers(0, 4, 90)
    p = [softmax(rng.normal(size=(90, 3))) for _ in range(5)]
    found = values_without("auroc", y, p, fold, 4)
    for trial in range(5):
        for k in range(4):
            kept = fold != k
            assert found[trial, k] == pytest.approx(AUROC(y[kept], p[trial][kept], None)[0])


def test_the_best_of_each_study_and_the_first_of_equals() -> None:
    values = np.array([0.7, 0.9, 0.8, 0.8, np.nan, 0.1])
    parts = ["a", "a", "a", "a", "b", "b"]
    assert best("auroc", values, parts, 2) == (1, 2, 5)
    assert best("log_loss", values, parts, 2) == (0, 2, 5)
    assert best("auroc", values, parts, 9) == (0, 1, 2, 3, 5)
    assert best("auroc", np.full(6, np.nan), parts, 2) == ()


def test_choices_that_return_are_fitted_once_and_rows_come_from_their_own() -> None:
    fold = np.array([0, 1, 2, 0, 1, 2])
    fitted = []

    def out_of_fold(chosen: tuple[int, ...]) -> np.ndarray:
        fitted.append(chosen)
        return np.full((6, 1), float(sum(chosen)))

    known = {(0, 1): np.full((6, 1), 100.0)}
    found = stitched([(0, 1), (2, 3), (2, 3)], fold, known, out_of_fold)
    assert found[:, 0].tolist() == [100, 5, 5, 100, 5, 5]
    assert fitted == [(2, 3)]
    assert list(known) == [(0, 1)]


def test_the_best_of_forty_coins_is_a_coin() -> None:
    """40 trials of pure noise, 100 times: the winner's own score flatters, its nested score is at chance."""
    own, nested = [], []
    for seed in range(100):
        rng = np.random.default_rng(seed)
        y, fold = rng.integers(0, 2, 120), np.arange(120) % 5
        p = [softmax(rng.normal(size=(120, 2))) for _ in range(40)]
        values = values_without("accuracy", y, p, fold, 5)
        choices = [best("accuracy", values[:, k], ["s"] * 40, 1) for k in range(5)]
        out = stitched(choices, fold, {}, lambda chosen, p=p: p[chosen[0]])
        (winner,) = best("accuracy", np.array([METRICS["accuracy"].of(y, one, None)[0] for one in p]), ["s"] * 40, 1)
        own.append(METRICS["accuracy"].of(y, p[winner], None)[0])
        nested.append(METRICS["accuracy"].of(y, out, None)[0])
    assert np.mean(own) > 0.58
    # accuracy of 120 coins has a standard deviation of .046; of its mean over 100 studies, .0046 to .006
    assert abs(np.mean(nested) - 0.5) < 0.02
