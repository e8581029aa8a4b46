"""What a configuration costs whoever uses it. Known before training: weights change neither size nor speed."""

import time
from pathlib import Path
from statistics import median

import torch

from harness.config.spec import Spec
from harness.data.prepare import Prepared
from harness.models.network import build_network
from harness.store.files import read_json, write_json

WARM_UP, REPETITIONS = 5, 30
ENOUGH_SECONDS = 3.0
"""no further repetition is begun after this long, once five were measured"""


def trial_costs(spec: Spec, data: Prepared, device: str, folder: Path) -> dict[str, float]:
    """`measure_costs`, measured once for a trial and kept among its artifacts, so that a resume finds the same."""
    path = folder / "costs.json"
    if not path.exists():
        write_json(path, measure_costs(spec, data, device))
    return {name: float(value) for name, value in read_json(path).items()}


def measure_costs(spec: Spec, data: Prepared, device: str) -> dict[str, float]:
    """One fold's network: `parameters` (count), `megabytes` (10^6 bytes of the tensors in its checkpoint), and
    `latency_ms` (milliseconds for one image at batch size 1 in fp32, as `predict` computes, the median of real forward
    passes on the device after a warm-up)."""
    decode, model = spec.data.decode, spec.model.model_copy(update={"weights": "none"})
    network = build_network(model, len(data.dataset.classes), decode.channels, decode.side, spec.seed)
    tensors = network.state_dict().values()
    bytes_ = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    parameters = sum(parameter.numel() for parameter in network.parameters())
    network.to(device).to(memory_format=torch.channels_last).eval()
    x = torch.rand(1, decode.channels, decode.side, decode.side, device=device)
    x = x.contiguous(memory_format=torch.channels_last)
    seconds: list[float] = []
    began = time.perf_counter()
    with torch.inference_mode():
        for repetition in range(WARM_UP + REPETITIONS):
            start = time.perf_counter()
            network.embed(x)
            if x.is_cuda:
                torch.cuda.synchronize(x.device)
            if repetition >= WARM_UP:
                seconds.append(time.perf_counter() - start)
            if len(seconds) >= 5 and time.perf_counter() - began > ENOUGH_SECONDS:
                break
    return {"latency_ms": 1000 * median(seconds), "megabytes": bytes_ / 1e6, "parameters": float(parameters)}
