"""Numbers instead of names: who belongs together, counted in the order of the rows, so that no name decides a draw.

Names of groups are hashed with a salt of the home; numbers by first appearance are the same in every home.
"""

import numpy as np
from numpy.typing import NDArray


def by_appearance(names: NDArray[np.generic]) -> NDArray[np.int64]:
    """(N,) the number of each row's name, counted from 0 in the order in which names first appear."""
    _, first, of_row = np.unique(np.asarray(names), return_index=True, return_inverse=True)
    number = np.empty(len(first), dtype=np.int64)
    number[np.argsort(first)] = np.arange(len(first))
    return number[of_row.ravel()]


def first_rows(numbers: NDArray[np.int64]) -> NDArray[np.int64]:
    """(G,) the first row of each of G groups that are numbered by appearance."""
    return np.unique(numbers, return_index=True)[1].astype(np.int64)


def numbered(names: NDArray[np.generic], prefix: str = "g") -> NDArray[np.str_]:
    """(N,) the numbers as text, such as g000017: equal where the names are equal."""
    return as_text(by_appearance(names), prefix)


def as_text(numbers: NDArray[np.int64], prefix: str) -> NDArray[np.str_]:
    """(N,) each number with leading zeros, so that up to a million of them sort as they count."""
    return np.array([f"{prefix}{number:06d}" for number in numbers.tolist()], dtype=np.str_)
