"""What training minimises: cross-entropy over classes, or over each label of a multi-label task, row by row.

The loss gives each row's value and weight, not their mean: the mean over any rows is sum(values) / sum(weights), so
that micro-batches of any sizes, mixed targets and weighted rows add up to exactly what one large batch gives.
B: rows of a batch, n: training rows, C: classes or labels.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from harness.config.spec import Train
from harness.errors import RequestError
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
    counts = _answers(y)
    both = (counts > 0).all(axis=1, keepdims=True)
    weights = np.where(both, counts.sum(axis=1, keepdims=True) / 2 / np.maximum(counts, 1), 1.0)
    return torch.tensor(weights, dtype=torch.float32)


def yes_weights(y: NDArray[np.int64]) -> Tensor:
    """(C, 2) weights of no and yes: 1, and the label's no-to-yes ratio (the pos_weight of torch's
    BCEWithLogitsLoss); 1 for a label that has one answer only."""
    no, yes = _answers(y).T
    ratio = np.where((no > 0) & (yes > 0), no / np.maximum(yes, 1), 1.0)
    return torch.tensor(np.stack([np.ones_like(ratio), ratio], axis=1), dtype=torch.float32)


def _answers(y: NDArray[np.int64]) -> NDArray[np.float64]:
    """(C, 2) how often each label of y (n, C) was answered no and yes."""
    return np.stack([(y == 0).sum(axis=0), (y == 1).sum(axis=0)], axis=1).astype(np.float64)


class Loss(nn.Module):
    """Values and weights of rows, for class numbers y (B,) or for answers y (B, C) of 1, 0, -1 (unknown).

    A row's value is the sum over classes c of q_c w_c (1 - p_c) ** gamma * -log p_c, where q is its smoothed target,
    w the classes' weights and p the softmax; its weight is w of its class. This is torch's CrossEntropyLoss (gamma 0),
    the focal loss of Lin et al. 2017 without alpha (no smoothing), and both together. In a multi-label task each known
    answer is such a row over the two classes no and yes, with the sigmoid, and the row sums them up.
    """

    weight: Tensor | None
    counted: Tensor | None

    def __init__(self, weight: Tensor | None, counted: Tensor | None, smoothing: float, gamma: float) -> None:
        """weight: (C,) of classes, or (C, 2) of each label's no and yes, multiplies the values; counted, shaped alike,
        is the weight that a row has in the mean. None: 1."""
        super().__init__()
        self.register_buffer("weight", weight)
        self.register_buffer("counted", counted)
        self.smoothing = smoothing
        self.gamma = gamma

    def forward(self, logits: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """logits (B, C) float32, y (B,) or (B, C) int64 -> values (B,) and weights (B,)."""
        values = self._classes(logits, y) if y.ndim == 1 else self._labels(logits, y)
        return values, self.weights(y).to(values.dtype)

    def weights(self, y: Tensor) -> Tensor:
        """(B,) float32 weights of rows in the mean, known before any forward pass."""
        if y.ndim == 1:
            return torch.ones_like(y, dtype=torch.float32) if self.counted is None else self.counted[y]
        known = (y != UNKNOWN).float()
        if self.counted is not None:
            known = known * torch.where(y == 1, self.counted[:, 1], self.counted[:, 0])
        return known.sum(dim=1)

    def _classes(self, logits: Tensor, y: Tensor) -> Tensor:
        weight = None if self.weight is None else self.weight.to(logits.dtype)
        if self.gamma == 0:
            return functional.cross_entropy(logits, y, weight=weight, reduction="none", label_smoothing=self.smoothing)
        log_p = functional.log_softmax(logits, dim=1)
        target = functional.one_hot(y, logits.shape[1]).to(logits.dtype)
        target = target * (1 - self.smoothing) + self.smoothing / logits.shape[1]
        # Where p rounds to 1 the slope of (1 - p) ** gamma is infinite for gamma < 1: the bound makes it 0.
        rest = (-torch.expm1(log_p)).clamp(min=1e-12)
        terms = target * rest**self.gamma * -log_p
        return (terms if weight is None else terms * weight).sum(dim=1)

    def _labels(self, logits: Tensor, y: Tensor) -> Tensor:
        yes = (y == 1).to(logits.dtype) * (1 - self.smoothing) + self.smoothing / 2
        log_yes, log_no = functional.logsigmoid(logits), functional.logsigmoid(-logits)
        terms_yes, terms_no = yes * -log_yes, (1 - yes) * -log_no
        if self.gamma:
            # 1 - p of an answer is p of the other one.
            terms_yes = terms_yes * torch.exp(self.gamma * log_no)
            terms_no = terms_no * torch.exp(self.gamma * log_yes)
        if self.weight is not None:
            terms_no, terms_yes = terms_no * self.weight[:, 0], terms_yes * self.weight[:, 1]
        return torch.where(y != UNKNOWN, terms_yes + terms_no, 0.0).sum(dim=1)


def build_loss(y: NDArray[np.int64], classes: int, train: Train, device: str) -> Loss:
    """The loss for labels like y (n,) or (n, C), the fold's TRAINING rows: weights are fitted on nothing else.

    Class weights (of answers, in a multi-label task) also weigh rows in the mean, as in torch's CrossEntropyLoss;
    pos_weights do not, as in its BCEWithLogitsLoss. Raises RequestError as check_loss does.
    """
    check_loss(train, y.ndim == 2)
    weight = counted = None
    if train.class_weights:
        weight = counted = class_weights(y, classes) if y.ndim == 1 else answer_weights(y)
    elif train.pos_weights:
        weight = yes_weights(y)
    return Loss(weight, counted, train.label_smoothing, train.focal).to(device)


def check_loss(train: Train, multilabel: bool) -> None:
    """Raises RequestError for switches that have no meaning for the task, or would count twice."""
    if train.pos_weights and not multilabel:
        raise RequestError(
            "train.pos_weights=true weighs the yes of each of several labels an image; this data set has one class an "
            "image. Use train.class_weights=true."
        )
    if train.pos_weights and train.class_weights:
        raise RequestError(
            "train.class_weights=true and train.pos_weights=true: each balances the yes and no of a label, and "
            "together they would do it twice. Set one of them to false."
        )
    for key, switched_on in (("class_weights", train.class_weights), ("pos_weights", train.pos_weights)):
        if switched_on and train.sampling == "balanced":
            raise RequestError(
                f"train.{key}=true and train.sampling=balanced: each compensates for unequal frequencies, and together "
                "they would do it twice (a class of 10% of the rows would have 90% of the loss). "
                f"Type --set train.{key}=false or --set train.sampling=shuffle; where both are searched, write "
                f"train.{key}: {{choice: [false, true], when: {{train.sampling: shuffle}}}}."
            )


def mean(values: Tensor, weights: Tensor) -> Tensor:
    """() the mean over rows, each as heavy as its weight; 0 where nothing has any."""
    return values.sum() / weights.sum().clamp(min=torch.finfo(weights.dtype).tiny)


def mean_loss(loss: Loss, logits: Tensor, y: Tensor) -> Tensor:
    """() the mean loss of a batch: logits (B, C), y (B,) or (B, C)."""
    return mean(*loss(logits, y))


def mixed(loss: Loss, logits: Tensor, y: Tensor, partner: Tensor, share: Tensor) -> tuple[Tensor, Tensor]:
    """Values and weights of mixed images (Zhang et al. 2018): share (B,) of the own targets y, the rest of the
    partner's, shaped like y."""
    own, own_weights = loss(logits, y)
    other, other_weights = loss(logits, partner)
    return share * own + (1 - share) * other, share * own_weights + (1 - share) * other_weights
