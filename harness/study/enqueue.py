"""Known-good points that a study begins with: checked against its ranges before trial 0."""

from collections.abc import Mapping, Sequence
from typing import Any

from harness.errors import RequestError, nearest
from harness.study.space import Choice, FloatRange, Range, Space


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
