"""Ablation of a trial: factors, arms, their training.

An ablation: a finished trial again with one setting changed at a time, over several training seeds.

Its trainings are a study of their own, NAME.ablation-tN, with a ledger and an MLflow experiment like any other, so that
they resume, run in parallel and show their curves. They share data and folds with the study; no training is stopped
early. Training seeds are the same for every arm; the first is the study's own, with which the base trial has been
trained already and is not trained again.

Which settings of a trial an ablation asks about, and the arms that answer. Pure functions of plain data.

A factor is a key that can be off: an augmentation or a regulariser of NEUTRAL, which is left out where the trial has it
on; or a choice of the study's space, of which each option that the trial does not have is tried. A number without a
value for "off", such as optim.lr, is a factor only where values are given: `optim.lr=1e-4,1e-3`.
"""

import time
from dataclasses import dataclass, replace
from typing import Any, Literal

from harness.config.load import Study, all_keys, check_study, key_defaults, parse_override, spec_hash
from harness.config.space import SEARCHABLE, Choice, Space, fill, flatten
from harness.config.spec import Augment
from harness.data.people import write_people
from harness.data.prepare import Prepared, prepare
from harness.errors import HarnessError, RequestError, nearest
from harness.hardware import parse_devices
from harness.search import run
from harness.search.driver import Driver, Point
from harness.search.run import choose_engine, choose_precisions, data_ready
from harness.seeds import derive_seed
from harness.store.home import Home, lock
from harness.store.records import StudyRecord, best_trial, no_best, original_of, read_study, read_trials, require_study
from harness.types import ENDED, Listener, TrialRecord, Working

MODIFIERS = ("probability", "policy_ops", "policy_magnitude")
"""keys of `augment` that say how strong another one is"""
NEUTRAL: dict[str, Any] = {
    "model.weights": "none",
    "model.dropout": 0.0,
    "model.drop_path": 0.0,
    "optim.weight_decay": 0.0,
    "optim.layer_decay": 1.0,
    "optim.l1": 0.0,
    "train.select": "last",
    "train.class_weights": False,
    "train.pos_weights": False,
    "train.sampling": "shuffle",
    "train.label_smoothing": 0.0,
    "train.focal": 0.0,
    "train.ema": 0.0,
    "train.swa": 0.0,
} | {f"augment.{name}": field.default for name, field in Augment.model_fields.items() if name not in MODIFIERS}
"""the value at which a factor is off, by key"""
PART_OF = {"train.select": ("train.patience",)}
"""keys that say nothing, and are refused, where the factor is off: they go and come with it"""


@dataclass(frozen=True)
class Arm:
    """The base trial with one setting changed, and how the row of the table reads."""

    factor: str
    before: Any
    """the value that the row goes from: off, where the factor can be off"""
    after: Any
    """the value that it goes to: the row's difference is the metric with this one minus the metric with `before`"""
    base: Literal["before", "after"]
    """which of the two the base trial has"""
    along: tuple[tuple[str, Any], ...] = ()
    """keys that lose their value together with the factor, and what they are then"""

    @property
    def value(self) -> Any:
        """What the arm has and the base trial has not."""
        return self.after if self.base == "before" else self.before

    @property
    def changes(self) -> dict[str, Any]:
        """Every key in which the arm differs from the base trial."""
        return {self.factor: self.value, **dict(self.along)}


