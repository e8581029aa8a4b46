"""Training of a fold against a bare loop: same network, precision, batch and rows, tensors already in memory.

Both train and then validate every epoch. The bare loop has no augmentation, no clipping, no resume state, no report;
its images are normalised floats before it starts. Rounds alternate, and the best epoch of each side counts.

    python -m benchmarks.epoch_throughput [--backbone resnet10t] [--size 64] [--json]
"""

import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from benchmarks._report import arguments, publish
from harness.models.network import build_network
from harness.study.load import build_spec
from harness.study.spec import Spec
from harness.train.checkpoint import ResumeState
from harness.train.fastest import choose_precision
from harness.train.loop import FoldData, fit_fold
from harness.train.precision import Precision

AUGMENT = {"hflip": 0.5, "rotate": 15.0, "translate": 0.1, "brightness": 0.2, "noise": 0.05}


def spec_of(backbone: str, size: int, batch: int, epochs: int, augment: dict[str, float]) -> Spec:
    tree = {
        "name": "benchmark",
        "data": {"root": "-", "group": "none", "decode": {"size": size}},
        "model": {"backbone": backbone},
        "train": {"epochs": epochs, "batch_size": batch},
        "augment": augment,
    }
    return build_spec(tree, "benchmark")


def harness_epochs(spec: Spec, data: FoldData, device: str, precision: Precision, folder: Path) -> list[float]:
    """Seconds of each epoch, from report to report, so that all that happens between epochs counts."""
    ends: list[float] = []

    def on_epoch(report: object) -> None:
        ends.append(time.perf_counter())

    fit_fold(spec, data, device, precision, ResumeState(folder / f"{time.time_ns()}.pt"), on_epoch)
    return np.diff(ends).tolist()


def normalised(pixels: NDArray[np.uint8], device: str, precision: Precision) -> torch.Tensor:
    x = torch.from_numpy(pixels).to(device).permute(0, 3, 1, 2).float().div(255).sub(0.5)
    return x.contiguous(memory_format=precision.layout)


def bare_epochs(spec: Spec, data: FoldData, device: str, precision: Precision) -> list[float]:
    kind, decode = device.split(":")[0], spec.data.decode
    network = build_network(spec.model, data.classes, decode.channels, decode.size, 0).to(device)
    network.to(memory_format=precision.layout)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3, fused=True)
    x = normalised(data.x_train, device, precision)
    v = normalised(data.x_val, device, precision)
    y = torch.from_numpy(data.y_train).to(device)
    seconds = []
    for _ in range(spec.train.epochs):
        start = time.perf_counter()
        network.train()
        for rows in torch.split(torch.randperm(len(x), device=device), spec.train.batch_size):
            with torch.autocast(kind, precision.dtype, enabled=precision.name != "fp32"):
                loss = nn.functional.cross_entropy(network(x[rows]), y[rows])
            optimizer.zero_grad(set_to_none=True)
            torch.autograd.backward(loss)
            optimizer.step()
        network.eval()
        with torch.inference_mode(), torch.autocast(kind, precision.dtype, enabled=precision.name != "fp32"):
            for part in torch.split(v, 256):
                network(part).float().cpu()
        seconds.append(time.perf_counter() - start)
    return seconds[1:]


def main() -> None:
    parser = arguments(__doc__ or "")
    parser.add_argument("--backbone", default="resnet10t")
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rows", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    x = rng.integers(0, 255, (options.rows * 5 // 4, options.size, options.size, 1)).astype(np.uint8)
    y = rng.integers(0, 2, len(x))
    data = FoldData(0, x[: options.rows], y[: options.rows], x[options.rows :], y[options.rows :], 2)
    plain = spec_of(options.backbone, options.size, options.batch, options.epochs, {})
    augmented = spec_of(options.backbone, options.size, options.batch, options.epochs, AUGMENT)
    with tempfile.TemporaryDirectory() as folder:
        precision = choose_precision(plain, options.device)
        times: dict[str, list[float]] = {"harness": [], "augmented": [], "bare": []}
        for _ in range(options.rounds):
            times["bare"] += bare_epochs(plain, data, options.device, precision)
            times["harness"] += harness_epochs(plain, data, options.device, precision, Path(folder))
            times["augmented"] += harness_epochs(augmented, data, options.device, precision, Path(folder))
    best = {name: min(seconds) for name, seconds in times.items()}
    publish(
        "epoch_throughput",
        best["bare"] / best["harness"],
        0.9,
        options,
        ratio_with_augmentation=round(best["bare"] / best["augmented"], 3),
        ratio_of_medians=round(float(np.median(times["bare"]) / np.median(times["harness"])), 3),
        images_per_second={name: round(options.rows / seconds) for name, seconds in best.items()},
        backbone=options.backbone,
        size=options.size,
        batch=options.batch,
        rows=options.rows,
        precision=str(precision),
        device=options.device,
    )


if __name__ == "__main__":
    main()
