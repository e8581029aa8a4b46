"""How good ensembles are, beside what they must beat: every single member and the simple mean, on the same rows.

The scores of a row, and what they are worth:

    selection      on the development rows that the method was fitted on and its members were chosen on: too good
    cross_fitted   on the same rows, members chosen and method fitted without each fold, from predictions that exist.
                   The networks behind them are shared between the folds, so it can be wrong either way (nested.py)
    oof            on the same rows, by these very members. An estimate for single trials, and for methods that learn
                   nothing from out-of-fold predictions where no member was chosen
    nested_full    nested cross-validation with networks trained again (`--nested full`): an estimate, of these members
    test           on the held-out split that nothing was chosen on: the number to report

Only estimates have intervals; the others are a value with the reason for having none. Methods are compared on the test
split, or where it cannot judge (see `unusable`) by nested_full, or not at all: `judged_on` says which.

Knows arrays only. Intervals and paired differences come from harness.stats with one seed for all rows of the table, so
all are scored under the same resamples.
"""

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.metrics import METRICS
from harness.output.format import BELIEVABLE_P
from harness.stats.intervals import PREFIX, How, all_intervals, by_group
from harness.stats.paired import holm, paired_differences
from harness.track.mlflow_store import words_tags
from harness.types import Difference, Interval, Progress

Floats = NDArray[np.float64]
Scores = dict[str, Interval]
"""by metric"""


@dataclass(frozen=True)
class ScoreRow:
    name: str
    kind: str
    """single, mean, ensemble"""
    oof: Scores
    """pooled over the development rows, of these very members: each row by a fit without its fold"""
    test: Scores
    """on the held-out test split"""
    optimistic: bool = False
    """whether the members' epochs were picked on the rows of `oof`; the test split's scores are not touched by that"""
    selection: Scores | None = None
    """on the development rows that chose and fitted it; None for single members that nothing chose. Value only"""
    cross_fitted: Scores | None = None
    """as `oof`, with the members chosen without the row's fold too; None where that was not made. Value only"""
    nested_full: Scores | None = None
    """by networks trained again without each pair of folds; None where that was not asked for"""


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
    cross_fitted: Floats | None = None
    """(N, C)"""
    nested_full: Floats | None = None
    """(N, C)"""
    oof_reason: str = ""
    """why the score of `oof` is no estimate; '' where it is one"""


@dataclass(frozen=True)
class Rows:
    """What is true of the rows scored."""

    y: NDArray[np.int64]
    groups: NDArray[np.str_]
    per_group: How
    fold: NDArray[np.int64] | None = None
    """(n,) of development rows, whose predictions come from networks that share training rows; None: independent"""


@dataclass(frozen=True)
class Comparison:
    """How one ensemble compares, all in the search metric. The sign is a - b for every metric: for log_loss and brier,
    where lower is better, a negative difference is the good one."""

    judged_on: str
    """what vs_single and vs_mean are of: `test`, the held-out split; `nested_full`; `none`, where nothing can judge and
    the differences are NaN with the reason"""
    vs_single: Difference
    """minus the single member that is the best by its mean over folds"""
    vs_mean: Difference
    """minus the simple mean of the same members; 0 with p = 1 where the method is the mean"""
    holm_single: float
    """the p-value of vs_single, corrected over all comparisons of the table (Holm 1979)"""
    holm_mean: float
    """that of vs_mean, of the same family; the mean itself is no test"""
    family: int
    """how many comparisons the table has"""
    optimism: float
    """on the development rows: the selection score minus the cross-fitted one. Not an estimate of anything"""


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
    """what must be said of these scores, in sentences (score_table.py)"""
    diversity: dict[str, Any] = field(default_factory=dict)
    contributions: list[dict[str, Any]] = field(default_factory=list)
    """one per member"""
    cost: dict[str, float] = field(default_factory=dict)
    test_reads: int = 0
    """how many different ensembles the study's test split has been scored for, these included"""
    recommended: str = "mean"
    """the method that its table recommends (verdict.recommended)"""
    members_chosen_from: int = 0
    """how many trials could have been members; more than there are members where these were chosen"""

    @property
    def delta_vs_single(self) -> Difference:
        return self.comparison.vs_single

    @property
    def delta_vs_mean(self) -> Difference:
        return self.comparison.vs_mean


