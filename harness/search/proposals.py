"""The points that Optuna proposes: a new one learns from the scores of those before it.

A step is a fold: what is reported at step k is the score of held-out fold k.
"""

from typing import Any

import optuna
from optuna.trial import TrialState

from harness.home import Home
from harness.records import ENDED, TrialRecord
from harness.search.grid import total_trials
from harness.search.points import Point
from harness.search.storage import ask, open_optuna, suggest
from harness.study.load import Study
from harness.study.space import fill

STATES = {"complete": TrialState.COMPLETE, "pruned": TrialState.PRUNED, "failed": TrialState.FAIL}


class Proposals:
    """A `points.Source`. Optuna's storage is written by nobody else while the driver's lock is held."""

    def __init__(self, study: Study, home: Home) -> None:
        self._study, self._search = study, study.spec.search
        self._optuna = open_optuna(home, study.name, self._search)
        self._asked = len(self._optuna.get_trials(deepcopy=False))
        self._running: dict[int, optuna.Trial] = {}
        self.total = total_trials(self._search, study.space)

    def begun(self, records: dict[int, TrialRecord]) -> list[Point]:
        points = []
        for frozen in self._optuna.get_trials(deepcopy=False):
            if frozen.state.is_finished():
                continue
            trial = self._running[frozen.number] = optuna.Trial(self._optuna, frozen._trial_id)
            record = records.get(frozen.number)
            if record is not None and record.state in ENDED:
                self.ended(record)
                continue
            for name, range_ in self._study.space.items():  # a crash may have come between two suggestions
                suggest(trial, name, range_)
            points.append(self._point(trial))
        return points

    def next(self) -> Point | None:
        if self._asked >= self.total:
            return None
        trial = ask(self._optuna, self._search, self._study.space, self._study.spec.seed)
        self._asked += 1
        self._running[trial.number] = trial
        return self._point(trial)

    def fold(self, number: int, fold: int, value: float) -> None:
        trial = self._running[number]
        known = self._optuna._storage.get_trial(trial._trial_id).intermediate_values
        if fold not in known:  # a resumed trial passes its finished folds again
            trial.report(value, step=fold)

    def ended(self, record: TrialRecord) -> None:
        value = record.oof[self._search.metric].value if record.state == "complete" else None
        state = STATES[record.state]
        if value is not None and value != value:  # not defined on these rows: no point to learn from
            value, state = None, TrialState.FAIL
        self._optuna.tell(self._running.pop(record.number), values=value, state=state)

    def _point(self, trial: optuna.Trial) -> Point:
        params: dict[str, Any] = dict(trial.params)
        return Point(trial.number, params, fill(self._study.tree, params))
