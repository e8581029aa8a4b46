"""A study's driver as a server with one queue: W workers train; each event waits its turn, its worker with it.

A discrete-event model. Nothing of the harness runs; what is known of it are the costs of its calls.
"""

import heapq
import random
from dataclasses import dataclass

from benchmarks._cluster_costs import Costs


@dataclass(frozen=True)
class Load:
    workers: int
    epoch_seconds: float
    epochs: int
    """of a fold"""
    folds: int
    trials: int


@dataclass(frozen=True)
class Seen:
    seconds: float
    """of the whole study"""
    busy: float
    """share of the time that the driver works"""
    wait: float
    """seconds that an event waits for its answer, on average"""
    lost: float
    """share of the workers' time that is waiting"""


def simulate(load: Load, costs: Costs, seed: int = 0) -> Seen:
    """Play a study through. Epochs vary in length by 10% (standard deviation); folds == 0: no fold is ever scored."""
    draw = random.Random(seed)
    length = load.epochs * max(1, load.folds)

    def epoch_takes() -> float:
        return max(0.1, draw.gauss(1.0, 0.1)) * load.epoch_seconds

    left, free, work, waited, events, trained = load.trials, 0.0, 0.0, 0.0, 0, 0.0
    queue: list[tuple[float, int, int]] = []
    """(when it has something to say, worker, epochs of its trial so far); -1: it wants its first trial"""
    for worker in range(load.workers):
        heapq.heappush(queue, (draw.random() * load.epoch_seconds, worker, -1))
    while queue:
        at, worker, done = heapq.heappop(queue)
        ends = done in (-1, length)
        if done == -1:
            cost = costs.ask + costs.ledger
        else:
            cost = costs.of_epoch
            cost += costs.of_fold if load.folds and done % load.epochs == 0 else 0.0
            cost += costs.of_trial if ends else 0.0
        begins = max(at, free)
        free, work = begins + cost, work + cost
        waited, events = waited + free - at, events + 1
        if ends:
            if left == 0:
                continue
            left, done = left - 1, 0
        took = epoch_takes()
        trained += took
        heapq.heappush(queue, (free + took, worker, done + 1))
    return Seen(free, work / free, waited / events, waited / (waited + trained))
