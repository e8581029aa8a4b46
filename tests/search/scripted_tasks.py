"""Tasks that an outcome makes available again, as a driver's are: a run of failures that ends, a copy that is freed."""

from pathlib import Path

from harness.config.load import Study
from harness.config.space import extremes
from harness.search.trial import Outcome, Task
from harness.store.home import Home
from harness.types import EpochDone, FoldDone


class Scripted:
    """Two tasks; nothing until the longer one has ended; then two more. It is its trials' boss, too."""

    def __init__(self, study: Study, home: Home, folder: Path) -> None:
        self._study, self._home, self._folder = study, home, folder
        self._ready = [self._task(0, epochs=6), self._task(1, epochs=1)]
        self.happened: list[tuple[str, int]] = []
        self.refused_since_1 = False

    def _task(self, number: int, epochs: int) -> Task:
        tree = self._study.fill({name: extremes(range_)[0] for name, range_ in self._study.space.items()})
        tree["train"]["epochs"] = epochs
        folder, running = self._folder / str(number), self._home.trial_state(self._study.name, number)
        folder.mkdir(parents=True)
        return Task(number, tree, self._study.name, folder, running, "fp32", "auroc")

    def next_task(self) -> Task | None:
        if self._ready:
            return self._ready.pop(0)
        self.refused_since_1 |= ("ended", 1) in self.happened and ("ended", 0) not in self.happened
        return None

    def ended(self, outcome: Outcome) -> None:
        assert outcome.state == "complete", outcome.reason
        self.happened.append(("ended", outcome.number))
        if outcome.number == 0:
            self._ready = [self._task(2, epochs=3), self._task(3, epochs=3)]

    def epoch(self, event: EpochDone) -> bool:
        self.happened.append(("epoch", event.trial))
        return True

    def fold(self, event: FoldDone) -> bool:
        return True

    def check(self) -> None:
        """All four were trained, the last two of them at once: by the worker too that had been told to wait."""
        assert self.refused_since_1 and {number for what, number in self.happened if what == "ended"} == {0, 1, 2, 3}
        first_end = min(self.happened.index(("ended", 2)), self.happened.index(("ended", 3)))
        assert {number for what, number in self.happened[:first_end] if what == "epoch"} == {0, 1, 2, 3}
