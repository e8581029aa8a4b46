"""Trials on a Ray cluster, and the checks of its nodes.

Trials on a Ray cluster: an engine beside those of `search/workers.py`, and the only file that imports ray.

Ray places one actor per trial in flight wherever CPUs and GPUs are free, now or when a machine joins later. An actor
trains in a thread. The driver always has one call open to it, `say`, which takes the answer to the last event there
and brings the next event back: one call per event, no polling, and a lost machine is an error of that call. All
machines see one home, so a trial whose machine is lost goes on elsewhere from its last finished epoch.

What trains on a machine of a cluster, one trial at a time: a plain object that knows nothing of how it is called.

Its caller always has one call open to it, `say`, which takes the answer to the last event and returns the next one.

The machines of a cluster, and whether one may train a study's trials: same home, same software.

The check runs on each machine; it knows nothing of how it came there.
"""

import os
import secrets
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from importlib.metadata import version
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import Any

from harness.config.load import Study
from harness.data.prepare import prepare
from harness.errors import HarnessError, RequestError
from harness.hardware import commit
from harness.search.driver import NextTask, OnOutcome
from harness.search.trial import Boss, Outcome, Task, run_trial
from harness.store.files import write_text
from harness.store.home import Home
from harness.types import EpochDone, FoldDone

PATIENCE = 5.0
"""seconds that a network file system may take to show what another machine wrote"""


@dataclass(frozen=True)
class Cluster:
    """A Ray cluster, and what one trial gets of it."""

    address: str = "auto"
    """HOST:PORT of the head node, or auto: the cluster that this machine is a node of"""
    cpus: int = 1
    """cores of a trial, and its threads"""
    gpus: float = 0.0
    """cards of a trial: 0, 1, or the part of one that it shares with others"""

    @property
    def device(self) -> str:
        """What a trial trains on: Ray shows an actor its own card only."""
        return "cuda:0" if self.gpus else "cpu"

    @property
    def demand(self) -> dict[str, float]:
        return {"num_cpus": self.cpus, "num_gpus": self.gpus}


@dataclass(frozen=True)
class Software:
    """What must be equal for trials of several machines to be comparable."""

    harness: str
    commit: str
    torch: str


def software() -> Software:
    """Of this machine; torch is not imported for it."""
    return Software(version("harness"), commit(), version("torch"))


def leave_token(path: Path) -> str:
    """Write a new random word there and return it."""
    token = secrets.token_hex(16)
    write_text(path, token)
    return token


def misfit(path: Path, token: str, wanted: Software, patience: float = PATIENCE) -> str:
    """What makes this machine unfit, '' if nothing does. `token` was left at `path` by the driver."""
    end = time.monotonic() + patience
    while (found := _read(path)) != token:
        if time.monotonic() > end:
            what = "there is no such file" if found is None else "it says something else here"
            return (
                f"does not see the driver's home: {path} was written there, and {what}. Mount the home on every "
                "machine at the same path, and name it in HARNESS_HOME."
            )
        time.sleep(0.2)
    here = software()
    pairs = [(field.name, getattr(here, field.name), getattr(wanted, field.name)) for field in fields(Software)]
    different = [f"{name} {own} where the driver has {its}" for name, own, its in pairs if own != its]
    return f"has {', '.join(different)}. Install the same on every machine." if different else ""


def _read(path: Path) -> str | None:
    try:
        return path.read_text()
    except OSError:
        return None


LOOK_SECONDS = 5.0
"""between two looks whether the head node is there; without it Ray would end this process after 60 s"""
LOOKS = 3
MAX_STILLBORN = 3
"""workers in a row that died before they could take a trial: the cause lies in the cluster"""


@contextmanager
def joined(cluster: Cluster) -> Iterator[None]:
    """Inside, this process is a driver of the cluster; Ray ends the actors of a driver that leaves.

    Raises RequestError where it cannot be one, or where no node has the room for a trial.
    """
    _join(cluster)
    try:
        _require_room(cluster)
        yield
    finally:
        _ray().shutdown()


def _join(cluster: Cluster) -> None:
    if cluster.cpus < 1 or not 0 <= cluster.gpus <= 1:
        raise RequestError(
            f"--cpus-per-trial {cluster.cpus} --gpus-per-trial {cluster.gpus:g}: a trial trains on whole cores and on "
            "one card at most. Write 1 core or more, and 0 to 1 cards (0.5: two trials share a card)."
        )
    ray = _ray()
    how = (
        "This machine must be one of its nodes. Type on the first machine: ray start --head   and on each other: "
        "ray start --address=HOST:PORT   (docs/cluster.md)"
    )
    if cluster.address != "auto" and not _answers(cluster.address):
        raise RequestError(f"--address {cluster.address}: no Ray cluster answers there. {how}")
    before = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(cluster.address, log_to_driver=False, logging_level="error", configure_logging=False)
    except (OSError, ValueError, RuntimeError) as error:
        raise RequestError(f"--address {cluster.address}: {_line(error)} {how}") from error
    finally:
        signal.signal(signal.SIGTERM, before)  # Ray's own would end the study without a word


