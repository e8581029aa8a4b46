"""Which of many past trials a model is fitted to: the best, and an even spread of the rest.

Models get slower with every trial they are shown (a Gaussian process with the cube of their number), the tenth hundred
of bad ones teaches them next to nothing. What is left out depends on the trials alone, so a resume leaves out the same.
"""

import copy
import heapq
import math
from collections.abc import Sequence
from typing import Any

from optuna.distributions import BaseDistribution
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from harness.store.records import is_on_front

LEARNT_FROM = (TrialState.COMPLETE, TrialState.PRUNED)


class Past(FrozenTrial):
    """A trial that is only read from now on: it remembers its rank, and is never copied whole. At the two-thousandth
    proposal ranking all and copying a hundred took longer than proposing."""

    rank: tuple[float, float, float, int] | None = None

    @classmethod
    def of(cls, trial: FrozenTrial, distributions: dict[str, BaseDistribution]) -> "Past":
        past = cls.__new__(cls)
        past.__dict__.update(trial.__dict__)
        past.distributions = distributions
        return past

    def _validate(self) -> None:
        """It was valid when it was written; Optuna would ask again for each of a hundred at every proposal."""

    def __deepcopy__(self, memo: dict[int, Any]) -> "Past":
        return copy.copy(self)


def window(
    trials: Sequence[FrozenTrial], directions: Sequence[StudyDirection], best: int, limit: int
) -> list[FrozenTrial]:
    """At most `limit` ended trials, in order of their numbers: the `best` best ones and of the rest every so many-th;
    and all that run. Failed trials, which say nothing, are left out."""
    ended, running = [], []
    for trial in trials:
        state = trial.state
        if state is TrialState.COMPLETE or state is TrialState.PRUNED:
            ended.append(trial)
        elif state is TrialState.RUNNING:
            running.append(trial)
    if len(ended) > limit:
        chosen = best_first(ended, directions, best)
        numbers = {trial.number for trial in chosen}
        rest = [trial for trial in ended if trial.number not in numbers]
        ended = chosen + [rest[index * len(rest) // (limit - best)] for index in range(limit - best)]
    return sorted([*ended, *running], key=lambda trial: trial.number)


def best_first(trials: Sequence[FrozenTrial], directions: Sequence[StudyDirection], count: int) -> list[FrozenTrial]:
    """The `count` best: complete trials by score (by front and then by number, where there are several objectives),
    then pruned ones by how far they came and how they stood there, then what breaks a constraint, the least first."""
    fronts: dict[int, float] = {}
    if len(directions) > 1:
        fronts = _fronts([t for t in trials if t.state == TrialState.COMPLETE and not _broken(t)], directions, count)
    sign = 1.0 if directions[0] == StudyDirection.MINIMIZE else -1.0

    if not fronts:
        return heapq.nsmallest(count, trials, key=lambda trial: _rank(trial, sign))

    def key(trial: FrozenTrial) -> tuple[float, float, float, int]:
        front = fronts.get(trial.number)
        return _rank(trial, sign) if front is None else (0.0, front, 0.0, trial.number)

    return sorted(trials, key=key)[:count]


def _rank(trial: FrozenTrial, sign: float) -> tuple[float, float, float, int]:
    if type(trial) is Past:  # isinstance asks the abstract base class, thousands of times
        if trial.rank is None:
            trial.rank = _place(trial, sign)
        return trial.rank
    return _place(trial, sign)


def _place(trial: FrozenTrial, sign: float) -> tuple[float, float, float, int]:
    if broken := _broken(trial):
        return (2.0, broken, 0.0, trial.number)
    if trial.state == TrialState.COMPLETE:
        return (0.0, sign * trial.values[0], 0.0, trial.number)
    if not trial.intermediate_values:
        return (1.0, math.inf, 0.0, trial.number)
    step, value = max(trial.intermediate_values.items())
    return (1.0, -step, sign * value, trial.number)


def _broken(trial: FrozenTrial) -> float:
    """By how much a trial breaks its constraints; 0 where it keeps them."""
    if not trial.system_attrs:  # most have none, and this is asked of thousands at every proposal
        return 0.0
    return float(sum(value for value in trial.constraints.values() if value > 0))


def _fronts(trials: list[FrozenTrial], directions: Sequence[StudyDirection], count: int) -> dict[int, float]:
    """The number of each trial's front (Deb et al. 2002), by the trial's number; of the first `count` at least."""
    import numpy as np

    signs = [1.0 if direction == StudyDirection.MINIMIZE else -1.0 for direction in directions]
    losses = np.array([trial.values for trial in trials]).reshape(len(trials), len(signs)) * signs
    left, places, front = np.arange(len(trials)), {trial.number: math.inf for trial in trials}, 0
    while len(left) > len(trials) - count:
        on = left[is_on_front(losses[left])]
        places.update({trials[index].number: float(front) for index in on})
        left, front = np.setdiff1d(left, on), front + 1
    return places
