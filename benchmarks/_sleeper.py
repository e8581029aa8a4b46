"""A study whose trials sleep: the real driver, the real engine, real stores, and workers that cost nothing."""

import time
from dataclasses import dataclass
from statistics import median
from typing import Any

from benchmarks._cluster_costs import report_of
from benchmarks._tiny_study import tiny
from harness import errors
from harness.data.prepare import prepare
from harness.search import ray_workers
from harness.search.ray_workers import Cluster, Worker
from harness.search.run import run_study
from harness.search.trial import Outcome, Task
from harness.store.home import Home
from harness.types import EpochDone, Event, StudyStarted, TrialEnded

EPOCHS, SECONDS = 40, 0.05


class Sleeper(Worker):
    """Trains nothing: says EPOCHS times that an epoch has ended, then that the trial was pruned."""

    def ready(self, token: str, wanted: Any) -> str:
        return ""

    def _train(self, task: Task) -> None:
        for epoch in range(EPOCHS):
            time.sleep(SECONDS)
            self.epoch(EpochDone(task.number, report_of(0, epoch, EPOCHS)))
        self._messages.put(Outcome(task.number, "pruned"))


@dataclass(frozen=True)
class Run:
    seconds: float
    """from the first trial's begin to the last one's end"""
    events: int


def run_sleepers(home: Home, address: str, workers: int, trials: int) -> Run:
    study = tiny(
        name="sleepers",
        optim__lr={"float": [1e-5, 1e-1], "log": True},
        train__epochs=EPOCHS,
        search__trials=trials,
        search__sampler="tpe",
    )
    prepare(study.spec.data, study.spec.seed, home, lambda what, done, total: None)
    times: list[tuple[float, Event]] = []
    real, ray_workers.Worker = ray_workers.Worker, Sleeper  # type: ignore[misc]
    try:
        run_study(
            study,
            home,
            workers,
            "auto",
            lambda event: times.append((time.perf_counter(), event)),
            Cluster(address),
        )
    except errors.HarnessError:
        pass  # no trial was completed: that is what this study is
    finally:
        ray_workers.Worker = real  # type: ignore[misc]
    ended = [at for at, event in times if isinstance(event, TrialEnded)]
    epochs = [at for at, event in times if isinstance(event, EpochDone)]
    began = next(at for at, event in times if isinstance(event, EpochDone)) - SECONDS
    assert any(isinstance(event, StudyStarted) for _, event in times) and len(ended) == trials
    return Run(ended[-1] - began, len(epochs) + len(ended))


class Echo:
    """What is sent to it comes back: an event without a trial."""

    def say(self, word: object) -> object:
        return word


def event_seconds(address: str, times: int = 300) -> float:
    """Median time of one call of the engine to an actor and back."""
    import ray

    ray.init(address, log_to_driver=False, logging_level="error")
    try:
        actor = ray.remote(num_cpus=0)(Echo).remote()
        event = EpochDone(0, report_of(0, 0))
        ray.get(actor.say.remote(event))
        taken = []
        for _ in range(times):
            began = time.perf_counter()
            done, _ = ray.wait([actor.say.remote(event)])
            ray.get(done[0])
            taken.append(time.perf_counter() - began)
    finally:
        ray.shutdown()
    return median(taken)
