"""Embeddings of a study's images by a fold checkpoint, against the bare forward pass on tensors that are ready.

The harness's side is what `ensemble build` does: read the checkpoint, gather pixels from a memory-mapped store,
normalise, run the network, check, and write what came out to the disk. The bare side shows the same network batches of
the same size that are normalised floats in the right memory layout already, and keeps the numbers in main memory. Both
in fp32. Rounds alternate, and the best round of each side counts. `ratio` is the smallest of the backbones' ratios.

    python -m benchmarks.embedding_throughput [--backbone resnet10t --size 64 --rows 2048] [--device cuda] [--json]
"""

import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks._folds import wait_for
from benchmarks._report import arguments, publish
from harness.config.spec import Model
from harness.ensemble.embed import EncoderCache
from harness.models.network import Network, build_network
from harness.store.home import Home
from harness.train.batches import to_input
from harness.train.checkpoint import FoldMeta, digest, load_fold, save_weights
from harness.train.inference import INFERENCE_BATCH
from harness.types import Dataset

CPU = (("resnet10t", 64, 8192), ("resnet18", 128, 2048), ("mobilenetv3_small_100", 96, 8192))
CUDA = (("resnet10t", 224, 16384), ("resnet18", 224, 16384), ("deit_tiny_patch16_224", 224, 8192))
"""backbone, side, rows: of the size of a real study's development part, since each checkpoint is opened once for all of
them, which takes 30 to 70 ms on a CPU. Of 500 rows see --rows"""
MEAN, STD = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)


def checkpoint(folder: Path, backbone: str, size: int) -> Path:
    model = Model(backbone=backbone)
    network = build_network(model, 2, 3, size, seed=0)
    decode = {"size": size, "channels": 3}
    facts: dict[str, Any] = {"classes": ("a", "b"), "mean": MEAN, "std": STD, "data_hash": "d", "folds_hash": "f"}
    meta = FoldMeta("benchmark", 0, 0, model.model_dump(mode="json"), decode, encoder_id=digest(network), **facts)
    save_weights(folder / "weights.safetensors", network, meta)
    return folder / "weights.safetensors"


def store(folder: Path, rows: int, size: int) -> np.ndarray:
    """(rows, size, size, 3) of noise, as a memory map."""
    path = folder / "pixels.bin"
    np.random.default_rng(0).integers(0, 256, (rows, size, size, 3), dtype=np.uint8).tofile(path)
    return np.memmap(path, np.uint8, mode="r", shape=(rows, size, size, 3))


def bare(network: Network, x: list[torch.Tensor], device: str) -> float:
    """Seconds for the batches x, from ready tensors to numbers in main memory."""
    wait_for(device)
    start = time.perf_counter()
    with torch.inference_mode():
        found = [network.embed(part) for part in x]
        for logits, embeddings in found:
            logits.cpu(), embeddings.cpu()
    return time.perf_counter() - start


def compare(case: tuple[str, int, int], rounds: int, device: str) -> dict[str, Any]:
    backbone, size, rows = case
    seconds: dict[str, list[float]] = {"bare": [], "harness": []}
    with tempfile.TemporaryDirectory() as folder:
        weights, pixels = checkpoint(Path(folder), backbone, size), store(Path(folder), rows, size)
        network, meta = load_fold(weights, device)
        network.to(memory_format=torch.channels_last)
        batches = torch.from_numpy(np.array(pixels)).permute(0, 3, 1, 2).split(INFERENCE_BATCH)
        x = [to_input(part.to(device), MEAN, STD, torch.channels_last) for part in batches]
        names = np.array([f"{row}" for row in range(rows)])
        dataset = Dataset(names, tuple(names), np.zeros(rows, np.int64), names, meta.classes, "d")
        wanted = {"test": np.arange(rows)}
        for number in range(rounds + 1):
            bare_seconds = bare(network, x, device)
            cache = EncoderCache(Home(Path(folder) / f"{number}"), "benchmark", dataset, pixels, device)
            start = time.perf_counter()
            cache.outputs(meta, weights, wanted)
            if number:  # the first round warms up
                seconds["bare"].append(bare_seconds)
                seconds["harness"].append(time.perf_counter() - start)
    best = {name: min(found) for name, found in seconds.items()}
    return {
        "backbone": backbone,
        "size": size,
        "rows": rows,
        "ratio": round(best["bare"] / best["harness"], 3),
        "ratio_of_medians": round(float(np.median(seconds["bare"]) / np.median(seconds["harness"])), 3),
        "images_per_second": {name: round(rows / value) for name, value in best.items()},
    }


def main() -> None:
    parser = arguments(__doc__ or "")
    parser.add_argument("--backbone", help="this one alone, with --size and --rows")
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--rows", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()
    cases = CUDA if options.device.startswith("cuda") else CPU
    if options.backbone:
        cases = ((options.backbone, options.size, options.rows),)
    found = [compare(case, options.rounds, options.device) for case in cases]
    publish(
        "embedding_throughput",
        min(case["ratio"] for case in found),
        0.9,
        options,
        batch=INFERENCE_BATCH,
        cases=found,
        device=options.device,
    )


if __name__ == "__main__":
    main()
