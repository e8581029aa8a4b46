"""Trials in this process or in several: each worker trains one trial at a time and reports over its pipe.

Only the driver touches Optuna and MLflow, so no two processes ever meet in a store. Workers are spawned, not forked
(a forked CUDA context or thread pool does not work), and end when their pipe closes: a killed driver leaves none.
"""

import multiprocessing
import os
import signal
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess

from harness.data.prepare import Prepared, prepare
from harness.errors import HarnessError
from harness.events import EpochDone, FoldDone
from harness.home import Home
from harness.search.driver import NextTask, OnOutcome
from harness.search.objective import Boss, Outcome, Task, run_trial
from harness.study.dataset import Data


def run_here(data: Prepared, device: str, next_task: NextTask, boss: Boss, on_outcome: OnOutcome) -> None:
    """Train trials in this process until there is no next one."""
    while (task := next_task()) is not None:
        on_outcome(run_trial(task, data, device, boss))


@dataclass
class _Worker:
    process: BaseProcess
    pipe: Connection
    device: str
    task: Task | None = None


def run_in_processes(
    jobs: int,
    devices: list[str],
    threads: int,
    home: Home,
    data_spec: Data,
    seed: int,
    next_task: NextTask,
    boss: Boss,
    on_outcome: OnOutcome,
) -> None:
    """Train trials in `jobs` processes until there is none. A worker that dies is replaced."""
    workers: list[_Worker] = []
    try:
        for number in range(jobs):
            task = next_task()
            if task is None:
                break
            workers.append(_start(devices[number % len(devices)], threads, home, data_spec, seed))
            _give(workers[-1], task)
        while busy := [worker for worker in workers if worker.task is not None]:
            for pipe in wait([worker.pipe for worker in busy]):
                worker = next(worker for worker in busy if worker.pipe is pipe)
                try:
                    message = worker.pipe.recv()
                except (EOFError, OSError):
                    on_outcome(_died(worker))
                    workers.remove(worker)
                    if (task := next_task()) is not None:
                        workers.append(_start(worker.device, threads, home, data_spec, seed))
                        _give(workers[-1], task)
                    continue
                _obey(worker, message, boss, on_outcome, next_task)
    finally:
        for worker in workers:
            if worker.task is not None and worker.process.is_alive():
                worker.process.terminate()  # mid-training only when interrupted: it keeps its last finished epoch
            worker.pipe.close()
        for worker in workers:
            worker.process.join(timeout=30)
            if worker.process.is_alive():
                worker.process.kill()


def _obey(worker: _Worker, message: object, boss: Boss, on_outcome: OnOutcome, next_task: NextTask) -> None:
    if isinstance(message, EpochDone):
        worker.pipe.send(boss.epoch(message))
    elif isinstance(message, FoldDone):
        worker.pipe.send(boss.fold(message))
    elif isinstance(message, Outcome):
        worker.task = None
        on_outcome(message)
        task = next_task()
        if task is not None:
            _give(worker, task)
    elif isinstance(message, BaseException):
        raise message


def _give(worker: _Worker, task: Task) -> None:
    worker.task = task
    worker.pipe.send(task)


def _died(worker: _Worker) -> Outcome:
    worker.process.join(timeout=10)
    assert worker.task is not None
    code = worker.process.exitcode
    how = f"signal {signal.Signals(-code).name}" if code is not None and code < 0 else f"exit code {code}"
    return Outcome(
        worker.task.number, "died", reason=f"its worker process died ({how}); out of memory is a usual cause"
    )


def _start(device: str, threads: int, home: Home, data_spec: Data, seed: int) -> _Worker:
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(
        target=_work, args=(there, device, threads, home, data_spec, seed), daemon=True, name="harness-worker"
    )
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = str(threads)  # read by torch's thread pools when the child imports it
    try:
        process.start()
    finally:
        if before is None:
            del os.environ["OMP_NUM_THREADS"]
        else:
            os.environ["OMP_NUM_THREADS"] = before
    there.close()
    return _Worker(process, here, device)


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


def _work(pipe: Connection, device: str, threads: int, home: Home, data_spec: Data, seed: int) -> None:
    """A worker's life: take a task, train it, say how it ended; end with the pipe."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the driver, which then terminates its workers
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    import torch

    torch.set_num_threads(threads)
    try:
        data = prepare(data_spec, seed, home, lambda what, done, total: None)
        while True:
            pipe.send(run_trial(pipe.recv(), data, device, _Remote(pipe)))
    except (EOFError, BrokenPipeError, ConnectionResetError, KeyboardInterrupt):
        return
    except HarnessError as error:
        pipe.send(error)
