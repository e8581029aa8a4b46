"""Logits with a trained fold, their scores, and what a model costs.

From stored pixels to logits and embeddings with a trained fold: in fp32, so that all see the same numbers.

Held-out rows through the network after an epoch, for the learning curve, in the training's own precision.

What a configuration costs whoever uses it. Known before training: weights change neither size nor speed.

What an ensemble costs whoever predicts with it: seconds an image and megabytes of weights, of its real checkpoints.

Networks of one architecture cost the same whatever their weights, so one of each is run.
"""

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from harness import metrics
from harness.config.data import Decode
from harness.config.spec import Spec
from harness.data.prepare import Prepared
from harness.hardware import keep_freed_memory
from harness.images.pixels import Selection
from harness.models.network import Network, build_network
from harness.store.files import read_json, write_json
from harness.train.batches import Images, fetch, prefetched, stream_images, to_input
from harness.train.checkpoint import FoldMeta, load_fold, read_meta
from harness.train.loss import Loss, mean_loss
from harness.train.precision import Precision
from harness.train.step import in_fitting_batches
from harness.types import Progress, silent

INFERENCE_BATCH = 64
"""images at a time; halved while the memory does not suffice"""
AHEAD = 2
"""batches whose numbers are still on their way from a card while the next is computed"""


def infer(
    network: Network,
    meta: FoldMeta,
    pixels: Selection,
    device: str = "cpu",
    batch_size: int = INFERENCE_BATCH,
    progress: Progress | None = None,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Logits (n, C) and embeddings (n, D), float32, of n images: (n, S, S, channels), or of their own sizes."""
    keep_freed_memory()  # or every batch's activations are paged in anew: a third of a small network's speed
    network.eval()
    network.to(memory_format=torch.channels_last)
    logits = np.empty((len(pixels), len(meta.classes)), np.float32)
    embeddings = np.empty((len(pixels), network.embedding_size), np.float32)
    images = stream_images(pixels, meta.mean, device)

    def run(size: int) -> None:
        waiting: deque[tuple[NDArray[np.int64], Callable[[], list[NDArray[np.floating]]]]] = deque()
        done = 0

        def store(left: int) -> None:
            nonlocal done
            while len(waiting) > left:
                batch, read = waiting.popleft()
                logits[batch], embeddings[batch] = read()
                done += len(batch)
                if progress:
                    progress("inference", done, len(pixels))

        order = images.in_order(size)
        with torch.inference_mode():
            for rows, (_, x) in zip(order, prefetched(images, order), strict=True):
                found = network.embed(to_input(x, meta.mean, meta.std, torch.channels_last))
                waiting.append((rows.numpy(), fetch([tensor.float() for tensor in found])))
                store(left=AHEAD if x.is_cuda else 0)
        store(left=0)

    in_fitting_batches(run, batch_size, device)
    return logits, embeddings


EVALUATION_BATCH = 256
"""images at a time; halved while the memory does not suffice"""


@dataclass(frozen=True)
class Scores:
    loss: float
    metrics: dict[str, float]


def predict(
    forward: Callable[[Tensor], Tensor],
    classes: int,
    images: Images,
    y: Tensor,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    precision: Precision,
    loss: Loss,
) -> tuple[Tensor, Tensor]:
    """Logits (v, classes) of v images with labels y on the device, and their mean loss (), both on the device.

    The network is in evaluation mode.
    """
    logits = torch.empty(len(y), classes, device=y.device)

    def run(batch_size: int) -> None:
        with torch.inference_mode():
            for rows, x in prefetched(images, images.in_order(batch_size)):
                inputs = to_input(x, mean, std, precision.layout)
                with torch.autocast(y.device.type, precision.dtype, enabled=precision.name != "fp32"):
                    logits[rows] = forward(inputs).float()

    in_fitting_batches(run, EVALUATION_BATCH, str(y.device))
    with torch.inference_mode():
        return logits, mean_loss(loss, logits, y)


def scores(y: NDArray[np.int64], logits: NDArray[np.floating], loss: NDArray[np.floating]) -> Scores:
    """What predict() found, by labels y (v,) or (v, classes)."""
    return Scores(float(loss), metrics.score(y, metrics.probabilities(logits, multilabel=y.ndim == 2)))


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


ENSEMBLE_REPETITIONS = 5
ENSEMBLE_ENOUGH_SECONDS = 2.0
"""no further repetition is begun after this long, once one was measured"""


@dataclass(frozen=True)
class Cost:
    seconds: float
    """for one image, out of a batch of many, from pixels to logits and embedding"""
    megabytes: float
    """10^6 bytes of checkpoints"""

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(self.seconds + other.seconds, self.megabytes + other.megabytes)


NOTHING = Cost(0.0, 0.0)


def network_costs(
    networks: Sequence[Sequence[Path]], device: str, progress: Progress = silent, batch: int = INFERENCE_BATCH
) -> list[Cost]:
    """For each member, checkpoints of its fold models, what all of them cost together; `sum(costs, NOTHING)` is what
    the ensemble costs. What is fitted on top is left out: it takes microseconds.

    The time is the median of repeated passes over a batch on the device after a warm one, in fp32, as `predict` runs
    them; images that keep their own sizes are taken to be Decode.side squares. Raises HarnessError where a file is no
    checkpoint.
    """
    metas = {path: read_meta(path) for member in networks for path in member}
    one_of_each = {_kind(meta): path for path, meta in metas.items()}
    seconds = {}
    for done, (kind, path) in enumerate(one_of_each.items(), start=1):
        seconds[kind] = seconds_per_image(path, device, batch)
        progress("cost of an image", done, len(one_of_each))

    def cost(path: Path) -> Cost:
        return Cost(seconds[_kind(metas[path])], path.stat().st_size / 1e6)

    return [sum(map(cost, member), NOTHING) for member in networks]


def seconds_per_image(weights: Path, device: str, batch: int = INFERENCE_BATCH) -> float:
    """Of one checkpoint, loaded and warm."""
    network, meta = load_fold(weights, device)
    decode = Decode.model_validate(meta.decode)
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (batch, decode.side, decode.side, decode.channels), dtype=np.uint8)
    infer(network, meta, pixels, device, batch)
    found: list[float] = []
    began = time.perf_counter()
    while len(found) < ENSEMBLE_REPETITIONS and (not found or time.perf_counter() - began < ENSEMBLE_ENOUGH_SECONDS):
        start = time.perf_counter()
        infer(network, meta, pixels, device, batch)  # ends with its numbers in main memory: nothing is left to wait for
        found.append(time.perf_counter() - start)
    return median(found) / batch


def _kind(meta: FoldMeta) -> tuple[Any, ...]:
    """What the speed of a network depends on."""
    model = {name: value for name, value in meta.model.items() if name != "weights"}
    return (*sorted(map(repr, model.items())), *sorted(map(repr, meta.decode.items())), len(meta.classes))
