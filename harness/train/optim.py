"""Optimiser and learning-rate schedule from the spec's `optim` block. It must not know data or folds."""

import math

import torch
from torch import nn

from harness.study.training import Optim


def build_optimizer(network: nn.Module, optim: Optim) -> torch.optim.Optimizer:
    """AdamW (Loshchilov and Hutter 2019) or SGD with Nesterov momentum; norms and biases get no weight decay."""
    trainable = [p for p in network.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trainable if p.ndim > 1], "weight_decay": optim.weight_decay},
        {"params": [p for p in trainable if p.ndim <= 1], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if optim.name == "adamw":
        return torch.optim.AdamW(groups, lr=optim.lr, betas=(optim.momentum, 0.999), fused=True)
    return torch.optim.SGD(groups, lr=optim.lr, momentum=optim.momentum, nesterov=optim.momentum > 0, fused=True)


def learning_rate(optim: Optim, step: int, steps: int) -> float:
    """The rate of optimiser step `step` (from 0) of `steps`: linear warm-up, then the schedule.

    A pure function of the step, so that a resumed training needs no scheduler state.
    """
    warm = round(optim.warmup * steps)
    if step < warm:
        return optim.lr * (step + 1) / (warm + 1)
    if optim.schedule == "constant":
        return optim.lr
    if optim.schedule == "step":
        passed = sum(step >= share * steps for share in optim.step_at)
        return optim.lr * optim.step_factor**passed
    progress = (step - warm) / max(1, steps - warm)
    return optim.lr * 0.5 * (1 + math.cos(math.pi * progress))