NO_ROWS: Scores = dict.fromkeys(METRICS, Interval(math.nan, math.nan, math.nan, reason="nothing-held-out"))
"""what a study without a test split has for test scores"""


SAME_ROWS, NETWORKS_SHARED, MEMBERS_CHOSEN, OUT_OF_BAG = "same-rows", "networks-shared", "members-chosen", "out-of-bag"
NOTHING_HELD_OUT, NOT_NESTED = "nothing-held-out", "not-nested"
"""reasons for having no interval, or no comparison"""
FEWEST_GROUPS = 3
"""of each class: with fewer, rows judge nothing"""


def unusable(rows: Rows) -> str:
    """Why these rows cannot judge: `nothing-held-out`, `one-class`, `too-few-groups` of a class; '' where they can."""
    if not len(rows.y):
        return NOTHING_HELD_OUT
    reasons = []
    for column in rows.y.reshape(len(rows.y), -1).T:
        known = column >= 0
        counts = [len(np.unique(rows.groups[column == value])) for value in np.unique(column[known])]
        reasons.append("one-class" if len(counts) < 2 else "too-few-groups" if min(counts) < FEWEST_GROUPS else "")
    return next((reason for reason in ("one-class", "too-few-groups") if reason in reasons), "")


class _Scorer:
    """Every metric of some rows' predictions; what has been scored before is not scored again."""

    def __init__(self, rows: Rows, seed: int) -> None:
        self._rows, self._seed = rows, seed
        self._unusable = unusable(rows)
        self._found: dict[tuple[bytes, str], Scores] = {}

    def __call__(self, p: Floats, reason: str = "") -> Scores:
        """With a reason: the values alone."""
        why = reason or self._unusable
        key = hashlib.blake2b(np.ascontiguousarray(p).tobytes()).digest(), why
        if key not in self._found:
            self._found[key] = self._score(p, why)
        return self._found[key]

    def _score(self, p: Floats, why: str) -> Scores:
        rows = self._rows
        if not len(rows.y):
            return dict(NO_ROWS)
        if why:
            return _values(rows, p, why)
        return all_intervals(rows.y, p, rows.groups, self._seed, rows.per_group, fold=rows.fold)


def _values(rows: Rows, p: Floats, why: str) -> Scores:
    """Every metric without an interval, per image and per group."""
    parts = {"": (rows.y, p)}
    if rows.per_group != "none" and len(np.unique(rows.groups)) < len(rows.groups):
        group_y, group_p, names = by_group(rows.y, p, rows.groups, rows.per_group)
        if len(names):
            parts[PREFIX] = group_y, group_p
    return {
        f"{prefix}{name}": Interval(float(metric.of(y, said, None)[0]), math.nan, math.nan, reason=why)
        for prefix, (y, said) in parts.items()
        for name, metric in METRICS.items()
    }


def score_table(
    candidates: Sequence[Predictions],
    development: Rows,
    test: Rows,
    seed: int,
    known: Sequence[Scores] = (),
    optimistic: bool = False,
    progress: Progress | None = None,
    chosen: bool = False,
) -> list[ScoreRow]:
    """One row per candidate. `known`: the out-of-fold scores of the first ones, where stage 1 has made them. `chosen`:
    whether members were chosen from more trials, so that a score given the members is none of the recipe."""
    on_development, on_test = _Scorer(development, seed), _Scorer(test, seed)
    rows = []
    for place, one in enumerate(candidates):
        given = known[place] if place < len(known) and set(METRICS) <= set(known[place]) else None
        rows.append(
            ScoreRow(
                name=one.name,
                kind=one.kind,
                oof=on_development(one.oof, one.oof_reason) if given is None else given,
                test=on_test(one.test),
                optimistic=optimistic,
                selection=None if one.selection is None else on_development(one.selection, SAME_ROWS),
                cross_fitted=None if one.cross_fitted is None else on_development(one.cross_fitted, NETWORKS_SHARED),
                nested_full=None
                if one.nested_full is None
                else on_development(one.nested_full, MEMBERS_CHOSEN if chosen else ""),
            )
        )
        if progress:
            progress("intervals", place + 1, len(candidates))
    return rows


