"""Which settings are tried next: samplers, their history, grids and designs.

Who proposes the next point: a pure function of the study, its past trials and the number of the new one.

Each proposal is made in a study of its own in memory, with a fresh sampler whose seed is hashed from the study's seed
and the trial's number. So a resumed study proposes what the uninterrupted one would have, never an old point again, and
the store of the trials is written once a proposal.

Which of many past trials a model is fitted to: the best, and an even spread of the rest.

Models get slower with every trial they are shown (a Gaussian process with the cube of their number), the tenth hundred
of bad ones teaches them next to nothing. What is left out depends on the trials alone, so a resume leaves out the same.

Points of the unit cube as configurations: plain random search and a quasi-random sequence. No model, no Optuna.

The point of a trial depends on the study's seed and the trial's number alone, so nothing has to be remembered for a
resume, and trials asked for at the same time never get the same point.

How many points a study has, whether its sampler can give them, and full grids. Pure functions, no Optuna.
"""

import copy
import heapq
import math
import random
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler, CmaEsSampler, GPSampler, TPESampler
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from harness.config.load import Study, key_defaults
from harness.config.space import Choice, FloatRange, Range
from harness.config.spec import Search
from harness.errors import RequestError
from harness.metrics import METRICS
from harness.seeds import derive_seed
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


TPE_BEST, TPE_LIMIT = 25, 100
"""TPE's good trials are the best tenth and 25 at most: all of them, and as many of the others as give their density"""
GP_BEST, GP_LIMIT = 32, 64
TRIES = 50
"""random points looked at in place of a repeated one"""
STATE = "cma:"
"""what CMA-ES remembers at a trial begins with this"""


@dataclass(frozen=True)
class Proposal:
    params: dict[str, Any]
    """the ranges that stand, by dotted name"""
    state: dict[str, Any]
    """what the sampler must find at this trial later"""


