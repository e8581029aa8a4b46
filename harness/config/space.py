"""Search ranges, their conditions (`when`) and trials that are given in advance.

Search ranges that stand in a study file where the value would stand.

    optim.lr: {float: [1.0e-5, 1.0e-2], log: true}
    train.batch_size: {int: [8, 64], step: 8}
    augment.rotate: {choice: [0.0, 15.0]}
    optim.momentum: {float: [0.5, 0.99], when: {optim.name: sgd}}

Pure functions of plain data: find the ranges, fill in values, flatten. Sampling itself lives in search/.

Ranges that stand only under a condition: `optim.momentum: {float: [0.5, 0.99], when: {optim.name: sgd}}`.

A condition looks at the value that stands in the trial's spec, drawn, constant or default. Where it does not hold, the
key has its default and is no parameter of that trial. Pure functions of plain data.

Known-good points that a study begins with: checked against its ranges before trial 0.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.errors import RequestError, nearest

Value = bool | int | float | str | None
When = tuple[tuple[str, tuple[Value, ...]], ...]
"""conditions that all must hold: a key, and the values one of which it must have"""


@dataclass(frozen=True)
class FloatRange:
    low: float
    high: float
    log: bool = False
    step: float | None = None
    when: When = ()


@dataclass(frozen=True)
class IntRange:
    low: int
    high: int
    log: bool = False
    step: int = 1
    when: When = ()


@dataclass(frozen=True)
class Choice:
    options: tuple[Value, ...]
    when: When = ()


Range = FloatRange | IntRange | Choice
Space = dict[str, Range]

KINDS = ("float", "int", "choice")
SEARCHABLE = ("model", "optim", "train", "augment")


def find_ranges(tree: dict[str, Any]) -> Space:
    """The ranges of a study tree by dotted name, in file order.

    Raises RequestError where a range is malformed or stands where nothing may be searched.
    """
    found: Space = {}
    _walk(tree, "", found)
    for name in found:
        if name.split(".")[0] not in SEARCHABLE:
            raise RequestError(
                f"{name}: a search range cannot stand here. Only {', '.join(SEARCHABLE)} keys can be searched; "
                f"write one value for {name}."
            )
    return found


def _walk(node: Any, name: str, found: Space) -> None:
    if not isinstance(node, dict):
        return
    if any(kind in node for kind in KINDS):
        found[name] = _parse(name, node)
        return
    for key, child in node.items():
        _walk(child, f"{name}.{key}" if name else str(key), found)


def _parse(name: str, node: dict[str, Any]) -> Range:
    kinds = [kind for kind in KINDS if kind in node]
    if len(kinds) > 1:
        raise RequestError(f"{name}: a range is one of float, int, choice, not {' and '.join(kinds)} together.")
    kind = kinds[0]
    allowed = {kind, "when"} | ({"log", "step"} if kind != "choice" else set())
    extra = sorted(set(node) - allowed)
    if extra:
        raise RequestError(f"{name}: {', '.join(extra)} is not part of a {kind} range; known are {sorted(allowed)}.")
    body = node[kind]
    when = _parse_when(name, node["when"]) if "when" in node else ()
    if kind == "choice":
        if not isinstance(body, list) or len(body) < 1:
            raise RequestError(f"{name}: choice needs a list, such as {{choice: [0, 15]}}, not {body!r}.")
        if any(isinstance(option, (dict, list)) for option in body):
            raise RequestError(f"{name}: the options of a choice are single values, not lists or blocks.")
        if len({repr(option) for option in body}) < len(body):
            raise RequestError(f"{name}: choice lists the same option twice: {body!r}.")
        return Choice(tuple(body), when)
    log, step = node.get("log", False), node.get("step")
    want = (int,) if kind == "int" else (int, float)
    if (
        not isinstance(body, list)
        or len(body) != 2
        or any(isinstance(end, bool) or not isinstance(end, want) or not math.isfinite(end) for end in body)
    ):
        raise RequestError(f"{name}: {kind} needs [low, high], such as {{{kind}: [1, 10]}}, not {body!r}.")
    low, high = body
    if not low < high:
        raise RequestError(f"{name}: the low end {low} must be below the high end {high}.")
    if not isinstance(log, bool):
        raise RequestError(f"{name}.log: write true or false, not {log!r}.")
    if log and low <= 0:
        raise RequestError(f"{name}: a log range needs a low end above 0, not {low}.")
    if step is not None and (log or isinstance(step, bool) or not isinstance(step, want) or step <= 0):
        raise RequestError(f"{name}.step: a number above 0, and not together with log.")
    if kind == "int":
        return IntRange(int(low), int(high), log, 1 if step is None else int(step), when)
    return FloatRange(float(low), float(high), log, None if step is None else float(step), when)


def _parse_when(name: str, node: Any) -> When:
    """{optim.name: sgd} or {optim.name: [sgd, nadam], model.backbone: resnet18}"""
    if not isinstance(node, dict) or not node:
        raise RequestError(f"{name}.when: write a key and its value, such as {{optim.name: sgd}}, not {node!r}.")
    found: list[tuple[str, tuple[Value, ...]]] = []
    for key, value in node.items():
        values = value if isinstance(value, list) else [value]
        if not values or any(isinstance(one, dict | list) for one in values):
            raise RequestError(f"{name}.when.{key}: write one value or a list of values, not {value!r}.")
        found.append((str(key), tuple(values)))
    return tuple(found)


def extremes(range_: Range) -> list[Value]:
    """The values at which a range is checked before trial 0: both ends, or every option."""
    if isinstance(range_, Choice):
        return list(range_.options)
    return [range_.low, range_.high]


def fill(tree: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    """A copy of the tree with `values` (by dotted name) in their places."""
    copy = {key: fill(child, {}) if isinstance(child, dict) else child for key, child in tree.items()}
    for name, value in values.items():
        *path, last = name.split(".")
        node = copy
        for key in path:
            if not isinstance(node.get(key), dict):
                node[key] = {}
            node = node[key]
        node[last] = value
    return copy


def flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """{'optim.lr': 0.001, ...}: leaves by dotted name; lists and tuples are leaves."""
    flat: dict[str, Any] = {}
    for key, child in tree.items():
        name = f"{prefix}.{key}" if prefix else str(key)
        if isinstance(child, dict):
            flat.update(flatten(child, name))
        else:
            flat[name] = child
    return flat


def ordered(space: Space, fixed: Mapping[str, Any], defaults: Mapping[str, Any]) -> Space:
    """The space with every range behind those that its conditions ask for, without the ranges that never stand.

    `fixed`: the constant keys of the study by dotted name. Raises RequestError for conditions on unknown keys, on
    ranges of numbers, on values that cannot come, and for circles.
    """
    placed: Space = {}
    names = list(space)

    def place(name: str, path: tuple[str, ...]) -> None:
        if name in path:
            raise RequestError(
                f"{' -> '.join((*path[path.index(name) :], name))}: each of these conditions waits for the other."
            )
        for key, _ in space[name].when:
            if key in space and key not in placed:
                place(key, (*path, name))
        if name not in placed:
            placed[name] = space[name]

    for name in names:
        place(name, ())
    for name, range_ in list(placed.items()):
        if not all(_can_hold(name, key, values, placed, space, fixed, defaults) for key, values in range_.when):
            del placed[name]
    return placed


def _can_hold(
    name: str,
    key: str,
    values: tuple[Value, ...],
    placed: Space,
    space: Space,
    fixed: Mapping[str, Any],
    defaults: Mapping[str, Any],
) -> bool:
    """Whether the key can ever have one of the values. Raises RequestError for a condition that is a mistake."""
    if key not in defaults and key not in fixed and key not in space:
        raise RequestError(f"{name}.when: {key}: no such key.{nearest(key, [*space, *defaults])}")
    if key not in space:
        return fixed.get(key, defaults.get(key)) in values
    range_ = space[key]
    if not isinstance(range_, Choice):
        raise RequestError(
            f"{name}.when: {key} is a range of numbers; a condition needs a choice or a constant. "
            f"Write {key}: {{choice: [...]}}."
        )
    for value in values:
        if value not in range_.options and not (range_.when and value == defaults.get(key)):
            near = nearest(str(value), map(str, range_.options))
            known = ", ".join(map(str, range_.options))
            raise RequestError(f"{name}.when: {key} is never {value!r}.{near} It is one of {known}.")
    return key in placed or defaults.get(key) in values


def stands(range_: Range, point: Mapping[str, Any], fixed: Mapping[str, Any], defaults: Mapping[str, Any]) -> bool:
    """Whether a range's conditions hold at a point that has a value for every earlier range that stands.

    What the point leaves out is a constant of the study or, for a range that does not stand, the key's default.
    """
    places = (point, fixed, defaults)
    return all(next((place[key] for place in places if key in place), None) in values for key, values in range_.when)


def probes(space: Space) -> list[dict[str, Any]]:
    """The points at which an ordered space is checked before trial 0: every range at the first of its values, then
    each range at each of its extremes, with the conditions made to hold. Values for all ranges, standing or not."""
    first = {name: extremes(range_)[0] for name, range_ in space.items()}
    points = [first]
    for name, range_ in space.items():
        needed = _needed(name, space)
        points += [{**first, **needed, name: value} for value in extremes(range_)]
    return points


def combinations(space: Space, keys: Sequence[str]) -> list[dict[str, Any]]:
    """The points at which keys that exclude each other are checked before trial 0: every combination of the extremes
    of those that are ranges, and of what their conditions look at. Values for all ranges, standing or not."""
    names: list[str] = []
    for key in keys:
        _add_with_conditions(key, space, names)
    first = {name: extremes(range_)[0] for name, range_ in space.items()}
    drawn = itertools.product(*(extremes(space[name]) for name in names))
    return [{**first, **dict(zip(names, values, strict=True))} for values in drawn]


def _add_with_conditions(key: str, space: Space, names: list[str]) -> None:
    if key in space and key not in names:
        names.append(key)
        for other, _ in space[key].when:
            _add_with_conditions(other, space, names)


def _needed(name: str, space: Space) -> dict[str, Any]:
    """Values under which a range stands: the first value of each of its conditions, and of theirs."""
    found: dict[str, Any] = {}
    for key, values in space[name].when:
        if key in space:
            range_ = space[key]
            options = range_.options if isinstance(range_, Choice) else ()
            found.update(_needed(key, space))
            found[key] = next((value for value in values if value in options), values[0])
    return found


def check_enqueued(
    points: Sequence[Mapping[str, Any]],
    space: Space,
    fixed: Mapping[str, Any],
    defaults: Mapping[str, Any],
    place: str,
) -> None:
    """Raises RequestError for a point with a key that is not searched, a value outside its range, or a condition
    that the point does not meet by itself."""
    for number, point in enumerate(points):
        here = f"{place}: search.enqueue, point {number}"
        for name, value in point.items():
            if name not in space:
                known = ", ".join(space)
                raise RequestError(f"{here}: {name} is not searched.{nearest(name, space)} Searched are {known}.")
            if not is_inside(space[name], value):
                raise RequestError(f"{here}: {name}: {value!r} is outside its range {_said(space[name])}.")
            for key, values in space[name].when:
                stands = point.get(key) if key in space else fixed.get(key, defaults.get(key))
                if stands not in values:
                    need = " or ".join(map(str, values))
                    way_out = f"write {key}: {values[0]} into the point too"
                    raise RequestError(f"{here}: {name} stands only where {key} is {need}: {way_out}.")


def is_inside(range_: Range, value: Any) -> bool:
    """Whether a range can give the value."""
    if isinstance(range_, Choice):
        return any(value == option and isinstance(value, bool) == isinstance(option, bool) for option in range_.options)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    if not isinstance(range_, FloatRange) and not isinstance(value, int):
        return False
    if not range_.low <= value <= range_.high:
        return False
    steps = (value - range_.low) / range_.step if range_.step else 0.0
    return abs(steps - round(steps)) < 1e-6


def _said(range_: Range) -> str:
    if isinstance(range_, Choice):
        return "[" + ", ".join(map(str, range_.options)) + "]"
    by = f" in steps of {range_.step:g}" if range_.step and range_.step != 1 else ""
    return f"[{range_.low:g}, {range_.high:g}]{by}"
