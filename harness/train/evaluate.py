"""Held-out rows through the network after an epoch, for the learning curve, in the training's own precision."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from harness import metrics
from harness.train.images import Images, to_input
from harness.train.loss import Loss, mean_loss
from harness.train.pieces import in_fitting_batches
from harness.train.precision import Precision
from harness.train.prefetch import prefetched

BATCH = 256
"""images at a time; halved while the memory does not suffice"""


@dataclass(frozen=True)
class Scores:
    loss: float
    metrics: dict[str, float]


def predict(
    forward: Callable[[Tensor], Tensor],
    classes: int,
    images: Images,
    y: Tensor,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    precision: Precision,
    loss: Loss,
) -> tuple[Tensor, Tensor]:
    """Logits (v, classes) of v images with labels y on the device, and their mean loss (), both on the device.

    The network is in evaluation mode.
    """
    logits = torch.empty(len(y), classes, device=y.device)

    def run(batch_size: int) -> None:
        with torch.inference_mode():
            for rows, x in prefetched(images, images.in_order(batch_size)):
                inputs = to_input(x, mean, std, precision.layout)
                with torch.autocast(y.device.type, precision.dtype, enabled=precision.name != "fp32"):
                    logits[rows] = forward(inputs).float()

    in_fitting_batches(run, BATCH, str(y.device))
    with torch.inference_mode():
        return logits, mean_loss(loss, logits, y)


def scores(y: NDArray[np.int64], logits: NDArray[np.floating], loss: NDArray[np.floating]) -> Scores:
    """What predict() found, by labels y (v,) or (v, classes)."""
    return Scores(float(loss), metrics.score(y, metrics.probabilities(logits, multilabel=y.ndim == 2)))
