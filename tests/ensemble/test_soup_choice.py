"""The greedy recipe against one written down from the paper's pseudo-code, on linear networks."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss as reference_loss

from harness.ensemble.new_networks import choose_greedily, log_loss


def linear_networks(seed: int, members: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows (n, D), labels (n,), and weights (M, D): good ones, disturbed by more for some than for others."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(200, 5))
    truth = rng.normal(size=5)
    y = (x @ truth + rng.normal(size=200) > 0).astype(np.int64)
    noise = rng.uniform(0.1, 3.0, members)[:, None] * rng.normal(size=(members, 5))
    return x, y, truth + noise


def soup_loss(x, y, weights):
    def loss(members: tuple[int, ...]) -> float:
        p = 1 / (1 + np.exp(-x @ weights[list(members)].mean(axis=0)))
        return log_loss(y, np.stack([1 - p, p], axis=1))

    return loss


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), members=st.integers(2, 6))
def test_it_is_the_recipe_of_the_paper(seed: int, members: int) -> None:
    x, y, weights = linear_networks(seed, members)

    def held_out(ingredients: list[int]) -> float:  # higher is better, as accuracy is in the paper
        logits = x @ sum(weights[m] for m in ingredients) / len(ingredients)
        p = np.clip(1 / (1 + np.exp(-logits)), 1e-7, 1 - 1e-7)
        return -reference_loss(y, p)

    ranked = sorted(range(members), key=lambda m: held_out([m]), reverse=True)
    ingredients: list[int] = []
    for m in ranked:
        if not ingredients or held_out([*ingredients, m]) >= held_out(ingredients):
            ingredients.append(m)
    assert choose_greedily(range(members), soup_loss(x, y, weights)) == tuple(sorted(ingredients))


def test_every_step_of_the_way_is_a_soup_that_was_no_worse() -> None:
    """By exhaustion: no set on the greedy way is worse than the one before, and it beats the best single one."""
    x, y, weights = linear_networks(3, 6)
    loss = soup_loss(x, y, weights)
    chosen = choose_greedily(range(6), loss)
    assert loss(chosen) <= min(loss((m,)) for m in range(6))
    assert len(chosen) > 1  # or this shows nothing


def test_ties_and_equals() -> None:
    assert choose_greedily([4, 2, 7], lambda members: 1.0) == (2, 4, 7)  # no harm: all of them go in
    assert choose_greedily([4, 2, 7], lambda members: float(len(members))) == (4,)
    asked: list[tuple[int, ...]] = []

    def loss(members: tuple[int, ...]) -> float:
        asked.append(members)
        return 1.0

    choose_greedily([3, 1, 2], loss)
    assert all(list(members) == sorted(members) for members in asked)
    assert asked[3:] == [(1, 3), (1, 2, 3)]


def test_log_loss_is_scikit_learns() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(300, 4)), rng.integers(0, 3, 300)
    p = LogisticRegression().fit(x, y).predict_proba(x)
    assert log_loss(y, p) == pytest.approx(reference_loss(y, p), abs=1e-12)


def test_log_loss_of_several_labels_leaves_out_what_is_not_known() -> None:
    y = np.array([[1, -1], [0, 1], [-1, -1]])
    p = np.array([[0.8, 0.1], [0.3, 0.5], [0.9, 0.9]])
    assert log_loss(y, p) == pytest.approx(-np.log([0.8, 0.7, 0.5]).mean())
