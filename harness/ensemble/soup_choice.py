"""Which fine-tunes go into a soup: the greedy recipe, over anything that says how good a set of them is.

Source: Wortsman et al. 2022, "Model soups", recipe 1. There an ingredient stays where held-out accuracy does not fall;
here where the log-loss does not rise, which moves with every row where accuracy stands still. Knows numbers only.
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from harness.metrics import UNKNOWN

LEAST = 1e-7
"""probabilities below this count as this"""

Loss = Callable[[tuple[int, ...]], float]
"""loss(members in rising order) of the soup of these: lower is better"""


def choose_greedily(members: Sequence[int], loss: Loss) -> tuple[int, ...]:
    """The members of the greedy soup, in rising order: from the best by itself on, each one that does no harm.

    Members that are equally good are tried in the order in which they are given.
    """
    alone = {member: loss((member,)) for member in members}
    first, *others = sorted(members, key=lambda member: alone[member])  # stable: ties keep their order
    chosen: tuple[int, ...] = (first,)
    lowest = alone[first]
    for member in others:
        wider = tuple(sorted((*chosen, member)))
        found = loss(wider)
        if found <= lowest:
            chosen, lowest = wider, found
    return chosen


def log_loss(y: NDArray[np.int64], p: NDArray[np.float64]) -> float:
    """Mean log-loss of probabilities (n, C), by class number (n,) or over the known answers of y (n, C)."""
    told = p[np.arange(len(y)), y] if y.ndim == 1 else np.where(y == 1, p, 1.0 - p)[y != UNKNOWN]
    return float(-np.log(np.maximum(told, LEAST)).mean())
