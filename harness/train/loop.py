"""Fit one fold: the training loop, and nothing about files of studies, searches or tracking.

Every epoch draws from seeds of its own (order, augmentation, dropout), so the state after epoch e and the number e are
all that a resumed training needs. n: training rows, v: held-out rows, S: side, B: batch.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from harness import metrics
from harness.data.augment import augment
from harness.errors import HarnessError
from harness.models.network import Network, build_network
from harness.ragged import Pixels
from harness.records import EpochReport
from harness.seeds import derive_seed
from harness.study.spec import Spec
from harness.train.checkpoint import ResumeState
from harness.train.images import Images, load_images, statistics
from harness.train.infer import normalize
from harness.train.loss import build_loss
from harness.train.optim import build_optimizer, learning_rate
from harness.train.precision import Precision

OnEpoch = Callable[[EpochReport], None]
"""Called after each epoch; may raise to stop the training."""


class Diverged(HarnessError):
    """The loss became NaN or infinite."""


@dataclass(frozen=True)
class FoldData:
    """One fold's rows as arrays."""

    fold: int
    x_train: Pixels
    """n images: (n, S, S, channels), or of their own sizes"""
    y_train: NDArray[np.int64]
    """(n,) class numbers, or (n, classes) answers of a multi-label task"""
    x_val: Pixels
    """v images"""
    y_val: NDArray[np.int64]
    classes: int


@dataclass(frozen=True)
class Fitted:
    network: Network
    mean: tuple[float, ...]
    std: tuple[float, ...]
    history: list[dict[str, Any]]
    seconds: float
    """training and validation, over all epochs, resumed ones included"""
    images: int


def fit_fold(
    spec: Spec, data: FoldData, device: str, precision: Precision, resume: ResumeState, on_epoch: OnEpoch
) -> Fitted:
    """Train a network on one fold's training rows and report on its held-out rows after every epoch.

    The last epoch's weights are what is returned (train.select: last): the held-out rows choose nothing.
    Raises Diverged when the loss is not finite, and whatever `on_epoch` raises.
    """
    start = time.perf_counter()
    kind = device.split(":")[0]
    decode = spec.data.decode
    network = build_network(
        spec.model, data.classes, decode.channels, decode.side, derive_seed(spec.seed, "fold", data.fold, "weights")
    )
    network.to(device).to(memory_format=precision.layout)
    optimizer = build_optimizer(network, spec.optim)
    scaler = torch.amp.GradScaler(kind, enabled=precision.name == "fp16")
    loss_of = build_loss(data.y_train, data.classes, spec.train.class_weights, spec.train.label_smoothing, device)
    mean, std = statistics(data.x_train)
    x_train, y_train = load_images(data.x_train, mean, device), torch.from_numpy(data.y_train.copy()).to(device)
    x_val, y_val = load_images(data.x_val, mean, device), torch.from_numpy(data.y_val.copy()).to(device)

    history: list[dict[str, Any]] = []
    before = 0.0
    state = resume.load(device)
    if state is not None:
        network.load_state_dict(state["network"])
        optimizer.load_state_dict(state["optimizer"])
        scaler.load_state_dict(state["scaler"])
        history, before = state["history"], state["seconds"]

    epochs, n = spec.train.epochs, len(y_train)
    steps = epochs * len(x_train.epoch(torch.arange(n), spec.train.batch_size, 0))
    try:
        for epoch in range(len(history), epochs):
            began = time.perf_counter()
            seed = derive_seed(spec.seed, "fold", data.fold, "epoch", epoch)
            torch.manual_seed(seed)
            draws = torch.Generator().manual_seed(derive_seed(seed, "augment"))
            network.train()
            losses, sizes = [], []
            shuffled = torch.randperm(n, generator=torch.Generator().manual_seed(derive_seed(seed, "order")))
            order = x_train.epoch(shuffled, spec.train.batch_size, derive_seed(seed, "batches"))
            for number, rows in enumerate(order):
                rate = learning_rate(spec.optim, epoch * len(order) + number, steps)
                for group in optimizer.param_groups:
                    group["lr"] = rate
                x = augment(x_train.batch(rows).float().div_(255), spec.augment, draws)
                x = normalize(x, mean, std).contiguous(memory_format=precision.layout)
                with torch.autocast(kind, precision.dtype, enabled=precision.name != "fp32"):
                    loss = loss_of(network(x).float(), y_train[rows.to(device)])
                optimizer.zero_grad(set_to_none=True)
                scaler.scale(loss).backward()
                if spec.optim.clip > 0:
                    scaler.unscale_(optimizer)
                    nn.utils.clip_grad_norm_(network.parameters(), spec.optim.clip)
                scaler.step(optimizer)
                scaler.update()
                losses.append(loss.detach())
                sizes.append(len(rows))
            train_loss = _mean_loss(losses, sizes, data.fold, epoch, spec.optim.lr)
            val_loss, val = evaluate(network, x_val, y_val, mean, std, precision, loss_of)
            report = EpochReport(
                data.fold, epoch, epochs, train_loss, val_loss, val, rate, time.perf_counter() - began, n
            )
            history.append({**vars(report)})
            seconds = before + time.perf_counter() - start
            if epoch + 1 < epochs:
                resume.keep(
                    {
                        "epoch": epoch,
                        "network": network.state_dict(),
                        "optimizer": optimizer.state_dict(),
                        "scaler": scaler.state_dict(),
                        "history": history,
                        "seconds": seconds,
                    }
                )
            on_epoch(report)
    except KeyboardInterrupt:
        resume.write()
        raise
    return Fitted(network, mean, std, history, before + time.perf_counter() - start, n * epochs)


def evaluate(
    network: Network,
    images: Images,
    y: Tensor,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    precision: Precision,
    loss_of: nn.Module,
    batch_size: int = 256,
) -> tuple[float, dict[str, float]]:
    """Loss and metrics on held-out rows for the learning curve, in the training's own precision."""
    network.eval()
    logits = torch.empty(len(y), network.classes, device=y.device)
    with torch.inference_mode():
        for rows in images.in_order(batch_size):
            inputs = normalize(images.batch(rows).float().div_(255), mean, std)
            inputs = inputs.contiguous(memory_format=precision.layout)
            with torch.autocast(y.device.type, precision.dtype, enabled=precision.name != "fp32"):
                logits[rows.to(y.device)] = network(inputs).float()
        loss = float(loss_of(logits, y))
    p = metrics.probabilities(logits.cpu().numpy(), multilabel=y.ndim == 2)
    return loss, metrics.score(y.cpu().numpy(), p)


def _mean_loss(losses: list[Tensor], sizes: list[int], fold: int, epoch: int, lr: float) -> float:
    """The epoch's mean loss over rows; read from the device once an epoch, not once a step."""
    values = torch.stack(losses).double().cpu().numpy()
    bad = np.flatnonzero(~np.isfinite(values))
    if len(bad):
        raise Diverged(
            f"the training loss became {values[bad[0]]} in fold {fold}, epoch {epoch}, step {bad[0]} "
            f"at optim.lr={lr:g}. Use a lower optim.lr, or optim.clip=1."
        )
    return math.fsum(v * s for v, s in zip(values, sizes, strict=True)) / sum(sizes)