def compare(
    metric: str,
    ensembles: Sequence[Predictions],
    mean: Predictions,
    single: Predictions,
    development: Rows,
    test: Rows,
    seed: int,
) -> list[Comparison]:
    """One comparison per ensemble: with the best single member and, but for the mean itself, with the mean. All
    p-values of the table are one family of Holm's. Judged on the test rows, or where these cannot judge by nested_full
    where that was made, or by nothing."""
    judged_on, why = judge(test, development, mean)
    count = len(ensembles)
    pairs = [(one, other) for other in (single, mean) for one in ensembles]
    if judged_on == "test":
        made = _differences(metric, [(one.test, other.test) for one, other in pairs], test, seed, why)
    elif judged_on == "nested_full":
        nested = [(one.nested_full, other.nested_full) for one, other in pairs]
        made = _differences(metric, nested, development, seed, NOT_NESTED)
    else:
        made = [Difference(math.nan, math.nan, math.nan, math.nan, reason=why)] * len(pairs)
    is_test = [one.name != mean.name or other is not mean for one, other in pairs]
    tested = np.array([found.p if test else math.nan for found, test in zip(made, is_test, strict=True)])
    corrected = holm(tested)
    of = METRICS[metric].of
    return [
        Comparison(
            judged_on,
            made[place],
            made[count + place],
            float(corrected[place]),
            float(corrected[count + place]),
            int(np.isfinite(tested).sum()),
            _optimism(of, one, development),
        )
        for place, one in enumerate(ensembles)
    ]


def judge(test: Rows, development: Rows, mean: Predictions) -> tuple[str, str]:
    """What a table is judged on, and where that is `none` the reason."""
    why = unusable(test)
    if not why:
        return "test", ""
    if mean.nested_full is not None and not unusable(development):
        return "nested_full", ""
    return "none", why


def _optimism(of: Callable[..., Floats], one: Predictions, rows: Rows) -> float:
    cross_fitted = one.oof if one.cross_fitted is None else one.cross_fitted
    if one.selection is None:
        return math.nan
    return float(of(rows.y, one.selection, None)[0] - of(rows.y, cross_fitted, None)[0])


def _differences(
    metric: str, pairs: Sequence[tuple[Floats | None, Floats | None]], rows: Rows, seed: int, why: str
) -> list[Difference]:
    """a - b for each pair; NaN, with the reason `why`, where one of them was not made."""
    made = [(a, b) for a, b in pairs if a is not None and b is not None]
    found = iter(paired_differences(metric, rows.y, made, rows.groups, seed, fold=rows.fold))
    nothing = Difference(math.nan, math.nan, math.nan, math.nan, reason=why)
    return [nothing if a is None or b is None else next(found) for a, b in pairs]


