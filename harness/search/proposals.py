"""The points that samplers propose: a new one learns from the scores of those before it.

Optuna's storage is the book of what was proposed and what came of it. A step is a fold: what is reported at step k is
the score of held-out fold k. A trial is written at once with all its values, so no crash leaves half a point.
"""

import datetime
import math

import optuna
from optuna.trial import FrozenTrial, TrialState

from harness.config.load import Study
from harness.config.spec import violations
from harness.search.driver import Point
from harness.search.samplers import Proposal, as_past, distribution, grid_points, propose, quiet_optuna, total_trials
from harness.search.storage import open_optuna
from harness.store.home import Home
from harness.types import ENDED, TrialRecord, rank_value

STATES = {"complete": TrialState.COMPLETE, "pruned": TrialState.PRUNED, "failed": TrialState.FAIL}


class Proposals:
    """A `points.Source`. Optuna's storage is written by nobody else while the driver's lock is held."""

    def __init__(self, study: Study, home: Home) -> None:
        self._study, self._search = study, study.spec.search
        self._book = open_optuna(home, study.name, self._search)
        self._past = [as_past(study, trial) for trial in self._book.get_trials(deepcopy=False)]
        self._running: dict[int, optuna.Trial] = {}
        self._grid = grid_points(study) if self._search.sampler == "grid" else []
        self.total = total_trials(study)

    @property
    def asked(self) -> int:
        """How many points have been proposed."""
        return len(self._past)

    @quiet_optuna()
    def begun(self, records: dict[int, TrialRecord]) -> list[Point]:
        points = []
        for frozen in [one for one in self._past if not one.state.is_finished()]:
            self._running[frozen.number] = optuna.Trial(self._book, frozen._trial_id)
            record = records.get(frozen.number)
            if record is not None and record.state in ENDED:
                self.ended(record)
            else:
                points.append(self._point(frozen))
        return points

    @quiet_optuna()
    def next(self) -> Point | None:
        number = self.asked
        if number >= self.total:
            return None
        proposal = Proposal(self._grid[number], {}) if self._grid else propose(self._study, self._past, number)
        template = optuna.trial.create_trial(
            state=TrialState.RUNNING,
            params=proposal.params,
            distributions={name: distribution(self._study.space[name]) for name in proposal.params},
            system_attrs=proposal.state,
        )
        template.datetime_start = datetime.datetime.now()
        trial_id = self._book._storage.create_new_trial(self._book._study_id, template_trial=template)
        self._past.append(as_past(self._study, self._book._storage.get_trial(trial_id)))
        self._running[number] = optuna.Trial(self._book, trial_id)
        return self._point(self._past[number])

    @quiet_optuna()
    def fold(self, number: int, fold: int, value: float) -> None:
        if self._search.costs:  # Optuna takes no scores on the way where there are several objectives
            return
        trial = self._running[number]
        known = self._book._storage.get_trial(trial._trial_id).intermediate_values
        if fold not in known:  # a resumed trial passes its finished folds again
            trial.report(value, step=fold)

    @quiet_optuna()
    def ended(self, record: TrialRecord) -> None:
        trial = self._running.pop(record.number)
        if record.costs:
            known = self._book._storage.get_trial(trial._trial_id).constraints
            for name, value in record.costs.items():
                trial.set_user_attr(name, value)
            for text, violation in violations(self._search, record.costs).items():
                if text not in known:  # a crash may have come between this and the next line
                    trial.set_constraint(text, violation)
        values, state = None, STATES[record.state]
        if record.state == "complete":
            values = [rank_value(record, self._search.metric), *(record.costs[name] for name in self._search.costs)]
            if math.isnan(values[0]):  # not defined in some fold: no point to learn from
                values, state = None, TrialState.FAIL
        self._book.tell(trial, values=values, state=state)
        self._past[record.number] = as_past(self._study, self._book._storage.get_trial(trial._trial_id))

    def _point(self, trial: FrozenTrial) -> Point:
        return Point(trial.number, dict(trial.params), self._study.fill(trial.params))
