"""What goes into the training of one fold, and what comes out of it. n: training rows, v: held-out rows, S: side."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.images.pixels import Selection
from harness.models.network import Network


@dataclass(frozen=True)
class FoldData:
    """One fold's rows as arrays."""

    fold: int
    x_train: Selection
    """n images: (n, S, S, channels), or of their own sizes"""
    y_train: NDArray[np.int64]
    """(n,) class numbers, or (n, classes) answers of a multi-label task"""
    x_val: Selection
    """v images"""
    y_val: NDArray[np.int64]
    classes: int
    class_names: tuple[str, ...] = ()
    """in the order of the class numbers: a head is started from an earlier study's only where these agree"""
    x_inner: Selection | None = None
    """the inner part of the training rows that chooses the epoch; not trained on (train.select: inner)"""
    y_inner: NDArray[np.int64] | None = None


@dataclass(frozen=True)
class Fitted:
    network: Network
    mean: tuple[float, ...]
    std: tuple[float, ...]
    history: list[dict[str, Any]]
    epoch: int
    """whose weights these are"""
    seconds: float
    """training and validation, over all epochs, resumed ones included"""
    images: int
    """training images seen over all epochs"""
    start_id: str
    """digest of the weights before the first step: only networks with one start have weights that may be averaged"""
