"""What trains on a machine of a cluster, one trial at a time: a plain object that knows nothing of how it is called.

Its caller always has one call open to it, `say`, which takes the answer to the last event and returns the next one.
"""

import socket
from queue import SimpleQueue
from threading import Thread

from harness.config.load import Study
from harness.data.prepare import prepare
from harness.search.nodes import Cluster, Software, misfit
from harness.search.objective import Outcome, Task, run_trial
from harness.store.home import Home
from harness.types import EpochDone, FoldDone

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
