"""How good ensembles are, beside what they must beat: every single member and the simple mean, on the same rows.

Three scores say three things. `selection`: on the development rows that the method was fitted on and its members were
chosen on, which flatters. `nested`: on the same rows, each predicted by a recipe that never saw its fold. `test`: on
the held-out split that nothing was chosen on. The last is the number to report, the second the one to believe where the
test split is small or the study has none, and the first stands beside them to show how much choosing flattered.

Knows arrays only. Intervals and paired differences are group-bootstrap (harness.stats) with one seed for all rows of
the table, so all are scored under the same resamples.
"""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.metrics import METRICS
from harness.records import Difference, Interval, Progress
from harness.stats.compare import holm, paired_differences
from harness.stats.grouped import How, all_intervals
from harness.track.views import words_tags

Floats = NDArray[np.float64]
Scores = dict[str, Interval]
"""by metric"""


@dataclass(frozen=True)
class ScoreRow:
    name: str
    kind: str
    """single, mean, ensemble"""
    oof: Scores
    """pooled over the development rows, of these very members: each row by a fit that never saw its fold"""
    test: Scores
    """on the held-out test split"""
    optimistic: bool = False
    """whether the members' epochs were picked on the rows of `oof`; the test split's scores are not touched by that"""
    selection: Scores | None = None
    """on the development rows that chose and fitted it; None for single members that nothing chose"""
    nested: Scores | None = None
    """as `oof`, with the members chosen without the row's fold too; None where that was not made"""


@dataclass(frozen=True)
class Predictions:
    """One row of the table before it is scored."""

    name: str
    kind: str
    oof: Floats
    """(N, C)"""
    test: Floats
    """(T, C)"""
    selection: Floats | None = None
    """(N, C)"""
    nested: Floats | None = None
    """(N, C)"""

    @property
    def honest(self) -> Floats:
        """(N, C) nested, or where the choice of members was not repeated, by these members without the row's fold."""
        return self.oof if self.nested is None else self.nested


@dataclass(frozen=True)
class Rows:
    """What is true of the rows scored."""

    y: NDArray[np.int64]
    groups: NDArray[np.str_]
    per_group: How


@dataclass(frozen=True)
class Comparison:
    """How one ensemble compares, all in the search metric. The sign is a - b for every metric: for log_loss and brier,
    where lower is better, a negative difference is the good one."""

    judged_on: str
    """what vs_single and vs_mean are of: `test`, the held-out split; `nested`, the development rows, where a study
    holds nothing out"""
    vs_single: Difference
    """minus the single member that is best out of fold"""
    vs_mean: Difference
    """minus the simple mean of the same members; 0 with p = 1 where the method is the mean"""
    holm_single: float
    """the p-value of vs_single, corrected for the methods of the table (Holm 1979)"""
    holm_mean: float
    """that of vs_mean; the mean itself is no test"""
    flattery: Difference
    """on the development rows: the selection score minus the nested one"""
    nested_vs_mean: Difference
    """on the development rows: nested, minus the nested simple mean"""


@dataclass(frozen=True)
class EnsembleResult:
    study: str
    method: str
    bundle: Path
    members: list[int | str]
    """trial numbers; STUDY/trial-0007 where they come from several studies"""
    rows: list[ScoreRow]
    """the single members, the simple mean, this ensemble"""
    comparison: Comparison
    metric: str
    notes: list[str] = field(default_factory=list)
    """what must be said of these scores, in sentences (verdict.py)"""
    diversity: dict[str, Any] = field(default_factory=dict)
    contributions: list[dict[str, Any]] = field(default_factory=list)
    """one per member"""
    cost: dict[str, float] = field(default_factory=dict)
    test_reads: int = 0
    """how many different ensembles the study's test split has been scored for, these included"""

    @property
    def delta_vs_single(self) -> Difference:
        return self.comparison.vs_single

    @property
    def delta_vs_mean(self) -> Difference:
        return self.comparison.vs_mean


NO_ROWS: Scores = dict.fromkeys(METRICS, Interval(math.nan, math.nan, math.nan))
"""what a study without a test split has for test scores"""