@contextmanager
def quiet_optuna() -> Iterator[None]:
    """Inside, Optuna logs errors only and does not warn of what it calls experimental, nor of TPE's own `gamma` (its
    default counts the trials that it is shown, not those that there are). The process keeps its own settings."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*`gamma` has been deprecated", category=FutureWarning)
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(before)


def directions(search: Search) -> list[StudyDirection]:
    """Of the metric, and of each cost, which is to be small."""
    higher = METRICS[search.metric].higher_is_better
    first = StudyDirection.MAXIMIZE if higher else StudyDirection.MINIMIZE
    return [first, *(StudyDirection.MINIMIZE for _ in search.costs)]


@quiet_optuna()
def propose(study: Study, past: Sequence[FrozenTrial], number: int) -> Proposal:
    """The point of trial `number`, given all earlier trials. search.enqueue fixes what it names; grids are made whole
    elsewhere (search.grid)."""
    search, seed = study.spec.search, study.spec.seed
    enqueued = search.enqueue[number] if number < len(search.enqueue) else {}
    known = {name: _as_given(study.space[name], value) for name, value in enqueued.items()}
    if search.sampler in ("random", "qmc"):
        draw = random_point if search.sampler == "random" else sobol_point
        cube = dict(zip(study.space, draw(len(study.space), number, seed).tolist(), strict=True))
        return Proposal(_drawn(study, lambda name, range_: known.get(name, value_at(range_, cube[name]))), {})
    filled = search.sampler in ("gp", "cmaes")
    memory = optuna.create_study(directions=directions(search), sampler=_sampler(study, past, number))
    memory.add_trials(_shown(study, past, filled))
    if known:
        memory.enqueue_trial(known)
    trial = memory.ask()
    if filled:
        values = {name: _suggest(trial, name, range_) for name, range_ in study.space.items()}
        params = _drawn(study, lambda name, _: values[name])
    else:
        params = _drawn(study, lambda name, range_: _suggest(trial, name, range_))
    if search.sampler != "cmaes" and not known:
        params = _unmet(study, params, past, number)
    attributes = memory.get_trials(deepcopy=False)[-1].system_attrs
    return Proposal(params, {key: value for key, value in attributes.items() if key.startswith(STATE)})


def _unmet(study: Study, params: dict[str, Any], past: Sequence[FrozenTrial], number: int) -> dict[str, Any]:
    """The point itself, or in place of one that was proposed before (a model that has converged repeats itself) a
    random one that was not. Where nothing new is found, everything is known."""
    draw = np.random.default_rng(derive_seed(study.spec.seed, "unmet", number))
    for _ in range(TRIES):
        if not [True for trial in past if trial.params == params and trial.state != TrialState.FAIL]:
            return params
        cube = dict(zip(study.space, draw.random(len(study.space)).tolist(), strict=True))
        params = _drawn(study, lambda name, range_, cube=cube: value_at(range_, cube[name]))
    return params


def _as_given(range_: Range, value: Any) -> Any:
    """A value as its range would have given it: 15 is 15.0 where the range says so."""
    if isinstance(range_, Choice):
        return next(option for option in range_.options if option == value)
    return float(value) if isinstance(range_, FloatRange) else value


def _drawn(study: Study, value_of: Any) -> dict[str, Any]:
    point: dict[str, Any] = {}
    for name, range_ in study.space.items():
        if study.stands(name, point):
            point[name] = value_of(name, range_)
    return point


def _sampler(study: Study, past: Sequence[FrozenTrial], number: int) -> BaseSampler:
    search = study.spec.search
    seed = derive_seed(study.spec.seed, "sampler", number) % 2**31
    if search.sampler == "gp":
        return GPSampler(seed=seed, n_startup_trials=search.startup, warn_independent_sampling=False)
    if search.sampler == "cmaes":
        return CmaEsSampler(seed=seed, n_startup_trials=1, warn_independent_sampling=False)
    ended = sum(trial.state in LEARNT_FROM for trial in past)
    conditional = any(range_.when for range_ in study.space.values()) and not search.costs
    return TPESampler(
        seed=seed,
        n_startup_trials=search.startup,
        gamma=lambda shown: min(math.ceil(0.1 * max(ended, shown)), TPE_BEST),
        group=conditional,
    )


def _shown(study: Study, past: Sequence[FrozenTrial], filled: bool) -> list[FrozenTrial]:
    """The past as the sampler is shown it: bounded, and for models that know no conditions and no pruning, with every
    range filled in and every ended trial complete."""
    search = study.spec.search
    ways = directions(search)
    if search.sampler == "tpe":
        return window(past, ways, TPE_BEST, TPE_LIMIT)
    if search.sampler == "gp":
        chosen = window(past, ways, GP_BEST, GP_LIMIT)
    else:
        chosen = _generation([trial for trial in past if trial.state in LEARNT_FROM])
    return [_completed(study, trial, past, ways) for trial in chosen] if filled else chosen


def _generation(ended: list[FrozenTrial]) -> list[FrozenTrial]:
    """The trials of CMA-ES's newest generation, one of which holds its state; the first generation has none. Before
    that any trial will do: it says that the search has begun."""
    held = [t.system_attrs[f"{STATE}generation"] for t in ended if f"{STATE}optimizer:0" in t.system_attrs]
    newest = held[-1] if held else 0
    return [trial for trial in ended if trial.system_attrs.get(f"{STATE}generation") == newest] or ended[-1:]


def _completed(
    study: Study, trial: FrozenTrial, past: Sequence[FrozenTrial], ways: list[StudyDirection]
) -> FrozenTrial:
    """The trial with a value for every range, the key's default (or the nearest to it) where it does not stand, and
    with a score: a pruned one's is the mean of its folds, or the worst there is where it has none."""
    params = {name: trial.params.get(name, _neutral(name, range_)) for name, range_ in study.space.items()}
    values = trial.values
    if trial.state == TrialState.PRUNED:
        folds = list(trial.intermediate_values.values())
        known = [one.values[0] for one in past if one.state == TrialState.COMPLETE] + folds
        worst = (min if ways[0] == StudyDirection.MAXIMIZE else max)(known, default=0.0)
        costs = [trial.user_attrs.get(name, 0.0) for name in study.spec.search.costs]
        values = [sum(folds) / len(folds) if folds else worst, *costs]
    return optuna.create_trial(
        state=TrialState.RUNNING if trial.state == TrialState.RUNNING else TrialState.COMPLETE,
        params=params,
        distributions={name: distribution(range_) for name, range_ in study.space.items()},
        values=None if trial.state == TrialState.RUNNING else values,
        system_attrs=trial.system_attrs,
    )


def _neutral(name: str, range_: Range) -> Any:
    """What a model that knows no conditions is told of a range that does not stand."""
    default = key_defaults()[name]
    if isinstance(range_, Choice):
        return default if default in range_.options else range_.options[0]
    middle = math.sqrt(range_.low * range_.high) if range_.log else (range_.low + range_.high) / 2
    inside = isinstance(default, int | float) and range_.low <= default <= range_.high
    value = default if inside else middle
    if range_.step:
        value = range_.low + round((value - range_.low) / range_.step) * range_.step
        value = min(value, range_.high)
    return float(value) if isinstance(range_, FloatRange) else int(value)


def distribution(range_: Range) -> BaseDistribution:
    """A range as Optuna calls it."""
    if isinstance(range_, Choice):
        return CategoricalDistribution(range_.options)
    if isinstance(range_, FloatRange):
        return FloatDistribution(range_.low, range_.high, log=range_.log, step=range_.step)
    return IntDistribution(range_.low, range_.high, log=range_.log, step=range_.step)