def find_arms(tree: dict[str, Any], space: Space, wanted: list[str]) -> tuple[list[Arm], list[str]]:
    """The arms around a trial, in the order of its keys, and the searched keys that no arm asks about.

    tree: the trial's spec, whole; space: of its study; wanted: names, beginnings of names (`augment`), or names with
    values (`optim.lr=1e-4,1e-3`); empty: every factor. Raises RequestError where a name says nothing.
    """
    values = flatten(tree)
    found = [arm for name in values for arm in _arms(name, values, space)]
    left_out = [name for name in space if not any(arm.factor == name for arm in found)]
    if not wanted:
        if not found:
            raise RequestError(
                "nothing to leave out and nothing to add: every augmentation and regulariser of this trial is off, and "
                "its study has no choices. Name values to try: --factor optim.weight_decay=0.01,0.1"
            )
        return found, left_out
    chosen: list[Arm] = []
    for name in wanted:
        chosen += _explicit(name, values) if "=" in name else _named(name, found, values)
    asked = {arm.factor for arm in chosen}
    return list({(arm.factor, repr(arm.value)): arm for arm in chosen}.values()), [
        n for n in left_out if n not in asked
    ]


def _without(name: str, values: dict[str, Any]) -> Arm:
    """The trial without a factor that it has, and without what is only a part of it."""
    parts = ((key, key_defaults()[key]) for key in PART_OF.get(name, ()))
    along = tuple((key, off) for key, off in parts if values[key] != off)
    return Arm(name, NEUTRAL[name], values[name], "after", along)


def _arms(name: str, values: dict[str, Any], space: Space) -> list[Arm]:
    """Leaving the factor out where it is on, and each other option of a choice."""
    value, arms = values[name], []
    if name in NEUTRAL and value != NEUTRAL[name]:
        arms.append(_without(name, values))
    range_ = space.get(name)
    if isinstance(range_, Choice):
        tried = [value, *(arm.value for arm in arms)]
        arms += [Arm(name, value, option, "before") for option in range_.options if option not in tried]
    return arms


def _named(name: str, found: list[Arm], values: dict[str, Any]) -> list[Arm]:
    matching = [arm for arm in found if arm.factor == name or arm.factor.startswith(f"{name}.")]
    if matching:
        return matching
    factors = list(dict.fromkeys(arm.factor for arm in found))
    if name in values and name.split(".")[0] in SEARCHABLE:
        off = " is off in this trial and no choice of its study" if name in NEUTRAL else " has no value for off"
        raise RequestError(
            f"--factor {name}: it{off} ({name}: {values[name]!r}), so there is nothing to compare. "
            f"Name values to try: --factor {name}=VALUE,VALUE   (factors of this trial: {', '.join(factors) or 'none'})"
        )
    raise RequestError(
        f"--factor {name}: no such factor.{nearest(name, [*factors, *all_keys()])} "
        f"Factors of this trial: {', '.join(factors) or 'none'}; other keys take values: --factor optim.lr=1e-4,1e-3"
    )


def _explicit(text: str, values: dict[str, Any]) -> list[Arm]:
    """The arms of `optim.lr=1e-4,1e-3`."""
    name, _, listed = text.partition("=")
    if name not in values or name.split(".")[0] not in SEARCHABLE:
        known = [key for key in values if key.split(".")[0] in SEARCHABLE]
        raise RequestError(
            f"--factor {text}: {name} is no key that a trial may vary.{nearest(name, known)} "
            "Every key: harness study reference"
        )
    arms = []
    for one in listed.split(","):
        _, value = parse_override(f"{name}={one.strip()}")
        if value == values[name]:
            continue
        off = name in NEUTRAL and value == NEUTRAL[name]
        arms.append(_without(name, values) if off else Arm(name, values[name], value, "before"))
    if not arms:
        raise RequestError(f"--factor {text}: the trial has this value already. Name another one.")
    return arms


@dataclass(frozen=True)
class Plan:
    """What is to be trained, and what it is compared with."""

    base: StudyRecord
    trial: TrialRecord
    study: Study
    """the ablation's own; its space lists the values that the arms have"""
    tree: dict[str, Any]
    """the base trial's spec under the ablation's name"""
    arms: list[Arm]
    not_factors: list[str]
    """searched keys that no arm asks about"""
    seeds: list[int]
    """of training; the first is the study's own"""

    @property
    def params(self) -> list[dict[str, Any]]:
        """What each training changes, seed by seed; the base trial with its own seed is not among them."""
        changes: list[dict[str, Any]] = [{}, *(arm.changes for arm in self.arms)]
        every = [{**change, "seed": seed} for seed in self.seeds for change in changes]
        return every[1:]


