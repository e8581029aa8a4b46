"""Which searched keys made the difference, from the records of a study alone: nothing is locked, nothing written.

PED-ANOVA (Watanabe, Bansal and Hutter 2023) asks which keys tell the best trials from the others; fANOVA (Hutter, Hoos
and Leyton-Brown 2014) how much of the score's variance a forest ascribes to each key. Both see what was tried, and a
search tries mostly what looked good: an importance is no effect. For effects there is `harness study ablate`.
"""

import math
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import optuna
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.importance import FanovaImportanceEvaluator, PedAnovaImportanceEvaluator

from harness.config.load import Study
from harness.config.space import Choice, Range
from harness.search.samplers import directions, distribution, quiet_optuna
from harness.seeds import derive_seed
from harness.types import TrialRecord, rank_value

if TYPE_CHECKING:
    from harness.store.home import Home

Method = Literal["ped_anova", "fanova"]
ENOUGH_TRIALS, ENOUGH_PER_KEY = 20, 5
"""below so many scored trials, or so many for each searched key, the ranking is mostly noise"""


@dataclass(frozen=True)
class Importance:
    name: str
    value: float | None
    """share of all importances, 0 to 1; None for a key that stands in some trials only, or never varied"""
    trials: int
    """scored trials in which it stands"""


def scored_trials(records: Iterable[TrialRecord], metric: str) -> list[TrialRecord]:
    """Complete trials of their own that can be ranked, by number; one that breaks a constraint has a score, too."""
    return [record for record in records if record.same_as is None and math.isfinite(rank_value(record, metric))]


def importances(study: Study, records: Iterable[TrialRecord], method: Method) -> list[Importance]:
    """Of every searched key for the search metric's mean over folds, the largest first; keys without one last."""
    metric = study.spec.search.metric
    scored = scored_trials(records, metric)
    count = {name: sum(name in record.params for record in scored) for name in study.space}
    varied = {name for name in study.space if len({repr(record.params.get(name)) for record in scored}) > 1}
    ranked = [name for name in study.space if name in varied and count[name] == len(scored)]
    found = _evaluate(study, scored, ranked, method) if ranked and len(scored) > 2 else {}
    listed = [Importance(name, found.get(name), count[name]) for name in study.space]
    return sorted(listed, key=lambda one: (one.value is None, -(one.value or 0.0)))


def caution(study: Study, records: Iterable[TrialRecord]) -> str:
    """Why the ranking is not to be trusted, in words; '' where nothing speaks against it."""
    scored = scored_trials(records, study.spec.search.metric)
    needed = max(ENOUGH_TRIALS, ENOUGH_PER_KEY * len(study.space))
    if len(scored) >= needed:
        return ""
    return (
        f"{len(scored)} scored trials are too few to rank {len(study.space)} keys: wait for {needed} or more. What "
        "stands here is mostly chance."
    )


def _scale(range_: Range) -> BaseDistribution:
    """A range on the scale on which it is drawn: Optuna's fANOVA would weigh a learning rate's last decade with 90%."""
    if not isinstance(range_, Choice) and range_.log:
        return FloatDistribution(math.log(range_.low), math.log(range_.high))
    return distribution(range_)


def _on_its_scale(range_: Range, value: Any) -> Any:
    if not isinstance(range_, Choice) and range_.log:
        return min(max(math.log(value), math.log(range_.low)), math.log(range_.high))
    return value


@quiet_optuna()
def _evaluate(study: Study, scored: list[TrialRecord], names: list[str], method: Method) -> dict[str, float]:
    search = study.spec.search
    memory = optuna.create_study(direction=directions(search)[0])
    memory.add_trials(
        [
            optuna.trial.create_trial(
                params={name: _on_its_scale(study.space[name], record.params[name]) for name in names},
                distributions={name: _scale(study.space[name]) for name in names},
                value=rank_value(record, search.metric),
            )
            for record in scored
        ]
    )
    seed = derive_seed(study.spec.seed, "importance") % 2**31
    evaluator = PedAnovaImportanceEvaluator() if method == "ped_anova" else FanovaImportanceEvaluator(seed=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a value of its own per trial, which caution() says in words
        return dict(optuna.importance.get_param_importances(memory, evaluator=evaluator, params=names))


def importance_document(study: "Study", method: str, found: "list[Importance]", warning: str) -> dict[str, Any]:
    """`study importance --json`."""
    keys = [{"name": one.name, "importance": one.value, "trials": one.trials} for one in found]
    return {"study": study.name, "method": method, "keys": keys, "warning": warning or None}


def read_importances(
    home: "Home", name: str | None, method: str
) -> "tuple[Study, list[TrialRecord], list[Importance], str]":
    """The study, its records, its importances and what is to be said against them."""
    from harness.config.load import check_study
    from harness.errors import RequestError, nearest
    from harness.store.records import read_trials, require_study

    if method not in ("ped_anova", "fanova"):
        raise RequestError(f"--method {method}: write ped_anova or fanova.{nearest(method, ['ped_anova', 'fanova'])}")
    record = require_study(home, name)
    study = check_study(record.tree, f"study {record.name} as it was begun")
    trials = read_trials(home, record.name)
    if not study.space:
        raise RequestError(f"study {study.name} searches nothing: its file has no range.")
    found = importances(study, trials, "ped_anova" if method == "ped_anova" else "fanova")
    return study, trials, found, caution(study, trials)
