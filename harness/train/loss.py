"""What training minimises: cross-entropy over classes, or over each label of a multi-label task.

n: rows, C: classes.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from harness.metrics import UNKNOWN


def class_weights(y: NDArray[np.int64], classes: int) -> Tensor:
    """(C,) inverse class frequency with mean 1 over rows; 0 for a class that the fold's training rows lack."""
    counts = np.bincount(y, minlength=classes).astype(np.float64)
    present = counts > 0
    weights = np.zeros(classes)
    weights[present] = len(y) / present.sum() / counts[present]
    return torch.tensor(weights, dtype=torch.float32)


def answer_weights(y: NDArray[np.int64]) -> Tensor:
    """(C, 2) weights of no and yes in a multi-label task: within each label inverse frequency with mean 1 over its
    known rows, so that a rare finding counts as much as its absence; 1 for a label that has one answer only."""
    counts = np.stack([(y == 0).sum(axis=0), (y == 1).sum(axis=0)], axis=1).astype(np.float64)
    both = (counts > 0).all(axis=1, keepdims=True)
    weights = np.where(both, counts.sum(axis=1, keepdims=True) / 2 / np.maximum(counts, 1), 1.0)
    return torch.tensor(weights, dtype=torch.float32)


class MultiLabelLoss(nn.Module):
    """Mean over known answers of the two-class cross-entropy; smoothing moves a label by half of itself towards the
    other, as label smoothing over two classes does."""

    def __init__(self, weights: Tensor | None, smoothing: float) -> None:
        super().__init__()
        self.weights = weights
        self.smoothing = smoothing

    def forward(self, logits: Tensor, y: Tensor) -> Tensor:
        """logits (n, C) float, y (n, C) with 1, 0, -1 -> the loss; 0 where no answer is known."""
        known = (y != UNKNOWN).to(logits.dtype)
        yes = (y == 1).to(logits.dtype)
        target = yes * (1 - self.smoothing) + self.smoothing / 2
        loss = functional.binary_cross_entropy_with_logits(logits, target, reduction="none")
        if self.weights is not None:
            known = known * torch.where(y == 1, self.weights[:, 1], self.weights[:, 0])
        return (loss * known).sum() / known.sum().clamp(min=1e-12)


def build_loss(y: NDArray[np.int64], classes: int, weighted: bool, smoothing: float, device: str) -> nn.Module:
    """The loss for labels like y (n,) or (n, C), the fold's TRAINING rows: weights are fitted on nothing else."""
    if y.ndim == 2:
        return MultiLabelLoss(answer_weights(y).to(device) if weighted else None, smoothing)
    weights = class_weights(y, classes).to(device) if weighted else None
    return nn.CrossEntropyLoss(weight=weights, label_smoothing=smoothing)
