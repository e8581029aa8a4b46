"""The order in which an epoch shows the training rows: all of them once, or every class equally often.

Row numbers only: no image is ever copied to show it twice. n: training rows, C: classes or labels.
"""

from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def row_order(y: NDArray[np.int64], how: Literal["shuffle", "balanced"], seed: int) -> Tensor:
    """(n,) int64 rows of one epoch, in time and memory proportional to y.

    y: (n,) class numbers from 0, or (n, C) answers with 1, 0, -1 of a multi-label task; the TRAINING rows only.
    shuffle: every row once. balanced: n rows with repetitions, see `balanced`.
    """
    if how == "balanced":
        return balanced(y, seed)
    return torch.randperm(len(y), generator=torch.Generator().manual_seed(seed))


def balanced(y: NDArray[np.int64], seed: int) -> Tensor:
    """(n,) int64 rows in random order in which every class that y has comes equally often.

    n rows are dealt to the classes evenly, to within one; a class is dealt out like a deck of cards that is shuffled
    again when it is used up, so its rows come equally often, to within one. This is what independent draws do on
    average, without their variance.

    Several labels an image: class-aware sampling (Shen, Lin and Huang 2016), in which each label with a yes is a class
    of the rows that have it, and the rows with known answers and no yes are one more. A row with two labels belongs to
    both, so a common label that comes with rare ones still comes more often than they do. Rows without any known answer
    teach nothing and are left out, unless there are no others.
    """
    generator = np.random.default_rng(seed)
    classes = _rows_of_each_label(y) if y.ndim == 2 else _rows_of_each_class(y)
    if not classes:
        classes = [np.arange(len(y))]
    share, rest = divmod(len(y), len(classes))
    times = share + (generator.permutation(len(classes)) < rest)
    dealt = [_deal(rows, int(count), generator) for rows, count in zip(classes, times, strict=True)]
    return torch.from_numpy(generator.permutation(np.concatenate(dealt)))


def _deal(rows: NDArray[np.int64], count: int, generator: np.random.Generator) -> NDArray[np.int64]:
    """(count,) of these rows, each as often as any other to within one."""
    decks = np.tile(rows, (-(-count // len(rows)), 1))
    return generator.permuted(decks, axis=1).ravel()[:count]


def _rows_of_each_class(y: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """The rows of each class that occurs."""
    counts = np.bincount(y)
    # of 16-bit numbers numpy's stable sort is a radix sort: its time is proportional to n
    order = np.argsort(y.astype(np.uint16) if len(counts) <= 2**16 else y, kind="stable")
    return [rows for rows in np.split(order, np.cumsum(counts)[:-1]) if len(rows)]


def _rows_of_each_label(y: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """The rows of each label that occurs, and those with known answers none of which is yes."""
    yes = y == 1
    none = (y == 0).any(axis=1) & ~yes.any(axis=1)
    return [rows for rows in (*map(np.flatnonzero, yes.T), np.flatnonzero(none)) if len(rows)]