class _Scorer:
    """Every metric of some rows' predictions; what has been scored before is not scored again."""

    def __init__(self, rows: Rows, seed: int) -> None:
        self._rows, self._seed = rows, seed
        self._found: dict[bytes, Scores] = {}

    def __call__(self, p: Floats) -> Scores:
        key = hashlib.blake2b(np.ascontiguousarray(p).tobytes()).digest()
        if key not in self._found:
            rows = self._rows
            self._found[key] = (
                all_intervals(rows.y, p, rows.groups, self._seed, rows.per_group) if len(rows.y) else dict(NO_ROWS)
            )
        return self._found[key]


def score_table(
    candidates: Sequence[Predictions],
    development: Rows,
    test: Rows,
    seed: int,
    known: Sequence[Scores] = (),
    optimistic: bool = False,
    progress: Progress | None = None,
) -> list[ScoreRow]:
    """One row per candidate. `known`: the out-of-fold scores of the first ones, where stage 1 has made them."""
    on_development, on_test = _Scorer(development, seed), _Scorer(test, seed)
    rows = []
    for place, one in enumerate(candidates):
        given = known[place] if place < len(known) and set(METRICS) <= set(known[place]) else None
        oof = on_development(one.oof) if given is None else given
        same = one.selection is one.oof
        rows.append(
            ScoreRow(
                name=one.name,
                kind=one.kind,
                oof=oof,
                test=on_test(one.test),
                optimistic=optimistic,
                selection=None if one.selection is None else oof if same else on_development(one.selection),
                nested=None if one.nested is None else on_development(one.nested),
            )
        )
        if progress:
            progress("intervals", place + 1, len(candidates))
    return rows


def best_single(scores: Sequence[Scores], metric: str) -> int:
    """The position of the single member with the best out-of-fold metric (the first of equals): chosen without the
    test split. Raises ValueError where none has one."""
    sign = 1.0 if METRICS[metric].higher_is_better else -1.0
    defined = [place for place, found in enumerate(scores) if math.isfinite(found[metric].value)]
    return max(defined, key=lambda place: (sign * scores[place][metric].value, -place))


def compare(
    metric: str,
    ensembles: Sequence[Predictions],
    mean: Predictions,
    single: Predictions,
    development: Rows,
    test: Rows,
    seed: int,
) -> list[Comparison]:
    """One comparison per ensemble, p-values corrected for their number. Holm's families: the methods against the best
    single member, and the methods but the mean itself against the mean. Without test rows all are compared on the
    development rows, each predicted by recipes that never saw its fold."""
    count, judged_on = len(ensembles), "test" if len(test.y) else "nested"
    pairs = [(one, other) for other in (single, mean) for one in ensembles]
    judged = (
        _differences(metric, [(one.test, other.test) for one, other in pairs], test, seed)
        if judged_on == "test"
        else _differences(metric, [(one.honest, other.honest) for one, other in pairs], development, seed)
    )
    on_development = _differences(
        metric,
        [(one.selection, one.honest) for one in ensembles] + [(one.honest, mean.honest) for one in ensembles],
        development,
        seed,
    )
    vs_single, vs_mean = judged[:count], judged[count:]
    holm_single = holm(np.array([found.p for found in vs_single]))
    tested = [found.p if one.name != mean.name else math.nan for one, found in zip(ensembles, vs_mean, strict=True)]
    holm_mean = holm(np.array(tested))
    return [
        Comparison(
            judged_on,
            vs_single[place],
            vs_mean[place],
            float(holm_single[place]),
            float(holm_mean[place]),
            on_development[place],
            on_development[count + place],
        )
        for place in range(count)
    ]


def _differences(metric: str, pairs: Sequence[tuple[Floats | None, Floats]], rows: Rows, seed: int) -> list[Difference]:
    """a - b for each pair; NaN where a was not made."""
    made = [(a, b) for a, b in pairs if a is not None]
    found = iter(paired_differences(metric, rows.y, made, rows.groups, seed))
    nothing = Difference(math.nan, math.nan, math.nan, math.nan)
    return [nothing if a is None else next(found) for a, _ in pairs]


