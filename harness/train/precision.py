"""In what way a network computes: number format, memory layout, compiled or not.

Chosen by rule from the study and the kind of device, never by a clock: machines of one kind train a study in one way.
The name of it is kept with the study, so that a resumed study computes the same numbers on any machine.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from harness.config.spec import Spec
from harness.errors import HarnessError, RequestError
from harness.models.network import build_network, outline

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Precision:
    """Autocast format, memory layout and compilation of a training."""

    name: str
    """fp32, bf16 or fp16"""
    channels_last: bool
    compiled: bool = False
    threads: int = 0
    """of torch on a CPU, as studies of earlier versions may have it; 0: as many as the process was given"""

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


def choose_precision(spec: Spec, device: str) -> Precision:
    """What `train.precision` and `train.compile` come to for this spec's backbone on this device: by rule, so that no
    clock decides what numbers come out.

    What train.precision names; else bf16 on a card of compute capability 8.0 or later, or on a CPU that computes in
    bf16 (avx512_bf16, amx_bf16, ARM bf16) for a network without depthwise convolutions, which are slower so; else fp32.
    Always channels_last. Compiled where train.compile is true. Raises RequestError where that cannot be done.
    """
    train = spec.train
    name = ("bf16" if _takes_bf16(spec, device) else "fp32") if train.precision == "auto" else train.precision
    precision = Precision(name, channels_last=True, compiled=train.compile is True)
    if precision.compiled:
        _require_compiling(spec, device, precision)
    return precision


def _takes_bf16(spec: Spec, device: str) -> bool:
    if device.startswith("cuda"):
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device != "cpu" or not cpu_computes_bf16():
        return False
    decode = spec.data.decode
    network = outline(spec.model.backbone, 2, decode.channels, decode.side)
    convolutions = [part for part in network.modules() if isinstance(part, nn.Conv2d)]
    return not any(part.groups == part.in_channels > 1 for part in convolutions)


def cpu_computes_bf16(facts: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether this machine's CPU has instructions for bf16, by what Linux says of it; False where nothing is said."""
    try:
        lines = facts.read_text().splitlines()
    except OSError:
        return False
    known = next((line.partition(":")[2].split() for line in lines if line.startswith(("flags", "Features"))), [])
    return not {"avx512_bf16", "amx_bf16", "bf16"}.isdisjoint(known)


def _require_compiling(spec: Spec, device: str, precision: Precision) -> None:
    """One compiled training step of two images. Raises RequestError where it fails."""
    decode = spec.data.decode
    if decode.size == "native":
        raise RequestError(
            "train.compile: true: images of their own sizes make batches of a shape each, and every shape would be "
            "compiled anew. Set train.compile: false, or data.decode.size to a number."
        )
    model = spec.model.model_copy(update={"weights": "none"})
    network = build_network(model, 2, decode.channels, decode.side, 0).to(device).to(memory_format=precision.layout)
    x = torch.zeros(2, decode.channels, decode.side, decode.side, device=device).to(memory_format=precision.layout)
    try:
        with torch.autocast(x.device.type, precision.dtype, enabled=precision.name != "fp32"):
            loss = forward_of(network.train(), precision)(x).float().sum()
        torch.autograd.backward(loss)
    except Exception as error:  # compilers fail in many ways
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise RequestError(
            f"train.compile: true: {spec.model.backbone} could not be compiled here: {reason}. Set it to false."
        ) from error
    finally:
        torch.compiler.reset()
