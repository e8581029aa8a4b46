"""Averages of a network's weights over its training, which are then what is kept: EMA and SWA. Knows no data.

The updates are torch's foreach kernels over tensors that are looked up once. torch's own AveragedModel is not used: in
every step it walks through all modules, and copies its counter to the device, which waits for a GPU's queue.
"""

import copy
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from harness.config.spec import Train
from harness.errors import RequestError
from harness.models.network import Network


class Average:
    """A second set of weights beside a network that trains.

    EMA (Polyak and Juditsky 1992): after step t = 0, 1, ... average = d * average + (1 - d) * weights with
    d = min(decay, (1 + t) / (10 + t)), so that the untrained weights are soon forgotten. SWA (Izmailov et al. 2018):
    the plain mean of the weights at the end of each epoch from epoch `first` on; before it there is no average.

    Batch-norm statistics are averaged like weights; for SWA `finish` estimates them anew. The average has the
    network's device and memory format and is in evaluation mode always.
    """

    def __init__(self, network: Network, decay: float, first: int) -> None:
        """decay 0: SWA from epoch `first`. The network must be on its device already, in its memory format: the
        average reads its tensors where they are now."""
        self.decay = decay
        self.first = first
        self.updates = 0
        self._trained = network
        self._average = copy.deepcopy(network).requires_grad_(False).eval()
        pairs = list(zip(_tensors(self._average), _tensors(network), strict=True))
        self._ours = [ours for ours, _ in pairs if ours.is_floating_point()]
        self._theirs = [theirs for _, theirs in pairs if theirs.is_floating_point()]
        self._counters = [(ours, theirs) for ours, theirs in pairs if not ours.is_floating_point()]

    def after_step(self) -> None:
        """To be called after each optimiser step."""
        if self.decay > 0:
            self._move(1 - min(self.decay, (1 + self.updates) / (10 + self.updates)))

    def after_epoch(self, epoch: int) -> None:
        """To be called after the last step of each epoch (from 0)."""
        if self.decay == 0 and epoch >= self.first:
            self._move(1 / (self.updates + 1))

    def _move(self, share: float) -> None:
        torch._foreach_lerp_(self._ours, self._theirs, share)
        self.updates += 1

    def network(self) -> Network:
        """What to evaluate, score and save: the average, or the network itself as long as there is no average.
        It is one and the same object every time, and changes with the next step."""
        if self.updates == 0:
            return self._trained
        for ours, theirs in self._counters:
            ours.copy_(theirs)
        return self._average

    def finish(self, batches: Iterable[Tensor]) -> None:
        """SWA: estimate the batch-norm statistics of the averaged weights from inputs (B, ...) of the TRAINING rows,
        not augmented, as they enter the network. To be called before the average is scored or saved, in any epoch.
        Reads no batch where there is nothing to estimate: EMA, before `first`, and networks without batch norm."""
        if self.decay == 0 and self.updates > 0:
            estimate_statistics(self._average, trained_norms(self._average, self._trained), batches)

    def state_dict(self) -> dict[str, Any]:
        """All that an exact resume needs, besides the trained network's own state."""
        return {"network": self._average.state_dict(), "updates": self.updates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take a state of state_dict(), on any device."""
        self._average.load_state_dict(state["network"])
        self.updates = state["updates"]


def _tensors(network: nn.Module) -> list[Tensor]:
    """Parameters and buffers that belong to the state, each once, also where a module has two names."""
    state = network.state_dict()
    names = [name for name, _ in [*network.named_parameters(), *network.named_buffers()]]
    return [state[name] for name in names if name in state]


def build_average(network: Network, train: Train) -> Average | None:
    """The average that the spec asks for, or None. Raises RequestError as check_average does."""
    check_average(train)
    if train.ema > 0:
        return Average(network, train.ema, 0)
    if train.swa > 0:
        return Average(network, 0.0, train.epochs - max(1, round(train.swa * train.epochs)))
    return None


def check_average(train: Train) -> None:
    """Raises RequestError when two averages are asked for: only one set of weights can be kept."""
    if train.ema > 0 and train.swa > 0:
        raise RequestError(
            f"train.ema={train.ema:g} and train.swa={train.swa:g}: one average of the weights is kept, not two. "
            "Set one of them to 0."
        )


def trained_norms(average: nn.Module, trained: nn.Module) -> list[_BatchNorm]:
    """The average's batch-norm layers whose originals are being trained: frozen ones keep their loaded statistics."""
    pairs = zip(average.modules(), trained.modules(), strict=True)
    return [
        ours
        for ours, theirs in pairs
        if isinstance(ours, _BatchNorm)
        and ours.running_mean is not None
        and (not ours.affine or any(p.requires_grad for p in theirs.parameters()))
    ]


@torch.no_grad()
def estimate_statistics(network: nn.Module, norms: list[_BatchNorm], batches: Iterable[Tensor]) -> None:
    """Set the running statistics of batch-norm layers to the mean over inputs x (B, ...), each batch as heavy as its
    rows; with batches of one size what torch's update_bn gives. The rest of the network stays in evaluation mode, so
    neither dropout nor stochastic depth disturbs the statistics that inference will use, and nothing is drawn.

    Batch norm needs more than one value per channel: a batch of a single row may raise ValueError.
    """
    if not norms:
        return
    network.eval()
    momenta = [norm.momentum for norm in norms]
    rows = 0
    try:
        for norm in norms:
            norm.train()
        for x in batches:
            rows += len(x)
            for norm in norms:
                norm.momentum = len(x) / rows  # 1 at first: nothing is left of the old statistics
            network(x)
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
            norm.eval()
