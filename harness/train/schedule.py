"""The learning rate of a step and what stands still in an epoch, as pure functions: a resumed training needs no
scheduler state. Knows no torch.

Every schedule is written in terms of optimiser steps, from 0; `steps` is their number over the whole training.
"""

import math
from collections.abc import Sequence

from harness.config.spec import Optim, Train

DIV, FINAL_DIV = 25.0, 1e4
"""one-cycle: the first rate is lr / DIV, the last one lr / DIV / FINAL_DIV, as in torch and fastai"""
BETTER = 1e-4
"""plateau: a loss is better when it is lower by this share of the best so far, as in torch"""


def learning_rate(optim: Optim, step: int, steps: int, losses: Sequence[float] = ()) -> float:
    """The rate of optimiser step `step` (from 0) of `steps`, before a layer's own scale.

    `losses`: the monitored loss of each finished epoch, in order; only the plateau schedule reads them. All but
    one-cycle begin with a linear warm-up over the first `optim.warmup` of the steps.
    """
    if optim.schedule == "onecycle":
        return optim.lr * one_cycle(step, steps, optim.warmup)
    warm = round(optim.warmup * steps)
    ramp = (step + 1) / (warm + 1) if step < warm else 1.0
    if optim.schedule == "plateau":
        return optim.lr * ramp * optim.step_factor ** falls(losses, optim.plateau_epochs)
    if ramp < 1.0 or optim.schedule == "constant":
        return optim.lr * ramp
    if optim.schedule == "step":
        passed = sum(step >= share * steps for share in optim.step_at)
        return optim.lr * optim.step_factor**passed
    progress = (step - warm) / max(1, steps - warm)
    return optim.lr * cosine(1.0, optim.lr_end, progress)


def cosine(start: float, end: float, progress: float) -> float:
    """From start (progress 0) to end (progress 1) along half a cosine (Loshchilov and Hutter 2017)."""
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * progress))


def one_cycle(step: int, steps: int, rising: float) -> float:
    """The rate as a share of its peak (Smith and Topin 2019): up from 1 / DIV during the first `rising` share of the
    steps, then down to 1 / DIV / FINAL_DIV, both along half a cosine; torch's OneCycleLR with cos annealing."""
    peak, last = rising * steps - 1, steps - 1
    if step <= peak:
        return cosine(1 / DIV, 1.0, step / peak if peak > 0 else 1.0)
    return cosine(1.0, 1 / DIV / FINAL_DIV, (step - peak) / (last - peak))


def falls(losses: Sequence[float], patience: int) -> int:
    """How often the rate has fallen: once for each `patience` epochs in a row without a better loss than the best so
    far (torch's ReduceLROnPlateau with its patience one lower). A loss that is not a number is never better."""
    best, waited, count = math.inf, 0, 0
    for loss in losses:
        if loss < best * (1 - BETTER):
            best, waited = loss, 0
        else:
            waited += 1
        if waited == patience:
            waited, count = 0, count + 1
    return count


def frozen_stages(train: Train, epoch: int) -> int:
    """How many stages, counted from the input, stand still in an epoch."""
    return max(0, train.freeze - epoch // train.unfreeze_every) if train.unfreeze_every else train.freeze
