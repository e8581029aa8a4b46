"""How good an ensemble is, beside what it must beat: every single member and the simple mean, on the same rows.

Knows arrays only. Intervals and paired differences are group-bootstrap (harness.stats) with one seed for all rows of
the table, so all are scored under the same resamples.
"""

import math
from dataclasses import asdict, dataclass, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.metrics import METRICS
from harness.records import Difference, Interval
from harness.stats.compare import paired_difference
from harness.stats.grouped import How, all_intervals


@dataclass(frozen=True)
class ScoreRow:
    name: str
    kind: str
    """single, mean, ensemble"""
    oof: dict[str, Interval]
    """pooled over the development rows, by metric"""
    test: dict[str, Interval]
    """on the held-out test split, by metric"""
    optimistic: bool = False
    """whether the members' epochs were picked on the rows of `oof`; the test split's scores are not touched by that"""


@dataclass(frozen=True)
class EnsembleResult:
    study: str
    method: str
    bundle: Path
    members: list[int]
    """trial numbers"""
    rows: list[ScoreRow]
    delta_vs_single: Difference
    """the search metric on the test split: ensemble minus the best single member. The sign is a - b for every metric:
    for log_loss and brier, where lower is better, a negative difference is the good one"""
    delta_vs_mean: Difference
    """the same against the simple mean of the same members; 0 with p = 1 where the method is the mean"""
    metric: str


@dataclass(frozen=True)
class Predictions:
    """One row of the table before it is scored."""

    name: str
    kind: str
    oof: NDArray[np.float64]
    """(N, C)"""
    test: NDArray[np.float64]
    """(T, C)"""


@dataclass(frozen=True)
class Rows:
    """What is true of the rows scored."""

    y: NDArray[np.int64]
    groups: NDArray[np.str_]
    per_group: How


def score_row(
    found: Predictions,
    development: Rows,
    test: Rows,
    seed: int,
    known: dict[str, Interval] | None = None,
    optimistic: bool = False,
) -> ScoreRow:
    """`known`: the out-of-fold scores, where these very predictions have been scored before."""
    if known is None or not set(METRICS) <= set(known):
        known = all_intervals(development.y, found.oof, development.groups, seed, development.per_group)
    on_test = all_intervals(test.y, found.test, test.groups, seed, test.per_group)
    return ScoreRow(found.name, found.kind, known, on_test, optimistic)


def best_single(rows: list[ScoreRow], metric: str) -> int:
    """The position of the single member with the best out-of-fold metric (the first of equals): chosen without the
    test split."""
    sign = 1.0 if METRICS[metric].higher_is_better else -1.0
    singles = [i for i, row in enumerate(rows) if row.kind == "single"]
    return max(singles, key=lambda i: (sign * rows[i].oof[metric].value, -i))


def difference(metric: str, a: Predictions, b: Predictions, test: Rows, seed: int) -> Difference:
    """a - b of the metric on the test split, paired by group."""
    return paired_difference(metric, test.y, a.test, b.test, test.groups, seed)


def as_json(value: Any) -> Any:
    """Plain JSON of score rows and differences; null where a number is not finite."""
    if is_dataclass(value) and not isinstance(value, type):
        return as_json(asdict(value))
    if isinstance(value, dict):
        return {str(key): as_json(child) for key, child in value.items()}
    if isinstance(value, list | tuple):
        return [as_json(child) for child in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def tracked_metrics(result: EnsembleResult) -> dict[str, float]:
    """The metrics of the ensemble's MLflow run, by name; what is not finite is left out."""
    ensemble = next(row for row in result.rows if row.kind == "ensemble")
    mean = next(row for row in result.rows if row.kind == "mean")
    single = result.rows[best_single(result.rows, result.metric)]
    found: dict[str, float] = {}
    parts = {"oof": ensemble.oof, "test": ensemble.test, "single/test": single.test, "mean/test": mean.test}
    for prefix, scores in parts.items():
        for metric, interval in scores.items():
            found[f"{prefix}/{metric}"] = interval.value
            found[f"{prefix}/{metric}_lo"], found[f"{prefix}/{metric}_hi"] = interval.lo, interval.hi
    for prefix, delta in (("delta/test", result.delta_vs_single), ("delta_vs_mean/test", result.delta_vs_mean)):
        name = f"{prefix}/{result.metric}"
        found[name], found[f"{name}_p"] = delta.value, delta.p
        found[f"{name}_lo"], found[f"{name}_hi"] = delta.lo, delta.hi
    return {name: value for name, value in found.items() if math.isfinite(value)}
