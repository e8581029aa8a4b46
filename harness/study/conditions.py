"""Ranges that stand only under a condition: `optim.momentum: {float: [0.5, 0.99], when: {optim.name: sgd}}`.

A condition looks at the value that stands in the trial's spec, drawn, constant or default. Where it does not hold, the
key has its default and is no parameter of that trial. Pure functions of plain data.
"""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from harness.errors import RequestError, nearest
from harness.study.space import Choice, Range, Space, Value, extremes


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
