"""Differences, p-values and JSON's numbers as a report's tables tell them, beside harness.words. Pure text."""

import math
from collections.abc import Mapping
from typing import Any

from harness.types import Difference, Interval
from harness.words import COVERAGE_MARK, p_value


def signed(found: Interval | Difference) -> str:
    """+0.021 [-0.010, +0.052]"""
    if not math.isfinite(found.value):
        return "-"
    known = math.isfinite(found.lo) and math.isfinite(found.hi)
    mark = "" if found.coverage is None else COVERAGE_MARK
    return f"{found.value:+.3f}" + (f" [{found.lo:+.3f}, {found.hi:+.3f}]{mark}" if known else "")


def bare_p(p: float) -> str:
    """.41, < .001: for a column that is headed p"""
    return p_value(p).removeprefix("p ").removeprefix("= ")


def called(name: str) -> str:
    """A class that is a number is called one."""
    return f"class {name}" if name.isdigit() else name


def read_interval(found: Mapping[str, Any]) -> Interval:
    """From JSON, where null is what is not known."""
    value, lo, hi = (math.nan if (end := found.get(name)) is None else float(end) for name in ("value", "lo", "hi"))
    return Interval(value, lo, hi, found.get("coverage"), found.get("reason") or "")
