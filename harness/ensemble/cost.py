"""What an ensemble costs whoever predicts with it: seconds an image and megabytes of weights, of its real checkpoints.

Networks of one architecture cost the same whatever their weights, so one of each is run.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from harness.config.data import Decode
from harness.train.checkpoint import FoldMeta, load_fold, read_meta
from harness.train.infer import BATCH, infer
from harness.types import Progress, silent

REPETITIONS = 5
ENOUGH_SECONDS = 2.0
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
    networks: Sequence[Sequence[Path]], device: str, progress: Progress = silent, batch: int = BATCH
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


def seconds_per_image(weights: Path, device: str, batch: int = BATCH) -> float:
    """Of one checkpoint, loaded and warm."""
    network, meta = load_fold(weights, device)
    decode = Decode.model_validate(meta.decode)
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (batch, decode.side, decode.side, decode.channels), dtype=np.uint8)
    infer(network, meta, pixels, device, batch)
    found: list[float] = []
    began = time.perf_counter()
    while len(found) < REPETITIONS and (not found or time.perf_counter() - began < ENOUGH_SECONDS):
        start = time.perf_counter()
        infer(network, meta, pixels, device, batch)  # ends with its numbers in main memory: nothing is left to wait for
        found.append(time.perf_counter() - start)
    return median(found) / batch


def _kind(meta: FoldMeta) -> tuple[Any, ...]:
    """What the speed of a network depends on."""
    model = {name: value for name, value in meta.model.items() if name != "weights"}
    return (*sorted(map(repr, model.items())), *sorted(map(repr, meta.decode.items())), len(meta.classes))