def as_json(value: Any) -> Any:
    """Plain JSON of score rows and differences; null where a number is not finite."""
    if is_dataclass(value) and not isinstance(value, type):
        return as_json(asdict(value))
    if isinstance(value, dict):
        return {str(key): as_json(child) for key, child in value.items()}
    if isinstance(value, list | tuple):
        return [as_json(child) for child in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def verdict_word(metric: str, delta: Difference, p_holm: float) -> str:
    """`better`, `worse` or `not distinguishable`, of a difference a - b after Holm; '' where there is no p-value."""
    if not (math.isfinite(p_holm) and math.isfinite(delta.value)):
        return ""
    if p_holm >= BELIEVABLE_P or delta.value == 0:
        return "not distinguishable"
    return "better" if (delta.value > 0) == METRICS[metric].higher_is_better else "worse"


def _delta_json(metric: str, delta: Difference, p_holm: float) -> dict[str, Any]:
    return {**asdict(delta), "p_holm": p_holm, "verdict": verdict_word(metric, delta, p_holm)}


def result_json(found: EnsembleResult) -> dict[str, Any]:
    """What `--json` and bundle.json say of an ensemble's scores. A difference comes with its p_holm and its verdict,
    made once, over the table of its build; whoever shows the bundle later reads them."""
    compared = found.comparison
    return {
        "scores": found.rows,
        "judged_on": compared.judged_on,
        "delta_vs_single": _delta_json(found.metric, compared.vs_single, compared.holm_single),
        "delta_vs_mean": _delta_json(found.metric, compared.vs_mean, compared.holm_mean),
        "comparisons": compared.family,
        "recommended": found.recommended,
        "members_chosen_from": found.members_chosen_from,
        "selection_minus_cross_fitted": {"value": compared.optimism, "reason": NETWORKS_SHARED},
        "notes": found.notes,
        "diversity": found.diversity,
        "contributions": found.contributions,
        "cost": found.cost,
        "test_reads": found.test_reads,
    }


def tracked_metrics(result: EnsembleResult) -> dict[str, float]:
    """The metrics of the ensemble's MLflow run, by name; what is not finite is left out. p-values are those after Holm
    alone: a table shows one p for one difference."""
    *singles, mean, ensemble = result.rows
    single = next((row for row in singles if row.selection), singles[0])
    parts = {"oof": ensemble.oof, "test": ensemble.test, "single/test": single.test, "mean/test": mean.test}
    parts |= {name: getattr(ensemble, name) or {} for name in ("selection", "cross_fitted", "nested_full")}
    parts |= {f"{name}/nested_full": row.nested_full or {} for name, row in (("single", single), ("mean", mean))}
    found: dict[str, float] = {f"cost/{name}": value for name, value in result.cost.items()}
    for prefix, scores in parts.items():
        for metric, interval in scores.items():
            found[f"{prefix}/{metric}"] = interval.value
            found[f"{prefix}/{metric}_lo"], found[f"{prefix}/{metric}_hi"] = interval.lo, interval.hi
    compared = result.comparison
    deltas = {
        f"delta/{compared.judged_on}": (compared.vs_single, compared.holm_single),
        f"delta_vs_mean/{compared.judged_on}": (compared.vs_mean, compared.holm_mean),
    }
    for prefix, (delta, corrected) in deltas.items():
        name = f"{prefix}/{result.metric}"
        found[name], found[f"{name}_p_holm"] = delta.value, corrected
        found[f"{name}_lo"], found[f"{name}_hi"] = delta.lo, delta.hi
    return {name: value for name, value in found.items() if math.isfinite(value)}


def scores_in_words(result: EnsembleResult) -> dict[str, str]:
    """The tags of the ensemble's MLflow run that its page shows first, and what judges and recommends."""
    metric, row, compared = result.metric, result.rows[-1], result.comparison
    tags: dict[str, str] = {"harness.judged_on": compared.judged_on, "harness.recommended": result.recommended}
    for name, scores in (("oof", row.oof), ("nested_full", row.nested_full), ("test", row.test)):
        if scores:
            tags |= words_tags(name, metric, scores[metric].value, scores[metric].lo, scores[metric].hi)
    pairs = {"vs_single": (compared.vs_single, compared.holm_single), "vs_mean": (compared.vs_mean, compared.holm_mean)}
    for name, (delta, p) in pairs.items():
        if math.isfinite(p):
            tags |= words_tags(name, metric, delta.value, delta.lo, delta.hi, p)
    word = verdict_word(metric, compared.vs_mean, compared.holm_mean)
    return tags | (
        {"harness.verdict": f"{word} than the mean" if word in ("better", "worse") else word} if word else {}
    )


def table_columns(rows: Sequence[ScoreRow], metric: str) -> dict[str, list[Any]]:
    """The table as equally long columns, for MLflow's page of a run; null where there is no number."""

    def values(part: str, end: str = "value") -> list[Any]:
        found = [getattr(row, part) for row in rows]
        return [as_json(getattr(scores[metric], end)) if scores else None for scores in found]

    return {
        "model": [row.name for row in rows],
        "kind": [row.kind for row in rows],
        **{f"{metric} {part}": values(part) for part in ("selection", "cross_fitted", "nested_full", "oof", "test")},
        **{f"{metric} test {end}": values("test", end) for end in ("lo", "hi")},
    }
