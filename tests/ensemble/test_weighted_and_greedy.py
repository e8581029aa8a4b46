"""The weighted mean and greedy selection against independent computations and hand-made cases."""

import numpy as np
import pytest
from scipy.optimize import minimize
from simulated_members import Simulated

from harness.ensemble import averaging
from harness.ensemble.averaging import WeightsModel, load_weights
from harness.errors import RequestError


def likelihoods(seed: int, rows: int = 150, members: int = 5) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return 1 / (1 + np.exp(-rng.normal(np.linspace(0.8, 1.0, members), 1.0, (rows, members))))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("prior", [0.5, 20.0])
def test_the_most_likely_weights_are_those_of_a_general_optimiser(seed: int, prior: float) -> None:
    q = likelihoods(seed)
    members = q.shape[1]

    def loss(z: np.ndarray) -> float:
        w = np.exp(z - z.max()) / np.exp(z - z.max()).sum()
        return -np.log(q @ w).sum() - prior / members * np.log(w).sum()

    found = minimize(loss, np.zeros(members), method="BFGS", options={"gtol": 1e-8}).x
    expected = np.exp(found) / np.exp(found).sum()
    np.testing.assert_allclose(averaging.most_likely(q, prior), expected, atol=2e-3)


def test_a_useless_member_gets_next_to_no_weight_when_rows_are_many() -> None:
    rng = np.random.default_rng(0)
    good = 1 / (1 + np.exp(-rng.normal(2, 1, 5000)))
    weights = averaging.most_likely(np.column_stack([good, np.full(5000, 0.5), 1 - good]))
    assert weights[0] > 0.95


def test_few_rows_leave_the_weights_near_the_mean() -> None:
    q = np.array([[0.9, 0.1]])
    assert averaging.most_likely(q)[0] < 0.55


def by_the_book(q: np.ndarray, steps: int) -> np.ndarray:
    """Ensemble selection in plain loops: sorted start, then the best addition, the best prefix kept."""
    n, members = q.shape

    def loss(counts: list[int]) -> float:
        total = sum(counts)
        return -sum(np.log(sum(c * q[row, m] for m, c in enumerate(counts)) / total) for row in range(n)) / n

    alone = sorted(range(members), key=lambda m: loss([int(i == m) for i in range(members)]))
    starts = [[int(m in alone[:size]) for m in range(members)] for size in range(1, members + 1)]
    counts = min(starts, key=loss)
    best, lowest = list(counts), loss(counts)
    for _ in range(steps):
        counts = min(([c + (i == m) for i, c in enumerate(counts)] for m in range(members)), key=loss)
        if loss(counts) < lowest - 1e-6:
            best, lowest = list(counts), loss(counts)
    return np.array(best)


@pytest.mark.parametrize("seed", range(4))
def test_selection_is_the_books(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    q = likelihoods(seed, rows=40, members=4)
    monkeypatch.setattr(averaging, "GREEDY_STEPS", 8)
    monkeypatch.setattr(averaging, "PATIENCE", 100)
    np.testing.assert_array_equal(averaging.select(q), by_the_book(q, 8))


def test_the_nested_score_is_the_books_fold_by_fold(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four members are all in one bag, so greedy is the book's selection, made anew without each fold."""
    monkeypatch.setattr(averaging, "GREEDY_STEPS", 6)
    monkeypatch.setattr(averaging, "PATIENCE", 100)
    s = Simulated(seed=5, signal=0.7, groups=40, members=4, k=3)
    z = s.table.logits.astype(np.float64)
    p = np.exp(z) / np.exp(z).sum(axis=2, keepdims=True)
    q = p[np.arange(len(s.y)), :, s.y]
    expected = np.zeros((len(s.y), 2))
    for k in range(3):
        counts = by_the_book(q[s.fold != k], 6)
        expected[s.fold == k] = np.einsum("nmc,m->nc", p[s.fold == k], counts / counts.sum())
    fitted = averaging.fit_greedy(s.table)
    np.testing.assert_allclose(fitted.oof, expected, atol=1e-6)
    counts = by_the_book(q, 6)
    np.testing.assert_allclose(fitted.model.weights, counts / counts.sum(), atol=1e-9)  # type: ignore[attr-defined]


def test_bags_hold_half_of_the_members() -> None:
    """One useful member among twelve: bags of six that lack it must make do with the others."""
    q = np.full((200, 12), 0.5) + np.random.default_rng(0).uniform(-0.05, 0.05, (200, 12))
    q[:, 3] = 0.99
    weights = np.array([averaging.bagged_selection(q.astype(np.float32), np.arange(12), seed) for seed in range(30)])
    np.testing.assert_allclose(weights.sum(axis=1), 1.0)
    bags = 10 * weights[:, 3]  # in which it is, it is all that is taken
    np.testing.assert_allclose(bags, bags.round(), atol=1e-9)
    assert abs(bags.mean() - 5) < 4 * np.sqrt(10 / 4 / 30)  # binomial, ten bags, one half


def test_two_members_whose_errors_cancel_are_both_taken() -> None:
    q = np.tile([[0.95, 0.05, 0.2], [0.05, 0.95, 0.2]], (10, 1))
    counts = averaging.select(q)
    assert counts[0] == counts[1] > 0 and counts[2] == 0


@pytest.mark.parametrize("fit", [averaging.fit_weighted, averaging.fit_greedy])
def test_weights_of_a_fold_are_chosen_without_its_labels(fit) -> None:
    s = Simulated(seed=3, signal=0.8, members=6)
    before = fit(s.table, None, 0).oof
    turned = s.table.y.copy()
    turned[s.fold == 1] = 1 - turned[s.fold == 1]
    table = type(s.table)(turned, s.groups, s.fold, s.table.logits, s.encoder_ids)
    after = fit(table, None, 0).oof
    np.testing.assert_array_equal(after[s.fold == 1], before[s.fold == 1])
    assert np.abs(after[s.fold != 1] - before[s.fold != 1]).max() > 1e-6


def test_weights_that_are_none_are_refused() -> None:
    for broken in ([0.5, 0.6], [1.5, -0.5], [np.nan, 1.0]):
        with pytest.raises(RequestError, match="not shares of 1"):
            load_weights(WeightsModel(np.array(broken)).files())
