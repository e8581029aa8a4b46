"""Values as text: numbers, intervals, p-values, durations, bytes and parameters.

Numbers and settings in few words. Pure text: no rich, no streams, no stages.

Differences, p-values and JSON's numbers as a report's tables tell them, beside harness.output.format. Pure text.
"""

import math
import textwrap
from collections.abc import Iterable, Mapping
from typing import Any

from harness.types import Difference, Interval

BELIEVABLE_P = 0.05
"""below this, a difference is called one"""
OPTIMISTIC = (
    "* optimistic: each fold's epoch was picked on the very rows that it is scored on (train.select: scored_fold). "
    "Such a number is no estimate; set train.select to last or inner for one."
)


COVERAGE_MARK = "†"
COVERAGE_NOTE = "† simulated coverage of this 95% interval below .93 (docs/coverage)"


def coverage_note(rows: Iterable[Iterable[str]]) -> str:
    """The footnote that a table with these cells needs; '' where no interval has the mark."""
    return COVERAGE_NOTE if any(COVERAGE_MARK in cell for row in rows for cell in row) else ""


def number(value: float | None, digits: int = 3) -> str:
    """0.842; a dash where there is no number."""
    if value is None or not math.isfinite(value):
        return "-"
    return f"{value:.{digits}f}"


def interval(found: Interval | None, optimistic: bool = False) -> str:
    """0.842 [0.801, 0.880]; with a star where it is optimistic, with † where its coverage is known to be too low"""
    if found is None or not math.isfinite(found.value):
        return "-"
    star = "*" if optimistic else ""
    if not (math.isfinite(found.lo) and math.isfinite(found.hi)):
        return number(found.value) + star
    mark = "" if found.coverage is None else COVERAGE_MARK
    return f"{number(found.value)} [{number(found.lo)}, {number(found.hi)}]{star}{mark}"


def judged(on: str) -> str:
    """What an ensemble's differences are of, to stand behind a verb: see ensemble.scores.Comparison.judged_on."""
    return JUDGED[on]


JUDGED = {
    "test": "on the test split",
    "nested_full": "by nested cross-validation",
    "none": "on nothing that can judge",
}


def p_value(p: float) -> str:
    """p = .41, p < .001; the smallest that a few thousand permutations can show is not 0."""
    if not math.isfinite(p):
        return "p = -"
    if p < 0.001:
        return "p < .001"
    digits = 3 if p < 0.01 else 2
    text = f"{p:.{digits}f}"
    return f"p = {text.removeprefix('0')}"


def difference(found: Difference, higher_is_better: bool) -> str:
    """'+0.021 [-0.010, +0.052], p = .18: not distinguishable'; better and worse are said of what comes first."""
    if not math.isfinite(found.value):
        return "no comparison: the metric is not defined here"
    mark = "" if found.coverage is None else COVERAGE_MARK
    numbers = f"{found.value:+.3f} [{found.lo:+.3f}, {found.hi:+.3f}]{mark}, {p_value(found.p)}"
    if not math.isfinite(found.p) or found.p >= BELIEVABLE_P:
        return f"{numbers}: not distinguishable"
    return f"{numbers}: {'better' if (found.value > 0) == higher_is_better else 'worse'}"


def duration(seconds: float) -> str:
    """41 s, 2:10 min, 37 min, 3:05 h"""
    if not math.isfinite(seconds):
        return "-"
    if seconds < 99.5:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{seconds:.0f} s"
    if seconds < 599.5:
        return f"{round(seconds) // 60}:{round(seconds) % 60:02d} min"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60}:{minutes % 60:02d} h"


def span(low: float, high: float) -> str:
    """'40 to 90 s', '3 to 7 min', '50 s to 2 min', '2 to 5 h': a range that claims no more than it knows"""
    (first, unit), (second, last) = _rough(low), _rough(high)
    if (first, unit) == (second, last):
        return f"about {first} {unit}"
    return f"{first} to {second} {last}" if unit == last else f"{first} {unit} to {second} {last}"


def _rough(seconds: float) -> tuple[str, str]:
    """About two digits, and the unit."""
    for most, size, unit in ((90, 1, "s"), (5400, 60, "min"), (172800, 3600, "h")):
        if seconds < most:
            count = seconds / size
            return (f"{count:.1f}".removesuffix(".0") if count < 5 and unit == "h" else f"{max(count, 1):.0f}"), unit
    return f"{seconds / 86400:.1f}".removesuffix(".0"), "days"


