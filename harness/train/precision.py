"""In what way a network computes: number format, memory layout, compiled or not, on how many threads.

The name of it is kept with every trial, so that a resumed study computes the same numbers.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from harness.errors import HarnessError

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Precision:
    """Autocast format, memory layout, compilation and threads of a training."""

    name: str
    """fp32, bf16 or fp16"""
    channels_last: bool
    compiled: bool = False
    threads: int = 0
    """of torch on a CPU; 0: as many as the process was given"""

    @property
    def dtype(self) -> torch.dtype:
        return DTYPES[self.name]

    @property
    def layout(self) -> torch.memory_format:
        return torch.channels_last if self.channels_last else torch.contiguous_format

    def __str__(self) -> str:
        """E.g. fp32, bf16+channels_last, fp16+channels_last+compiled, fp32+channels_last+8threads."""
        parts = [self.name]
        parts += ["channels_last"] * self.channels_last + ["compiled"] * self.compiled
        parts += [f"{self.threads}threads"] if self.threads else []
        return "+".join(parts)


def parse_precision(text: str) -> Precision:
    """The inverse of str(Precision). Raises HarnessError."""
    name, *parts = text.split("+")
    threads = [part.removesuffix("threads") for part in parts if part.endswith("threads")]
    unknown = [part for part in parts if part not in ("channels_last", "compiled") and not part.endswith("threads")]
    if name not in DTYPES or unknown or len(threads) > 1 or not all(number.isdigit() for number in threads):
        raise HarnessError(
            f"precision {text!r} is not one of this version. Write something like bf16+channels_last+compiled, "
            "with fp32, bf16 or fp16 first."
        )
    return Precision(name, "channels_last" in parts, "compiled" in parts, int(threads[0]) if threads else 0)


@contextmanager
def threads_of(precision: Precision) -> Iterator[None]:
    """Within it torch works with the precision's threads."""
    before = torch.get_num_threads()
    try:
        if precision.threads:
            torch.set_num_threads(precision.threads)
        yield
    finally:
        torch.set_num_threads(before)


def forward_of(network: nn.Module, precision: Precision) -> Callable[[Tensor], Tensor]:
    """What to call in place of the network: itself, or its compiled form, which trains the same weights.

    Compiled is what most steps are, training batches of one shape: that of the first one. The last, smaller batch of
    an epoch and all scoring go through the network as it is, because each further shape or mode would be compiled
    anew, which takes longer than all it could save.
    """
    if not precision.compiled:
        return network
    compiled: Callable[[Tensor], Tensor] = torch.compile(network, dynamic=False)
    shapes: list[torch.Size] = []

    def forward(x: Tensor) -> Tensor:
        if not network.training:
            logits: Tensor = network(x)
            return logits
        if not shapes:
            shapes.append(x.shape)
        return compiled(x) if x.shape == shapes[0] else network(x)

    return forward
