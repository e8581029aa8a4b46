"""One optimiser step, in as many pieces as memory needs.

One optimiser step: rows in, changed weights out, in as many pieces as the memory needs.

The gradient is that of the mean loss over all rows of the step, however they are divided into batches and pieces:
each piece adds the gradient of its summed loss over the weight of all rows. Only batch norm sees a difference, because
its statistics are those of a piece.

B: rows of a batch, C: classes, H, W: sides in pixels, P: drawn numbers per image.

Going on with smaller pieces where memory did not suffice.
"""

import gc
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn

from harness.augment.pipeline import Mix, apply, apply_mix
from harness.config.spec import Spec
from harness.errors import HarnessError
from harness.hardware import is_out_of_memory
from harness.train.batches import to_input
from harness.train.loss import Loss, mixed
from harness.train.optim import add_l1, clip_gradients
from harness.train.precision import Precision


class OutOfMemory(HarnessError):
    """Not even two images at a time fit."""


@dataclass(frozen=True)
class Batch:
    """Rows on their way to the network, with all the randomness that is theirs."""

    x: Tensor
    """(B, channels, H, W) uint8 on the device"""
    y: Tensor
    """(B,) or (B, C) on the device"""
    draws: Tensor | None
    """(B, P) what augmentation draws; None where nothing is augmented"""
    mix: Mix | None
    """who is mixed with whom"""
    sizes: Tensor | None = None
    """(B, 2) int64 on the CPU: height and width of images of their own sizes, which stand in the middle of x"""


@dataclass
class Stepper:
    """What a step needs beside its rows."""

    spec: Spec
    network: nn.Module
    forward: Callable[[Tensor], Tensor]
    """the network, or its compiled form"""
    loss: Loss
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    precision: Precision
    mean: tuple[float, ...]
    std: tuple[float, ...]
    device: str
    parts: int = 1
    """pieces that a batch is computed in; doubled whenever the memory does not suffice"""

    def take(self, batches: Sequence[Batch], rate: float) -> tuple[Tensor, Tensor]:
        """Change the weights once. Returns the step's summed weighted loss and its summed weights, on the device.

        Raises OutOfMemory when pieces of two images are still too large.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["scale"]
        while True:
            try:
                value, weight = self._gradients(batches)
                break
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                said = (str(error).strip().splitlines() or ["no message"])[0]
            # outside the except block: the exception holds on to the tensors of the attempt
            self.optimizer.zero_grad(set_to_none=True)
            release(self.device)
            self._halve(max(len(batch.y) for batch in batches), said)
        optim = self.spec.optim
        if optim.clip or optim.clip_value or optim.l1:
            self.scaler.unscale_(self.optimizer)
            add_l1(self.optimizer)
            clip_gradients(self.optimizer, optim.clip, optim.clip_value, in_step=not self.scaler.is_enabled())
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return value, weight

    def _gradients(self, batches: Sequence[Batch]) -> tuple[Tensor, Tensor]:
        self.optimizer.zero_grad(set_to_none=True)
        weight = torch.stack([self._weight(batch) for batch in batches]).sum()
        divisor = weight.clamp(min=1e-12)  # a step may hold nothing but rows of no weight
        total = torch.zeros_like(weight)
        for batch in batches:
            x = self._input(batch)
            for piece in pieces(len(x), self.parts):
                with torch.autocast(x.device.type, self.precision.dtype, enabled=self.precision.name != "fp32"):
                    logits = self.forward(x[piece]).float()
                value = self._values(logits, batch, piece).sum()
                torch.autograd.backward(self.scaler.scale(value / divisor))
                total += value.detach()
        return total, weight

    def _input(self, batch: Batch) -> Tensor:
        """The network's input (B, channels, H, W), float32: augmented, mixed, normalised."""
        x = batch.x
        if batch.draws is not None:
            x = apply(x.float().div_(255), batch.draws, self.spec.augment, batch.sizes)
        if batch.mix is not None:
            x = apply_mix(x.float().div_(255) if x.dtype == torch.uint8 else x, batch.mix)
        return to_input(x, self.mean, self.std, self.precision.layout)

    def _values(self, logits: Tensor, batch: Batch, piece: slice) -> Tensor:
        """The weighted loss of each row of a piece."""
        y, mix = batch.y, batch.mix
        if mix is None:
            own: Tensor = self.loss(logits, y[piece])[0]
            return own
        return mixed(self.loss, logits, y[piece], y[mix.partner[piece]], mix.share[piece])[0]

    def _weight(self, batch: Batch) -> Tensor:
        """What the rows of a batch weigh together, known before any of them is looked at."""
        weights = self.loss.weights(batch.y)
        if batch.mix is not None:
            share = batch.mix.share
            weights = share * weights + (1 - share) * weights[batch.mix.partner]
        return weights.sum()

    def _halve(self, rows: int, said: str) -> None:
        if len(pieces(rows, self.parts)) == len(pieces(rows, 2 * self.parts)):
            decode, backbone = self.spec.data.decode, self.spec.model.backbone
            raise OutOfMemory(
                f"out of memory with {-(-rows // self.parts)} images of {decode.side} pixels and {backbone}: {said}. "
                "Use a smaller data.decode.size or model.backbone, fewer --jobs, or a machine with more memory."
            )
        self.parts *= 2


T = TypeVar("T")


def in_fitting_batches(run: Callable[[int], T], batch_size: int, device: str) -> T:
    """What run(batch size) returns. While the memory of the device does not suffice, it is run again, from its
    beginning, with half the batch; where one image does not fit, that error is raised."""
    while True:
        try:
            return run(batch_size)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error) or batch_size == 1:
                raise
        # outside the except block: the exception holds on to the tensors of the attempt
        release(device)
        batch_size //= 2


def release(device: str) -> None:
    """Give back what nothing refers to any more, so that the next attempt has it."""
    gc.collect()
    if device.startswith("cuda"):
        torch.cuda.empty_cache()


def pieces(rows: int, parts: int) -> list[slice]:
    """`rows` in `parts` nearly equal slices, but none of a single row, from which batch norm learns nothing."""
    parts = max(1, min(parts, rows // 2))
    cuts = [rows * part // parts for part in range(parts + 1)]
    return [slice(a, b) for a, b in itertools.pairwise(cuts)]