def bytes_(count: float) -> str:
    """48 kB, 3.1 MB, 24 GB"""
    for size, unit in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB")):
        if count >= 0.9995 * size:
            value = count / size
            return f"{value:.1f} {unit}" if value < 9.95 else f"{value:,.0f} {unit}"
    return f"{count / 1e3:.0f} kB"


def ago(seconds: float) -> str:
    """12 s ago, 5 min ago, 3 h ago, 2 days ago"""
    for unit, size, most in (("s", 1, 100), ("min", 60, 100), ("h", 3600, 48)):
        if seconds < most * size:
            return f"{max(seconds, 0) / size:.0f} {unit} ago"
    return f"{seconds / 86400:.0f} days ago"


def plural(count: int, noun: str) -> str:
    """1 image, 2 images"""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def value(setting: Any) -> str:
    """A searched value, short: 0.00123 as 1.2e-03, 0.5 as 0.5."""
    if isinstance(setting, bool) or not isinstance(setting, float):
        return str(setting).lower() if isinstance(setting, bool) else str(setting)
    if setting == 0:
        return "0"
    if abs(setting) < 0.01 or abs(setting) >= 10000:
        return f"{setting:.1e}"
    return f"{setting:.3g}"


def switched_off(name: str, setting: Any) -> bool:
    """Whether this is an augmentation that is off."""
    return name.startswith("augment.") and (not setting or setting == "none")


def compact_params(params: Mapping[str, Any]) -> str:
    """'lr 1.2e-03  hflip 0.5  rotate 15': the last part of each name, what is switched off left out."""
    named = {name.rsplit(".", 1)[-1]: name for name in params}
    short = {full: last for last, full in named.items() if sum(n.rsplit(".", 1)[-1] == last for n in params) == 1}
    parts = []
    for name, setting in params.items():
        if switched_off(name, setting):
            continue
        parts.append(f"{short.get(name, name)} {value(setting)}")
    augments = {name: setting for name, setting in params.items() if name.startswith("augment.")}
    if augments and all(switched_off(name, setting) for name, setting in augments.items()):
        # Not "no augmentation": what the study does not vary may be on.
        parts.append(f"no {' '.join(short.get(name, name) for name in augments)}")
    return "  ".join(parts)


def wrapped(text: str, width: int, below: int = 0) -> str:
    """Lines broken between words where a window is too narrow; a word (a path, an address) never is. What is broken
    goes on as far in as its line begins, and at least `below` columns."""
    found = []
    for line in text.split("\n"):
        indent = " " * max(below, len(line) - len(line.lstrip()))
        found += textwrap.wrap(
            line, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
        ) or [""]
    return "\n".join(found)


NOT_CORRECTED = {
    "no-complete-trial": "no trial is complete",
    "too-few-groups": "there are too few groups in each fold to know how much chance does",
    "no-noise": "no trial has an error in any fold, so nothing says how much chance does",
    "predictions-gone": "predictions of a trial are gone",
    "start-study-gone": "the study that it started from is gone",
    "start-trial-gone": "the trial that it started from is gone",
    "start-predictions-gone": "predictions of the study that it started from are gone",
    "start-folds-differ": "the study that it started from divided the same rows into other folds",
}
"""why there is no corrected value, by the reason's code"""


def corrected(found: Mapping[str, Any]) -> str:
    """`corrected for that: 0.871 [0.812, 0.930]`, the mean over folds; or why there is no such value."""
    if found["value"] is None or found["value"] != found["value"]:
        reason = str(found.get("reason") or "no-noise")
        return f"no value corrected for that: {NOT_CORRECTED.get(reason, reason)}"
    return (
        f"mean over folds corrected for that: {number(found['value'])} [{number(found['lo'])}, {number(found['hi'])}]"
    )


def is_chain(found: Mapping[str, Any] | None) -> bool:
    """Of a corrected value: whether what the trial started from was chosen on the same rows, too."""
    return found is not None and (
        len(found.get("studies") or ()) > 1 or str(found.get("reason") or "").startswith("start-")
    )


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