def as_past(study: Study, trial: FrozenTrial) -> Past:
    """A trial as `propose` likes it best, made once when it begins and once when it has ended."""
    return Past.of(trial, {name: distribution(study.space[name]) for name in trial.params})


def _suggest(trial: optuna.Trial, name: str, range_: Range) -> Any:
    if isinstance(range_, Choice):
        return trial.suggest_categorical(name, range_.options)
    if isinstance(range_, FloatRange):
        return trial.suggest_float(name, range_.low, range_.high, step=range_.step, log=range_.log)
    return trial.suggest_int(name, range_.low, range_.high, step=range_.step, log=range_.log)


def random_point(dimensions: int, number: int, seed: int) -> NDArray[np.float64]:
    """(dimensions,) uniform in [0, 1)."""
    return np.random.default_rng(derive_seed(seed, "sampler", number)).random(dimensions)


def sobol_point(dimensions: int, number: int, seed: int) -> NDArray[np.float64]:
    """(dimensions,) the trial's place in one scrambled Sobol sequence (Owen 1998, Joe and Kuo 2008) in [0, 1)."""
    from scipy.stats import qmc

    engine = qmc.Sobol(dimensions, scramble=True, rng=np.random.default_rng(derive_seed(seed, "sobol")))
    if number:
        engine.fast_forward(number)
    return np.asarray(engine.random(1)[0])


def value_at(range_: Range, u: float) -> Any:
    """The value of a range at u in [0, 1): uniform, on the logarithm where `log` says so, equal shares for steps."""
    if isinstance(range_, Choice):
        return range_.options[int(u * len(range_.options))]
    if isinstance(range_, FloatRange):
        if range_.step is not None:
            count = int((range_.high - range_.low) / range_.step + 1e-9) + 1
            return range_.low + int(u * count) * range_.step
        if range_.log:
            value = math.exp(math.log(range_.low) + u * (math.log(range_.high) - math.log(range_.low)))
            return min(max(value, range_.low), range_.high)
        return range_.low + u * (range_.high - range_.low)
    if range_.log:
        low, high = math.log(range_.low - 0.5), math.log(range_.high + 0.5)
        return min(max(round(math.exp(low + u * (high - low))), range_.low), range_.high)
    return range_.low + int(u * ((range_.high - range_.low) // range_.step + 1)) * range_.step


MOST_POINTS = 100_000
"""of a grid: all of them are shuffled in memory"""


def check_sampler(study: Study) -> None:
    """Raises RequestError where a sampler cannot do what is asked of it."""
    numbers = [name for name, range_ in study.space.items() if not isinstance(range_, Choice)]
    if study.spec.search.sampler == "cmaes" and len(numbers) < 2:
        raise RequestError(
            f"search.sampler: cmaes adapts the ellipse of two numbers or more, and {len(numbers)} are searched "
            f"({', '.join(numbers) or 'choices only'}). --set search.sampler=tpe"
        )


def total_trials(study: Study) -> int:
    """search.trials, or the size of the grid where that is smaller."""
    search = study.spec.search
    return min(search.trials, len(grid_points(study))) if search.sampler == "grid" else search.trials


def grid_points(study: Study) -> list[dict[str, Any]]:
    """Every point once, in an order drawn from the seed: a study that stops early has seen a fair sample.

    A point has the ranges that stand at it and no others, so two points never mean the same configuration. Raises
    RequestError for a range without a step, and for a grid that is too large to be one.
    """
    points: list[dict[str, Any]] = [{}]
    for name, range_ in study.space.items():
        values = axis(name, range_)
        grown: list[dict[str, Any]] = []
        for point in points:
            grown += [{**point, name: value} for value in values] if study.stands(name, point) else [point]
            if len(grown) > MOST_POINTS:
                raise RequestError(
                    f"search.sampler: this grid has more than {MOST_POINTS:,} points. Take fewer values, or "
                    "--set search.sampler=qmc, which spreads any number of trials evenly."
                )
        points = grown
    random.Random(derive_seed(study.spec.seed, "grid")).shuffle(points)
    return points


def axis(name: str, range_: Range) -> list[Any]:
    """Every value of a range. Raises RequestError for a range without a step."""
    if isinstance(range_, Choice):
        return list(range_.options)
    if isinstance(range_, FloatRange):
        if range_.step is None:
            raise RequestError(
                f"{name}: the grid sampler needs a choice, an int range or a step, such as "
                f"{{choice: [{range_.low:g}, {range_.high:g}]}}, or --set search.sampler=tpe."
            )
        count = int((range_.high - range_.low) / range_.step + 1e-9) + 1
        return [range_.low + i * range_.step for i in range(count)]
    return list(range(range_.low, range_.high + 1, range_.step))
