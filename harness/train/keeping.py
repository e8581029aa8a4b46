"""Which epoch's weights a fold keeps: the last, or the best by scores that something else was held out for."""

import math
from typing import Any

from torch import Tensor, nn

from harness.config.spec import Train
from harness.metrics import METRICS


class Keeper:
    """The best epoch so far, its weights, and whether to go on.

    With `select: last` it keeps nothing and never stops.
    """

    def __init__(self, train: Train) -> None:
        self._train = train
        self._sign = 1.0 if METRICS[train.monitor].higher_is_better else -1.0
        self.epoch: int | None = None
        self.value = math.nan
        self.weights: dict[str, Tensor] = {}
        self.stopped = False

    @property
    def chooses(self) -> bool:
        return self._train.select != "last"

    def see(self, epoch: int, scores: dict[str, float], network: nn.Module) -> None:
        """Look at a finished epoch. A score that is not defined is never better than one that is."""
        if not self.chooses:
            return
        value = scores[self._train.monitor]
        first, defined = self.epoch is None, math.isfinite(value)
        if first or (defined and not self._sign * (self.value - value) >= 0):
            self.epoch, self.value = epoch, value
            self.weights = {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}
        assert self.epoch is not None
        self.stopped = 0 < self._train.patience <= epoch - self.epoch

    def restore(self, network: nn.Module) -> None:
        """Give the network the kept weights."""
        if self.weights:
            network.load_state_dict(self.weights)

    def state(self) -> dict[str, Any]:
        return {"epoch": self.epoch, "value": self.value, "weights": self.weights, "stopped": self.stopped}

    def load(self, state: dict[str, Any]) -> None:
        self.epoch, self.value = state["epoch"], state["value"]
        self.weights, self.stopped = dict(state["weights"]), state["stopped"]
