"""JSON from somebody else: bounded, and nothing in it that two readers could understand differently."""

import json
import math
import re
from typing import Any, NoReturn

UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""what steers a terminal or turns the direction of writing, and halves of characters"""


def read(data: bytes, largest: int) -> Any:
    """Raises ValueError for more than `largest` bytes, what is no UTF-8 JSON, keys that come twice, NaN and infinite
    numbers, nesting that Python cannot follow, and text that would steer a terminal."""
    if len(data) > largest:
        raise ValueError(f"{len(data):,} bytes, more than {largest:,}")
    try:
        found = json.loads(
            data.decode("utf-8"), object_pairs_hook=_object, parse_constant=_not_finite, parse_float=_finite
        )
        _check_text(found)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    return found


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"the key {twice[:80]!r} comes twice")
    return found


def _not_finite(text: str) -> NoReturn:
    raise ValueError(f"{text} is no number of JSON")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text[:40]} is too large for a number")
    return number


def _check_text(node: Any) -> None:
    if isinstance(node, str) and UNSAFE.search(node):
        raise ValueError(f"{node[:80]!r} holds characters that steer a terminal")
    if isinstance(node, dict):
        for key, child in node.items():
            _check_text(key)
            _check_text(child)
    elif isinstance(node, list):
        for child in node:
            _check_text(child)
