"""Orders of training rows: all once, or every class equally often, in memory that does not grow with the imbalance."""

import tracemalloc

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from harness.train.batches import row_order

IMBALANCED = np.repeat([0, 1, 2], [90, 8, 2])
ANSWERS = np.array([[1, 0, 0]] * 60 + [[0, 1, 0]] * 6 + [[0, 1, -1]] * 2 + [[0, 0, 0]] * 20 + [[-1, -1, -1]] * 4)


def balanced(y: NDArray[np.int64], seed: int = 0) -> NDArray[np.int64]:
    order = row_order(y, "balanced", seed)
    assert order.dtype == torch.int64 and order.shape == (len(y),)
    return order.numpy()


def times(order: NDArray[np.int64], n: int) -> NDArray[np.int64]:
    return np.bincount(order, minlength=n)


@pytest.mark.parametrize("y", [IMBALANCED, ANSWERS])
def test_shuffle_is_every_row_once(y: NDArray[np.int64]) -> None:
    order = row_order(y, "shuffle", 3)
    assert torch.equal(order, torch.randperm(len(y), generator=torch.Generator().manual_seed(3)))
    assert torch.equal(torch.sort(order).values, torch.arange(len(y)))


def test_every_class_comes_equally_often() -> None:
    counts = np.array([np.bincount(IMBALANCED[balanced(IMBALANCED, seed)]) for seed in range(300)])
    assert counts.min() == 33 and counts.max() == 34
    # the one draw that is left over goes to each class as often as to another
    np.testing.assert_allclose(counts.mean(axis=0), 100 / 3, atol=0.15)


def test_rows_of_a_class_come_equally_often() -> None:
    y = IMBALANCED
    order = times(balanced(y), 100)
    for c, most in ((0, 1), (1, 5), (2, 17)):
        rows = order[y == c]
        assert rows.max() == most and rows.max() - rows.min() <= 1
    over_seeds = sum(times(balanced(y, seed), 100) for seed in range(400))
    # each row of the large class is drawn with probability 33.3 / 90, 400 times
    large = over_seeds[y == 0]
    assert large.mean() == pytest.approx(400 / 2.7, rel=0.01)
    assert large.var() == pytest.approx(400 / 2.7 * (1 - 1 / 2.7), rel=0.5)


def test_the_order_itself_is_random_and_comes_again() -> None:
    order = balanced(IMBALANCED)
    assert (order == balanced(IMBALANCED)).all() and (order != balanced(IMBALANCED, 1)).any()
    halves = [np.bincount(IMBALANCED[half], minlength=3) for half in np.split(order, 2)]
    assert all(8 <= count <= 26 for half in halves for count in half)


def test_a_fold_that_lacks_a_class_and_one_with_a_single_class_or_row() -> None:
    lacking = np.repeat([0, 3], [50, 10])
    assert np.bincount(lacking[balanced(lacking)]).tolist() == [30, 0, 0, 30]
    assert sorted(balanced(np.full(9, 2))) == list(range(9))
    assert balanced(np.array([4])).tolist() == [0]
    # more classes than rows to deal
    assert sorted(balanced(np.arange(5))) == list(range(5))


def test_memory_is_proportional_to_the_rows_whatever_the_imbalance() -> None:
    """A class of one row among a hundred: copies of rows up to the largest class would take a hundred times n."""
    n = 200_000
    even, extreme = np.arange(n) % 100, np.zeros(n, np.int64)
    extreme[:99] = np.arange(1, 100)
    for y in (even, extreme):
        balanced(y[:100])
        tracemalloc.start()
        balanced(y)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 48 * n


def test_several_labels_each_label_and_none_of_them_equally_often() -> None:
    order = balanced(ANSWERS)
    drawn = ANSWERS[order]
    # two labels that occur, and those with none: a third of 92 each; the third label has no yes
    counts = np.array([(drawn[:, 0] == 1).sum(), (drawn[:, 1] == 1).sum(), (drawn <= 0).all(axis=1).sum()])
    assert counts.sum() == 92 and counts.min() >= 30 and counts.max() <= 31
    assert (drawn == -1).all(axis=1).sum() == 0
    rare = times(order, 92)[60:68]
    assert rare.max() - rare.min() <= 1 and rare.min() >= 3


def test_a_row_with_two_labels_is_drawn_for_both() -> None:
    y = np.array([[1, 1], [1, 0], [0, 1]])
    drawn = np.concatenate([times(balanced(y, seed), 3)[None] for seed in range(600)]).mean(axis=0)
    np.testing.assert_allclose(drawn, [1.5, 0.75, 0.75], atol=0.1)


def test_without_any_answer_all_rows_are_alike() -> None:
    assert sorted(balanced(np.full((6, 2), -1))) == list(range(6))