def _require_room(cluster: Cluster) -> None:
    if not _roomy(cluster):
        nodes = [node for node in _alive() if _room(node, "CPU")]  # a head node often has no places
        room = "\n  ".join(f"{_name(node)}: {_room(node, 'CPU'):g} CPUs, {_room(node, 'GPU'):g} GPUs" for node in nodes)
        raise RequestError(
            f"no node of the cluster has the {cluster.cpus} CPUs and {cluster.gpus:g} GPUs of a trial. "
            f"They have\n  {room or 'none'}\n"
            "Write a smaller --cpus-per-trial or --gpus-per-trial, or join larger nodes."
        )


def check_nodes(study: Study, home: Home, cluster: Cluster) -> None:
    """Ask every node with room for a trial whether it sees this home and has this software.

    Raises RequestError that names the nodes which do not. A node that joins later is asked when it gets a worker.
    """
    ray = _ray()
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy as On

    path = home.cluster_token(study.name)
    token, wanted = leave_token(path), software()
    look = ray.remote(num_cpus=0, max_retries=0)(misfit)
    asked = [
        (_name(node), look.options(scheduling_strategy=On(node["NodeID"], soft=False)).remote(path, token, wanted))
        for node in _roomy(cluster)
    ]
    problems = []
    for name, answer in asked:
        try:
            problem = ray.get(answer)
        except ray.exceptions.RayError as error:
            problem = f"cannot run this program: {_line(error)}"
        problems += [f"{name} {problem}"] if problem else []
    if problems:
        raise RequestError("the cluster does not fit this study. Node " + "\n  Node ".join(problems))


def on_a_node(cluster: Cluster, function: Callable[..., Any], *arguments: object) -> Any:
    """What the function returns on a machine, and with the cores and the card, that trials will have."""
    ray = _ray()
    try:
        return ray.get(ray.remote(max_retries=3, **cluster.demand)(function).remote(*arguments))
    except ray.exceptions.RayTaskError as error:
        raise error.cause from error


def run_on_ray(
    study: Study,
    home: Home,
    cluster: Cluster,
    jobs: int,
    say: Callable[[str], None],
    next_task: NextTask,
    boss: Boss,
    on_outcome: OnOutcome,
) -> None:
    """Train trials in up to `jobs` actors until there is none. An actor that dies is replaced, where there is room.

    Actors that find no room wait for it, so a node that joins late takes its share. `say` is told of machines that are
    left out. Raises HarnessError when the head node is lost, or no worker can start.
    """
    crew = _Crew(study, home, cluster, say)
    for _ in range(jobs):
        crew.hire()
    while crew.idle or crew.calls:
        while crew.idle and (task := next_task()) is not None:
            crew.give(crew.idle.pop(), task)
        if crew.idle and not any(worker.task for worker in crew.calls.values()):
            return
        for worker, message in crew.listen():
            if isinstance(message, Outcome):
                on_outcome(message)
            elif worker is not None:
                crew.answer(worker, boss.epoch(message) if isinstance(message, EpochDone) else boss.fold(message))


@dataclass
class _Hired:
    """A worker, seen from the driver."""

    actor: Any
    task: Task | None = None
    ready: bool = False


