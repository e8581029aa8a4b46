"""Search ranges that stand in a study file where the value would stand.

    optim.lr: {float: [1.0e-5, 1.0e-2], log: true}
    train.batch_size: {int: [8, 64], step: 8}
    augment.rotate: {choice: [0.0, 15.0]}
    optim.momentum: {float: [0.5, 0.99], when: {optim.name: sgd}}    (study.conditions)

Pure functions of plain data: find the ranges, fill in values, flatten. Sampling itself lives in search/.
"""

import math
from dataclasses import dataclass
from typing import Any

from harness.errors import RequestError

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