def plan_ablation(home: Home, name: str | None, trial: int | None, wanted: list[str], seeds: int) -> Plan:
    """Arms around a complete trial (the best one when None) of a study (the newest completed one when None).

    Raises RequestError where there is no such trial or factor.
    """
    if seeds < 2:
        raise RequestError(
            f"--seeds {seeds}: without a second seed nobody knows the noise of training. Type --seeds 3."
        )
    base = require_study(home, name)
    if base.ablates:
        raise RequestError(f"study {base.name!r} is an ablation itself. Name the study: {base.ablates}")
    found = _base_trial(home, base, trial)
    searched = check_study(base.tree, f"study {base.name} as it was begun")
    tree = searched.fill(found.params)
    space = {name: range_ for name, range_ in searched.space.items() if name in found.params}
    arms, not_factors = find_arms(tree, space, wanted)
    own = f"{base.name[:48]}.ablation-t{found.number}"
    total = (len(arms) + 1) * seeds - 1
    kept = {name: tree["search"][name] for name in ("metric", "max_failures")}
    tree = {**tree, "name": own, "search": {**kept, "trials": total, "sampler": "random", "pruner": "none"}}
    tree["description"] = f"Ablation of trial {found.number} of {base.name}."
    study = check_study(fill(tree, _ranges(tree, arms)), f"ablation {own}")
    repeats = [base.tree["seed"], *(derive_seed(base.tree["seed"], "ablation", s) % 2**31 for s in range(1, seeds))]
    return Plan(base, found, study, tree, arms, not_factors, repeats)


def _base_trial(home: Home, base: StudyRecord, number: int | None) -> TrialRecord:
    trials = read_trials(home, base.name)
    complete = [trial.number for trial in trials if trial.state == "complete"]
    listed = ", ".join(map(str, complete)) or "none"
    if number is None:
        metric = base.tree["search"]["metric"]
        best = best_trial(trials, metric)
        if best is None:
            raise RequestError(
                f"study {base.name!r} has {no_best(trials, metric)}. Go on: harness study resume {base.name}"
            )
        return best
    for trial in trials:
        if trial.number == number:
            if trial.state != "complete":
                raise RequestError(f"--trial {number}: it is {trial.state}, not complete. Complete ones: {listed}")
            return original_of(trial, trials)
    raise RequestError(f"--trial {number}: study {base.name!r} has no such trial. Complete ones: {listed}")


def _ranges(tree: dict[str, Any], arms: list[Arm]) -> dict[str, dict[str, Any]]:
    """What the ablation's space is: the base trial's value of each key that an arm changes, and those of the arms."""
    options = {arm.factor: [_value(tree, arm.factor)] for arm in arms}
    for arm in arms:
        options[arm.factor].append(arm.value)
    ranges: dict[str, dict[str, Any]] = {name: {"choice": values} for name, values in options.items()}
    for arm in arms:
        on = [value for value in options[arm.factor] if value != arm.value]
        ranges |= {name: {"choice": [_value(tree, name), off], "when": {arm.factor: on}} for name, off in arm.along}
    return ranges


def _value(tree: dict[str, Any], name: str) -> Any:
    node: Any = tree
    for key in name.split("."):
        node = node[key]
    return node


