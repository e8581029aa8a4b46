"""What must be said of an ensemble's scores, in one plain sentence: where choosing flattered, where the mean is better.

Knows scores, no arrays. Said is what the numbers show; whether a difference may be chance is said with it.
"""

import math

from harness.ensemble.scores import Comparison, ScoreRow
from harness.metrics import METRICS
from harness.records import Difference


def verdict(metric: str, row: ScoreRow, mean: ScoreRow, found: Comparison) -> list[str]:
    """At most one sentence for an ensemble's row: it over-fitted its choice (selection minus nested beyond its
    interval), or it is worse than the simple mean, nested or on the test split."""
    parts = []
    if row.selection and row.nested and _beyond(metric, found.flattery):
        parts.append(
            f"over-fits: {metric} {row.selection[metric].value:.3f} on the rows that chose it, "
            f"{row.nested[metric].value:.3f} nested ({_signed(found.flattery)})"
        )
    if row.name != mean.name:
        worse = []
        if row.nested and mean.nested and _worse(metric, found.nested_vs_mean):
            worse.append(f"nested ({_signed(found.nested_vs_mean)})")
        if _worse(metric, found.vs_mean):
            worse.append(f"on the test split ({_signed(found.vs_mean)})")
        if worse:
            parts.append(f"is worse than the simple mean {' and '.join(worse)}")
    return [f"{row.name} {', and '.join(parts)}."] if parts else []


def _beyond(metric: str, delta: Difference) -> bool:
    """Whether all of the interval is on the better side of 0."""
    return delta.lo > 0 if METRICS[metric].higher_is_better else delta.hi < 0


def _worse(metric: str, delta: Difference) -> bool:
    value = delta.value if METRICS[metric].higher_is_better else -delta.value
    return math.isfinite(value) and round(value, 3) < 0


def _signed(delta: Difference) -> str:
    if not (math.isfinite(delta.lo) and math.isfinite(delta.hi)):
        return f"{delta.value:+.3f}"
    maybe = ", maybe by chance" if delta.lo <= 0 <= delta.hi else ""
    return f"{delta.value:+.3f} [{delta.lo:+.3f}, {delta.hi:+.3f}]{maybe}"
