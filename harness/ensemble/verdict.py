"""What must be said of ensembles' scores, in plain sentences: where choosing flattered, where the mean is better.

Knows scores, no arrays. Said is what the numbers show; whether a difference may be chance is said with it.
"""

import math
from collections.abc import Sequence

from harness.ensemble.scores import Comparison, EnsembleResult, ScoreRow
from harness.metrics import METRICS
from harness.records import Difference


def verdict(metric: str, row: ScoreRow, mean: ScoreRow, found: Comparison) -> list[str]:
    """At most one sentence for an ensemble's row: its selection score flatters (selection minus nested is beyond its
    interval), which with a nested score below the simple mean's is called over-fitting; or it is worse than the mean,
    nested or on the test split."""
    parts = []
    nested_worse = row.name != mean.name and _worse(metric, found.nested_vs_mean)
    nested = row.nested or row.oof
    if row.selection and _beyond(metric, found.flattery):
        parts.append(
            f"{'over-fits' if nested_worse else 'flatters itself'}: {metric} {row.selection[metric].value:.3f} on the "
            f"rows that chose it, {nested[metric].value:.3f} nested ({_signed(found.flattery)})"
        )
    worse = [f"nested ({_signed(found.nested_vs_mean)})"] if nested_worse else []
    if found.judged_on == "test" and row.name != mean.name and _worse(metric, found.vs_mean):
        worse.append(f"on the test split ({_signed(found.vs_mean)})")
    if worse:
        parts.append(f"is worse than the simple mean {' and '.join(worse)}")
    return [f"{row.name} {', and '.join(parts)}."] if parts else []


def verdict_together(metric: str, results: Sequence[EnsembleResult]) -> list[str]:
    """The same of several ensembles: one sentence for each thing there is to say."""
    compared = {result.method: result.comparison for result in results}
    flattered = {name: one.flattery for name, one in compared.items() if _beyond(metric, one.flattery)}
    others = {name: one for name, one in compared.items() if name != "mean"}
    nested = {name: one.nested_vs_mean for name, one in others.items() if _worse(metric, one.nested_vs_mean)}
    tested = {name: one.vs_mean for name, one in others.items() if one.judged_on == "test"}
    test = {name: delta for name, delta in tested.items() if _worse(metric, delta)}
    said = []
    if flattered:
        said.append(f"Selection flatters beyond chance (selection minus nested): {_listed(flattered)}.")
    if nested:
        both = [name for name in nested if name in flattered]
        said.append(
            f"Nested worse than the simple mean: {_weighed(nested)}."
            + (f" Over-fitted: {', '.join(both)}." if both else "")
        )
    if test:
        said.append(f"On the test split worse than the simple mean: {_weighed(test)}.")
    return said


def _listed(found: dict[str, Difference]) -> str:
    return "; ".join(f"{name} {_signed(delta)}" for name, delta in found.items())


def _weighed(found: dict[str, Difference]) -> str:
    """With numbers what is beyond chance; by name alone, behind it, what is not."""
    chance = [name for name, delta in found.items() if delta.lo <= 0 <= delta.hi]
    clear = _listed({name: delta for name, delta in found.items() if name not in chance})
    return "; ".join(part for part in (clear, chance and f"maybe by chance {', '.join(chance)}") if part)


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
