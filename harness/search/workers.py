"""Trials in this process or in several: each worker trains one trial at a time and reports over its pipe.

Only the driver touches Optuna and MLflow, so no two processes ever meet in a store. Workers are spawned, not forked
(a forked CUDA context or thread pool does not work). They end when their driver does, however that ends; one that dies
is replaced, and one that has grown fat is replaced between two trials (docs/nothing-lost.md).
"""

import multiprocessing
import os
import signal
import threading
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess

from harness.config.data import Data
from harness.data.prepare import Prepared, prepare
from harness.errors import HarnessError
from harness.hardware import choose_device, free_by_device, resident_memory
from harness.search.driver import NextTask, OnOutcome
from harness.search.trial import Boss, Outcome, Task, run_trial
from harness.store.home import Home
from harness.types import EpochDone, FoldDone

FAT = 2.0
FAT_BYTES = 2**30
"""a worker that holds this many times, and bytes, more than after its first trial is replaced before the next"""
END_SECONDS = 30.0
"""how long a worker may take to write its last finished epoch when it is told to end"""


def run_here(data: Prepared, device: str, next_task: NextTask, boss: Boss, on_outcome: OnOutcome) -> None:
    """Train trials in this process until there is no next one."""
    while (task := next_task()) is not None:
        on_outcome(run_trial(task, data, device, boss))


@dataclass(frozen=True)
class Plan:
    """What every worker of a study is started with."""

    devices: list[str]
    threads: int
    home: Home
    data: Data
    seed: int


@dataclass
class _Worker:
    process: BaseProcess
    pipe: Connection
    device: str
    task: Task | None = None
    lean: int = 0
    """bytes in memory after its first trial"""

    def send(self, message: object) -> None:
        """A worker that is gone is noticed where it is waited for. No message is longer than a pipe holds, and at most
        one is under way, so that this never blocks."""
        with suppress(OSError):
            self.pipe.send(message)


@dataclass(frozen=True)
class _Rest:
    """A worker has ended a trial and waits for the next."""

    outcome: Outcome
    resident: int


def run_in_processes(plan: Plan, jobs: int, next_task: NextTask, boss: Boss, on_outcome: OnOutcome) -> None:
    """Train trials in up to `jobs` processes until there is none. A worker that dies says so as its trial's outcome.

    Every outcome may make trials available again, for the workers too that got none before it.
    """
    workers: list[_Worker] = []
    try:
        _hand_out(plan, jobs, workers, next_task)
        while busy := [worker for worker in workers if worker.task is not None]:
            for pipe in wait([worker.pipe for worker in busy]):
                worker = next(worker for worker in busy if worker.pipe is pipe)
                try:
                    message = worker.pipe.recv()
                except (EOFError, OSError):
                    message = None
                rest = _heed(worker, message, boss)
                if rest is None:
                    continue
                worker.task = None
                on_outcome(rest.outcome)
                if message is None or is_fat(worker.lean, rest.resident):
                    workers.remove(worker)
                    _end([worker])
                else:
                    worker.lean = worker.lean or rest.resident
                _hand_out(plan, jobs, workers, next_task)
    finally:
        _end(workers)


def _hand_out(plan: Plan, jobs: int, workers: list[_Worker], next_task: NextTask) -> None:
    """Give tasks to the workers that have none, and to new ones while there are fewer than `jobs`."""
    idle = [worker for worker in workers if worker.task is None]
    free: dict[str, int] = {}
    while (idle or len(workers) < jobs) and (task := next_task()) is not None:
        if idle:
            idle[0].task = task
            idle.pop(0).send(task)
            continue
        free = free or free_by_device(plan.devices)
        workers.append(_start(plan, choose_device(free, Counter(worker.device for worker in workers)), task))


def is_fat(lean: int, now: int) -> bool:
    """Whether a worker holds so much more memory than after its first trial (bytes; 0 before that) that it is better
    replaced: what was not given back would lack elsewhere."""
    return lean > 0 and now > FAT * lean and now > lean + FAT_BYTES


def _heed(worker: _Worker, message: object, boss: Boss) -> _Rest | None:
    """Answer what a worker says. Returns how its trial ended, if that is what it says, or what its silence means."""
    if isinstance(message, EpochDone):
        worker.send(boss.epoch(message))
    elif isinstance(message, FoldDone):
        worker.send(boss.fold(message))
    elif isinstance(message, _Rest):
        return message
    elif isinstance(message, BaseException):
        raise message
    else:
        return _Rest(_died(worker), 0)
    return None


def _died(worker: _Worker) -> Outcome:
    worker.process.join(timeout=10)
    assert worker.task is not None
    code = worker.process.exitcode
    how = f"signal {signal.Signals(-code).name}" if code is not None and code < 0 else f"exit code {code}"
    return Outcome(worker.task.number, "died", reason=f"its worker process died ({how})")


def _end(workers: list[_Worker]) -> None:
    """Let workers go. One in the middle of a trial, when a study is interrupted, keeps its last finished epoch."""
    for worker in workers:
        if worker.task is not None and worker.process.is_alive():
            worker.process.terminate()
        worker.pipe.close()
    for worker in workers:
        worker.process.join(timeout=END_SECONDS)
        if worker.process.is_alive():
            worker.process.kill()
            worker.process.join()


def _start(plan: Plan, device: str, task: Task) -> _Worker:
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_work, args=(there, device, plan), daemon=True, name="harness-worker")
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = str(plan.threads)  # read by torch's thread pools when the child imports it
    try:
        process.start()
    finally:
        if before is None:
            del os.environ["OMP_NUM_THREADS"]
        else:
            os.environ["OMP_NUM_THREADS"] = before
    there.close()
    worker = _Worker(process, here, device, task)
    worker.send(task)
    return worker


class _Remote:
    """The boss, seen from a worker. A boss that is gone is an interruption, not a failure of the trial."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe

    def epoch(self, event: EpochDone) -> bool:
        return self._ask(event)

    def fold(self, event: FoldDone) -> bool:
        return self._ask(event)

    def _ask(self, event: EpochDone | FoldDone) -> bool:
        try:
            self._pipe.send(event)
            return bool(self._pipe.recv())
        except (OSError, EOFError):
            raise KeyboardInterrupt from None


def _work(pipe: Connection, device: str, plan: Plan) -> None:
    """A worker's life: take a task, train it, say how it ended; end with the pipe."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the driver, which then terminates its workers
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    threading.Thread(target=_end_with_driver, name="orphan", daemon=True).start()
    import torch

    torch.set_num_threads(plan.threads)
    try:
        data = prepare(plan.data, plan.seed, plan.home, lambda what, done, total: None)
        while True:
            outcome = run_trial(pipe.recv(), data, device, _Remote(pipe))
            pipe.send(_Rest(outcome, resident_memory()))
    except (EOFError, BrokenPipeError, ConnectionResetError, KeyboardInterrupt):
        return
    except (HarnessError, OSError) as error:
        with suppress(OSError):
            pipe.send(error)


def _end_with_driver() -> None:
    """End soon after the driver is gone, not only at the end of an epoch: its successor wants to go on."""
    driver = multiprocessing.parent_process()
    assert driver is not None
    driver.join()
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(END_SECONDS)
    os._exit(1)
