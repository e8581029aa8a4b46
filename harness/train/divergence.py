"""A training that has come apart: a loss that is no number, or absurdly large. Knows arrays only."""

import math

import numpy as np
from numpy.typing import NDArray

from harness.errors import HarnessError

EXPLODED = 1000.0
"""a mean loss of so many times that of a guess (the logarithm of the number of classes) has exploded"""


class Diverged(HarnessError):
    """The loss became NaN, infinite or absurdly large."""


def epoch_loss(
    values: NDArray[np.floating], weights: NDArray[np.floating], rates: list[float], classes: int, place: str
) -> float:
    """An epoch's mean loss over rows, from each step's summed loss (steps,), summed weights (steps,) and learning rate.

    `classes` a guess chooses between; `place` is said in the message. Raises Diverged, naming the first step that is
    not finite, or in an epoch that exploded the first step that did.
    """
    losses = values / np.maximum(weights, 1e-12)
    mean = math.fsum(values) / max(math.fsum(weights), 1e-12)
    absurd = EXPLODED * math.log(max(2, classes))
    bad = np.flatnonzero(~np.isfinite(losses) | ((losses > absurd) & (not mean <= absurd)))
    if len(bad):
        step = int(bad[0])
        raise Diverged(
            f"the training loss became {losses[step]:.3g} in {place}, step {step}, at a learning rate of "
            f"{rates[step]:.3g}. Use a lower optim.lr, or optim.clip=1."
        )
    return mean
