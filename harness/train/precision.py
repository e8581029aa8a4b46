"""Which number format and memory layout trains this network fastest on this device: measured, not assumed.

Half precision doubles the speed of one network and slows another on the same processor, so `auto` times a few real
training steps of each candidate. The answer is kept for the machine, outside any home: the same study computes the
same numbers in every home of this machine.
"""

import os
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from harness.home import lock, read_json, write_json
from harness.models.network import build_network
from harness.study.spec import Spec

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
MARGIN = 1.15
"""half precision must be this much faster than fp32 to be taken"""


@dataclass(frozen=True)
class Precision:
    """Autocast format and memory layout of a training."""

    name: str
    channels_last: bool

    @property
    def dtype(self) -> torch.dtype:
        return DTYPES[self.name]

    @property
    def layout(self) -> torch.memory_format:
        return torch.channels_last if self.channels_last else torch.contiguous_format

    def __str__(self) -> str:
        return self.name + ("+channels_last" if self.channels_last else "")


def parse_precision(text: str) -> Precision:
    """The inverse of str(Precision)."""
    name, _, layout = text.partition("+")
    return Precision(name, layout == "channels_last")


def choose_precision(spec: Spec, device: str) -> Precision:
    """What `train.precision` comes to for this spec's backbone, size, batch and device."""
    if spec.train.precision != "auto":
        return Precision(spec.train.precision, channels_last=True)
    decode = spec.data.decode
    machine = (
        torch.cuda.get_device_name(device) if device.startswith("cuda") else f"cpu-{_cpu()}-{torch.get_num_threads()}"
    )
    key = f"{spec.model.backbone} {decode.side} {decode.channels} {spec.train.batch_size} {machine} {torch.__version__}"
    path = machine_cache() / "precision.json"
    with lock(path.with_suffix(".lock"), "the measured precisions"):
        known: dict[str, str] = read_json(path) if path.exists() else {}
        if key not in known:
            known[key] = str(_measure(spec, device))
            write_json(path, known)
    return parse_precision(known[key])


def machine_cache() -> Path:
    """Where facts about this machine are kept: XDG_CACHE_HOME/harness, or ~/.cache/harness."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "harness"


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    flags = next((line for line in lines if line.startswith("flags")), "")
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "unknown") + (
        " bf16" if "avx512_bf16" in flags or "amx_bf16" in flags else ""
    )


def _measure(spec: Spec, device: str) -> Precision:
    """The faster of fp32 and half precision, each by its best of interleaved rounds of real steps.

    Both in channels_last, which was the faster layout for every network measured: two candidates that lie far apart
    leave the choice to the hardware, not to what else ran on it at the time.
    """
    half = "bf16" if not device.startswith("cuda") or torch.cuda.is_bf16_supported() else "fp16"
    plain, other = Precision("fp32", channels_last=True), Precision(half, channels_last=True)
    best = {plain: float("inf"), other: float("inf")}
    decode = spec.data.decode
    network = build_network(spec.model.model_copy(update={"weights": "none"}), 2, decode.channels, decode.side, 0)
    network.to(device).train()
    x = torch.rand(spec.train.batch_size, decode.channels, decode.side, decode.side, device=device)
    y = torch.arange(len(x), device=device) % 2
    for _ in range(6):
        for candidate in best:
            best[candidate] = min(best[candidate], _time_steps(network, x, y, candidate, device))
    return other if best[plain] > MARGIN * best[other] else plain


def _time_steps(network: nn.Module, x: torch.Tensor, y: torch.Tensor, precision: Precision, device: str) -> float:
    """Seconds of one forward and backward pass, after one to warm up. Weights stay as they are."""
    network.to(memory_format=precision.layout)
    x = x.contiguous(memory_format=precision.layout)
    kind = device.split(":")[0]
    for _ in range(2):
        if kind == "cuda":
            torch.cuda.synchronize()
        start = time.perf_counter()
        with torch.autocast(kind, precision.dtype, enabled=precision.name != "fp32"):
            loss = nn.functional.cross_entropy(network(x), y)
        torch.autograd.backward(loss)
        if kind == "cuda":
            torch.cuda.synchronize()
    network.zero_grad(set_to_none=True)
    return time.perf_counter() - start


def forward_of(network: nn.Module, precision: Precision) -> nn.Module:
    return network