def as_json(value: Any) -> Any:
    """Plain JSON of score rows and differences; null where a number is not finite."""
    if is_dataclass(value) and not isinstance(value, type):
        return as_json(asdict(value))
    if isinstance(value, dict):
        return {str(key): as_json(child) for key, child in value.items()}
    if isinstance(value, list | tuple):
        return [as_json(child) for child in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def result_json(found: EnsembleResult) -> dict[str, Any]:
    """What `--json` and bundle.json say of an ensemble's scores; the differences come with their p_holm."""
    compared = found.comparison
    return {
        "scores": found.rows,
        "judged_on": compared.judged_on,
        "delta_vs_single": {**asdict(compared.vs_single), "p_holm": compared.holm_single},
        "delta_vs_mean": {**asdict(compared.vs_mean), "p_holm": compared.holm_mean},
        "selection_minus_nested": asdict(compared.flattery),
        "nested_minus_mean": asdict(compared.nested_vs_mean),
        "notes": found.notes,
        "diversity": found.diversity,
        "contributions": found.contributions,
        "cost": found.cost,
        "test_reads": found.test_reads,
    }


def tracked_metrics(result: EnsembleResult) -> dict[str, float]:
    """The metrics of the ensemble's MLflow run, by name; what is not finite is left out."""
    *singles, mean, ensemble = result.rows
    single = singles[best_single([row.oof for row in singles], result.metric)]
    parts = {"oof": ensemble.oof, "test": ensemble.test, "single/test": single.test, "mean/test": mean.test}
    parts |= {"selection": ensemble.selection or {}, "nested": ensemble.nested or {}}
    found: dict[str, float] = {f"cost/{name}": value for name, value in result.cost.items()}
    for prefix, scores in parts.items():
        for metric, interval in scores.items():
            found[f"{prefix}/{metric}"] = interval.value
            found[f"{prefix}/{metric}_lo"], found[f"{prefix}/{metric}_hi"] = interval.lo, interval.hi
    compared = result.comparison
    deltas = {
        f"delta/{compared.judged_on}": (compared.vs_single, compared.holm_single),
        f"delta_vs_mean/{compared.judged_on}": (compared.vs_mean, compared.holm_mean),
        "selection_minus_nested": (compared.flattery, math.nan),
        "nested_minus_mean": (compared.nested_vs_mean, math.nan),
    }
    for prefix, (delta, corrected) in deltas.items():
        name = f"{prefix}/{result.metric}"
        found[name], found[f"{name}_p"], found[f"{name}_p_holm"] = delta.value, delta.p, corrected
        found[f"{name}_lo"], found[f"{name}_hi"] = delta.lo, delta.hi
    return {name: value for name, value in found.items() if math.isfinite(value)}


def scores_in_words(result: EnsembleResult) -> dict[str, str]:
    """The tags of the ensemble's MLflow run that its page shows first."""
    metric, row, compared = result.metric, result.rows[-1], result.comparison
    tags: dict[str, str] = {}
    for name, scores in (("oof", row.oof), ("test", row.test)):
        tags |= words_tags(name, metric, scores[metric].value, scores[metric].lo, scores[metric].hi)
    for name, delta in (("vs_single", compared.vs_single), ("vs_mean", compared.vs_mean)):
        tags |= words_tags(name, metric, delta.value, delta.lo, delta.hi, delta.p)
    return tags


def table_columns(rows: Sequence[ScoreRow], metric: str) -> dict[str, list[Any]]:
    """The table as equally long columns, for MLflow's page of a run; null where there is no number."""

    def values(part: str, end: str = "value") -> list[Any]:
        found = [getattr(row, part) for row in rows]
        return [as_json(getattr(scores[metric], end)) if scores else None for scores in found]

    return {
        "model": [row.name for row in rows],
        "kind": [row.kind for row in rows],
        **{f"{metric} {part}": values(part) for part in ("selection", "nested", "oof", "test")},
        **{f"{metric} test {end}": values("test", end) for end in ("lo", "hi")},
    }