class _Crew:
    """The actors of a study, and the one call that is open to each that is not idle."""

    def __init__(self, study: Study, home: Home, cluster: Cluster, say: Callable[[str], None]) -> None:
        self._ray = _ray()
        self._arguments = (study, home, cluster)
        self._name, self._say = study.name, say
        self._token, self._wanted = leave_token(home.cluster_token(study.name)), software()
        self._place = self._ray.remote(max_restarts=0, **cluster.demand)(Worker)
        self._address: str = self._ray.get_runtime_context().gcs_address
        self._looked = time.monotonic()
        self._stillborn = 0
        self._unfit: list[_Hired] = []
        """each keeps its room, so that Ray places no other on its machine"""
        self.idle: list[_Hired] = []
        self.calls: dict[Any, _Hired] = {}

    def hire(self) -> None:
        worker = _Hired(self._place.remote(*self._arguments))
        self.calls[worker.actor.ready.remote(self._token, self._wanted)] = worker

    def give(self, worker: _Hired, task: Task) -> None:
        worker.task = task
        self.calls[worker.actor.say.remote(task)] = worker

    def answer(self, worker: _Hired, go_on: bool) -> None:
        self.calls[worker.actor.say.remote(go_on)] = worker

    def listen(self) -> list[tuple[_Hired, EpochDone | FoldDone | Outcome]]:
        """What the next worker says of its trial; nothing when none says anything for a while.

        Workers are heard in the order in which their calls were made: none waits for ever behind faster ones.
        """
        done, _ = self._ray.wait(list(self.calls), timeout=LOOK_SECONDS)
        if time.monotonic() - self._looked > LOOK_SECONDS:
            self._require_head()
        if not done:
            return []
        worker = self.calls.pop(done[0])
        try:
            message = self._ray.get(done[0])
        except self._ray.exceptions.RayTaskError as error:
            raise error.cause from error
        except self._ray.exceptions.RayError as error:
            return self._lost(worker, error)
        if isinstance(message, BaseException):
            raise message
        if isinstance(message, str):
            self._welcome(worker, message)
            return []
        if isinstance(message, Outcome):
            worker.task = None
            self.idle.append(worker)
        return [(worker, message)]

    def _welcome(self, worker: _Hired, problem: str) -> None:
        self._stillborn = 0
        if problem:
            self._say(f"left out of the study: machine {problem}")
            self._unfit.append(worker)
            self.hire()
        else:
            worker.ready = True
            self.idle.append(worker)

    def _lost(self, worker: _Hired, error: Exception) -> list[tuple[_Hired, EpochDone | FoldDone | Outcome]]:
        self._require_head()
        self._ray.kill(worker.actor)  # if merely out of reach, it must not train on beside its successor
        self._stillborn = 0 if worker.ready else self._stillborn + 1
        if self._stillborn == MAX_STILLBORN:
            raise HarnessError(
                f"{MAX_STILLBORN} workers in a row died before they could take a trial: {_line(error)} "
                "Look into Ray's logs on its nodes (/tmp/ray/session_latest/logs)."
            ) from error
        self.hire()
        while self.idle:  # they may have been on the lost machine, too: a trial is given to those that answer
            other = self.idle.pop()
            self.calls[other.actor.here.remote()] = other
        if worker.task is None:
            return []
        reason = f"its machine or its worker was lost: {_line(error)}"
        return [(worker, Outcome(worker.task.number, "died", reason=reason))]

    def _require_head(self) -> None:
        for look in range(LOOKS):
            if _answers(self._address):
                self._looked = time.monotonic()
                return
            time.sleep(look)
        raise HarnessError(
            f"the head node of the Ray cluster at {self._address} is gone. Start the cluster again and go on with: "
            f"harness study resume {self._name} --backend ray"
        )


def _answers(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host, int(port)), timeout=5):
            return True
    except (OSError, ValueError):
        return False


def _alive() -> list[dict[str, Any]]:
    return [node for node in _ray().nodes() if node["Alive"]]


def _room(node: dict[str, Any], what: str) -> float:
    return float(node["Resources"].get(what, 0.0))


def _roomy(cluster: Cluster) -> list[dict[str, Any]]:
    """The nodes where a trial could be trained."""
    return [node for node in _alive() if _room(node, "CPU") >= cluster.cpus and _room(node, "GPU") >= cluster.gpus]


def _name(node: dict[str, Any]) -> str:
    return f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']})"


def _line(error: BaseException) -> str:
    """The last line of an error that says something: Ray puts remote traces before it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


def _ray() -> Any:
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # nothing of a study leaves the cluster
    os.environ.setdefault(
        "RAY_DEDUP_LOGS_SKIP_REGEX", "^"
    )  # what nodes print belongs into their logs, not between ours
    try:
        import ray
    except ImportError as error:
        raise RequestError("--backend ray needs Ray. Type: pip install 'harness[ray]'") from error
    return ray


Message = EpochDone | FoldDone | Outcome | BaseException


class Worker:
    """Trains one trial at a time in a thread, and is the trial's boss on behalf of the driver."""

    def __init__(self, study: Study, home: Home, cluster: Cluster) -> None:
        self._study, self._home, self._cluster = study, home, cluster
        self._messages: SimpleQueue[Message] = SimpleQueue()
        self._answers: SimpleQueue[bool] = SimpleQueue()

    def ready(self, token: str, wanted: Software) -> str:
        """Open the data. Returns what makes this machine unfit for the study, '' if nothing does."""
        problem = misfit(self._home.cluster_token(self._study.name), token, wanted)
        if problem:
            return f"{socket.gethostname()} {problem}"
        import torch

        torch.set_num_threads(self._cluster.cpus)
        spec = self._study.spec
        self._data = prepare(spec.data, spec.seed, self._home, lambda what, done, total: None)
        return ""

    def say(self, word: Task | bool) -> Message:
        """Give a task, or the answer to the last event. Returns what happens next; an Outcome is the last of a task."""
        if isinstance(word, Task):
            Thread(target=self._train, args=(word,), daemon=True).start()
        else:
            self._answers.put(word)
        return self._messages.get()

    def here(self) -> str:
        """Returns '' when the worker is still there."""
        return ""

    def epoch(self, event: EpochDone) -> bool:
        return self._ask(event)

    def fold(self, event: FoldDone) -> bool:
        return self._ask(event)

    def _ask(self, event: EpochDone | FoldDone) -> bool:
        self._messages.put(event)
        return self._answers.get()

    def _train(self, task: Task) -> None:
        try:
            self._messages.put(run_trial(task, self._data, self._cluster.device, self))
        except BaseException as error:  # a thread's exception would be lost, and the driver would wait for ever
            self._messages.put(error)
