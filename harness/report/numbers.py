"""Numbers as a report's tables tell them. Pure text."""

import math

from harness.records import Difference, Interval


def number(value: float | None, digits: int = 3) -> str:
    return "-" if value is None or not math.isfinite(value) else f"{value:.{digits}f}"


def interval(found: Interval | Difference | None, digits: int = 3) -> str:
    """0.842 [0.801, 0.880]"""
    if found is None or not math.isfinite(found.value):
        return "-"
    ends = f" [{found.lo:.{digits}f}, {found.hi:.{digits}f}]"
    return number(found.value, digits) + (ends if math.isfinite(found.lo) and math.isfinite(found.hi) else "")


def signed(found: Interval | Difference) -> str:
    """+0.021 [-0.010, +0.052]"""
    if not math.isfinite(found.value):
        return "-"
    known = math.isfinite(found.lo) and math.isfinite(found.hi)
    return f"{found.value:+.3f}" + (f" [{found.lo:+.3f}, {found.hi:+.3f}]" if known else "")


def p_value(p: float | None) -> str:
    """.41, < .001"""
    if p is None or not math.isfinite(p):
        return "-"
    return "< .001" if p < 0.001 else f"{p:.{3 if p < 0.01 else 2}f}".removeprefix("0")


def counted(count: int, what: str) -> str:
    """1 image, 1,204 images"""
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def called(name: str) -> str:
    """A class that is a number is called one."""
    return f"class {name}" if name.isdigit() else name


def read_interval(found: dict[str, float | None] | None) -> Interval:
    """From JSON, where null is what is not known."""
    got = found or {}
    return Interval(*(math.nan if got.get(end) is None else float(got[end] or 0.0) for end in ("value", "lo", "hi")))