class Listed:
    """A `points.Source`: a list made beforehand. What an earlier ablation of the trial has trained is not trained
    again; what it began is finished."""

    def __init__(self, params: list[dict[str, Any]], tree: dict[str, Any], records: list[TrialRecord]) -> None:
        known = {_key(record.params) for record in records}
        self._tree = tree
        self._new = [one for one in params if _key(one) not in known]
        self._number = 1 + max((record.number for record in records), default=-1)
        self.total = len(records) + len(self._new)

    def begun(self, records: dict[int, TrialRecord]) -> list[Point]:
        return [self._point(record.number, record.params) for record in records.values() if record.state not in ENDED]

    def next(self) -> Point | None:
        if not self._new:
            return None
        self._number += 1
        return self._point(self._number - 1, self._new.pop(0))

    def fold(self, number: int, fold: int, value: float) -> None: ...

    def ended(self, record: TrialRecord) -> None: ...

    def _point(self, number: int, params: dict[str, Any]) -> Point:
        return Point(number, params, fill(self._tree, params))


def _key(params: dict[str, Any]) -> str:
    return repr(sorted(params.items()))


def key_of(arm: Arm | None, seed: int) -> str:
    """By which `finished_arms` knows a training; None: the base trial."""
    return _key({"seed": seed} | (arm.changes if arm else {}))


def missing(plan: Plan, home: Home) -> int:
    """How many trainings an ablation still needs."""
    done = {_key(record.params) for record in read_trials(home, plan.study.name) if record.state in ENDED}
    return sum(_key(params) not in done for params in plan.params)


def train_arms(plan: Plan, home: Home, jobs: int, device: str, listener: Listener) -> Prepared:
    """Train what is missing. Returns the data, for the table.

    Raises RequestError where data or arms do not fit, HarnessError when too many trainings fail.
    """
    if jobs < 1:
        raise RequestError(f"--jobs {jobs}: write a number from 1 up.")
    study, base = plan.study, plan.base
    devices = parse_devices(device)
    run.check_backbones(study, home)
    with lock(home.work(study.name) / "driver.lock", f"study {study.name}", wait_seconds=1):
        data = prepare(study.spec.data, study.spec.seed, home, lambda *step: listener(Working(*step)))
        if (base.data_hash, base.folds_hash) != (data.dataset.data_hash, data.folds.folds_hash):
            raise RequestError(
                f"the data under {study.spec.data.root} have changed since study {base.name!r} ran: its trial "
                f"{plan.trial.number} could not be compared. Bring the old files back, or run the study --as NEWNAME."
            )
        left = missing(plan, home)
        if not left:
            return data
        listener(data_ready(data))
        run.check_same_weights(base, study)
        run.check_training_settings(study, data.dataset, combined=False)
        run.check_disk(study, home, run.check_networks(study, home, data), left)
        record = _begin(plan, read_study(home, study.name), devices[0])
        write_people(home, study.name, data.dataset)
        source = Listed(plan.params, plan.tree, read_trials(home, study.name))
        driver = Driver(study, home, data, record, source, listener)
        driver.run(choose_engine(study, home, data, jobs, devices, listener), devices, jobs)
    return data


def _begin(plan: Plan, past: StudyRecord | None, device: str) -> StudyRecord:
    """The ablation's record: what the study decided once (number formats, starts) holds for its arms, too."""
    study, known = plan.study, (past or plan.base).precision
    if not set(run.options(study, "backbone")) <= set(known):
        known = {**choose_precisions(study, device), **known}
    return replace(
        past or plan.base,
        name=study.name,
        state="running",
        tree=study.tree,
        spec_hash=spec_hash(study.tree),
        precision=known,
        ablates=plan.base.name,
        started=past.started if past else time.time(),
        spent=past.spent if past else 0.0,
        finished=None,
        corrected=None,
    )


def finished_arms(plan: Plan, home: Home) -> dict[str, TrialRecord]:
    """The ended trainings by what they changed. Raises HarnessError where one of the base trial is missing: there is
    nothing to compare with then."""
    found = {_key(record.params): record for record in read_trials(home, plan.study.name) if record.state in ENDED}
    for seed in plan.seeds[1:]:
        record = found.get(key_of(None, seed))
        if record is None or record.state != "complete":
            why = f"failed: {record.reason}" if record else "has not been trained"
            raise HarnessError(f"trial {plan.trial.number} with seed {seed} {why}; without it there is no comparison.")
    return found
