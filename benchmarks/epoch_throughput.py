"""Training of a fold against a bare loop: same network, precision, batch and rows, tensors already in memory.

Both train and then validate every epoch. The bare loop has no augmentation, no clipping, no resume state, no report;
its images are normalised floats before it starts. Rounds alternate, and the best round of each side counts, each the
mean of its epochs but the first. `ratio` is the smallest of the backbones' ratios.

    python -m benchmarks.epoch_throughput [--backbone resnet10t --size 64] [--device cuda] [--json]
"""

import time
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from benchmarks._folds import card_memory, harness_epoch, random_fold, spec_of, wait_for
from benchmarks._report import arguments, publish
from harness.config.spec import Spec
from harness.models.network import build_network
from harness.train.loop import FoldData
from harness.train.precision import Precision, choose_precision, forward_of

AUGMENT = {"hflip": 0.5, "rotate": 15.0, "translate": 0.1, "brightness": 0.2, "noise": 0.05}
CPU = (("resnet10t", 64, 32, 512), ("resnet18", 128, 32, 192), ("mobilenetv3_small_100", 96, 32, 512))
CUDA = (("resnet10t", 224, 128, 4096), ("resnet18", 224, 128, 4096), ("deit_tiny_patch16_224", 224, 128, 4096))
"""backbone, side, batch, training rows"""


def normalised(pixels: NDArray[np.uint8], device: str, precision: Precision) -> torch.Tensor:
    x = torch.from_numpy(pixels).to(device).permute(0, 3, 1, 2).float().div(255).sub(0.5)
    return x.contiguous(memory_format=precision.layout)


def bare_epoch(spec: Spec, data: FoldData, device: str, precision: Precision) -> float:
    """Seconds of an epoch, the first one left out."""
    kind, decode = device.split(":")[0], spec.data.decode
    network = build_network(spec.model, data.classes, decode.channels, decode.side, 0).to(device)
    network.to(memory_format=precision.layout)
    forward = forward_of(network, precision)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3, fused=True)
    x, v = normalised(data.x_train, device, precision), normalised(data.x_val, device, precision)
    y = torch.from_numpy(data.y_train).to(device)
    start = 0.0
    for epoch in range(spec.train.epochs):
        if epoch == 1:
            wait_for(device)
            start = time.perf_counter()
        network.train()
        for rows in torch.split(torch.randperm(len(x), device=device), spec.train.batch_size):
            with torch.autocast(kind, precision.dtype, enabled=precision.name != "fp32"):
                loss = nn.functional.cross_entropy(forward(x[rows]), y[rows])
            optimizer.zero_grad(set_to_none=True)
            torch.autograd.backward(loss)
            optimizer.step()
        network.eval()
        with torch.inference_mode(), torch.autocast(kind, precision.dtype, enabled=precision.name != "fp32"):
            for part in torch.split(v, 256):
                network(part).float().cpu()
    wait_for(device)
    return (time.perf_counter() - start) / (spec.train.epochs - 1)


def compare(case: tuple[str, int, int, int], epochs: int, rounds: int, device: str) -> dict[str, Any]:
    backbone, size, batch, rows = case
    data = random_fold(rows, size, 1)
    plain = spec_of(backbone, size, 1, batch, epochs)
    augmented = spec_of(backbone, size, 1, batch, epochs, augment=AUGMENT)
    precision = choose_precision(plain, device)
    seconds: dict[str, list[float]] = {"bare": [], "harness": [], "augmented": []}
    memory: dict[str, dict[str, float]] = {}
    card_memory(device)
    for _ in range(rounds):
        seconds["bare"].append(bare_epoch(plain, data, device, precision))
        memory["bare"] = card_memory(device)
        seconds["harness"].append(harness_epoch(plain, data, device, precision))
        memory["harness"] = card_memory(device)
        seconds["augmented"].append(harness_epoch(augmented, data, device, precision))
    best = {name: min(found) for name, found in seconds.items()}
    return {
        "backbone": backbone,
        "size": size,
        "batch": batch,
        "rows": rows,
        "precision": str(precision),
        "ratio": round(best["bare"] / best["harness"], 3),
        "ratio_with_augmentation": round(best["bare"] / best["augmented"], 3),
        "ratio_of_medians": round(float(np.median(seconds["bare"]) / np.median(seconds["harness"])), 3),
        "images_per_second": {name: round(rows / value) for name, value in best.items()},
        **({"memory": memory} if device.startswith("cuda") else {}),
    }


def main() -> None:
    parser = arguments(__doc__ or "")
    parser.add_argument("--backbone", help="this one alone, with --size, --batch and --rows")
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rows", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()
    cases = CUDA if options.device.startswith("cuda") else CPU
    if options.backbone:
        cases = ((options.backbone, options.size, options.batch, options.rows),)
    found = [compare(case, options.epochs, options.rounds, options.device) for case in cases]
    publish(
        "epoch_throughput",
        min(case["ratio"] for case in found),
        0.95,
        options,
        ratio_with_augmentation=min(case["ratio_with_augmentation"] for case in found),
        cases=found,
        device=options.device,
    )


if __name__ == "__main__":
    main()
