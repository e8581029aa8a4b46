"""Which settings of a trial an ablation asks about, and the arms that answer. Pure functions of plain data.

A factor is a key that can be off: an augmentation or a regulariser of NEUTRAL, which is left out where the trial has it
on; or a choice of the study's space, of which each option that the trial does not have is tried. A number without a
value for "off", such as optim.lr, is a factor only where values are given: `optim.lr=1e-4,1e-3`.
"""

from dataclasses import dataclass
from typing import Any, Literal

from harness.config.load import all_keys, key_defaults, parse_override
from harness.config.space import SEARCHABLE, Choice, Space, flatten
from harness.config.spec import Augment
from harness.errors import RequestError, nearest

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
