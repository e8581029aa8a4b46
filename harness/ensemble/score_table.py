"""The table of an ensemble's scores and the verdict on it.

The table of a build: single members, their simple mean and every method, scored and compared on the same rows.

Everything that is chosen here (the best single member) is chosen on development rows; of the test split there are
scores and differences, which nothing is chosen by.

What a table of ensembles comes to: the recommended method, and what must be said of single methods.

One place for the whole program: the command line, reports, MLflow and programs ask `recommended`, and print the
verdicts that scores.result_json has stored. Knows scores, no arrays.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.ensemble.diversity import contributions, diversity, mean_over_pairs, means_without
from harness.ensemble.inputs import Gathered, choose_without, only
from harness.ensemble.members import best_first
from harness.ensemble.names import GIVEN
from harness.ensemble.nested import stitched
from harness.ensemble.oof import mean_oof, mean_predict, single_oof, single_predict
from harness.ensemble.scores import (
    MEMBERS_CHOSEN,
    NETWORKS_SHARED,
    OUT_OF_BAG,
    Comparison,
    EnsembleResult,
    Predictions,
    ScoreRow,
    compare,
    score_table,
    unusable,
    verdict_word,
)
from harness.output.format import judged, p_value
from harness.types import Difference, Interval, Progress

Floats = NDArray[np.float64]

BEST_SINGLE, MEAN = "best single", "mean"
PAIRS = ("disagreement", "double_fault", "q", "error_correlation", "residual_correlation")


def score_ensembles(
    found: Gathered,
    ensembles: Sequence[Predictions],
    folder: Path,
    costs: Mapping[str, Mapping[str, float]],
    without: Mapping[str, Sequence[Floats]],
    test_reads: int,
    seed: int,
    report: Progress,
    nested: Mapping[str, Floats] | None = None,
) -> list[EnsembleResult]:
    """One result per ensemble, the rows of the members and of the mean being the same in all.

    folder: where bundles go; costs: by method; without: by method, where they were made, its out-of-fold predictions
    without each of the members; test_reads: see EnsembleResult; nested: where networks were trained again, the
    nested_full predictions (N, C) of the best single member and of the mean, by BEST_SINGLE and MEAN.
    """
    metric = found.metric
    singles, best = _singles(found, (nested or {}).get(BEST_SINGLE))
    mean = _mean(found, (nested or {}).get(MEAN))
    pool = len(found.pool.members) + len(found.pool.left_out)
    optimistic = any(member.trial.optimistic for member in found.members)
    # stage 1 has scored these very out-of-fold predictions of the single members
    known = [member.trial.oof for member in found.members]
    everything = [*singles, mean, *ensembles]
    rows = score_table(
        everything, found.development, found.test, seed, known, optimistic, report, chosen_members(found)
    )
    beside, own = rows[: len(singles) + 1], rows[len(singles) + 1 :]
    comparisons = compare(metric, ensembles, mean, singles[best], found.development, found.test, seed)
    of_members = _contributions(found, mean.oof, means_without(_members(found)) if len(singles) > 1 else [], seed)
    different = _diversity(found)
    results = []
    for ensemble, row, compared in zip(ensembles, own, comparisons, strict=True):
        why = oof_reason(ensemble.name, found)
        to_method = _contributions(
            found, ensemble.oof, without.get(ensemble.name, []), seed, "" if why == MEMBERS_CHOSEN else why
        )
        results.append(
            EnsembleResult(
                study=found.studies[0].name,
                method=ensemble.name,
                bundle=folder / bundle_name(ensemble.name, found),
                members=found.labels,
                rows=[*beside, row],
                comparison=compared,
                metric=metric,
                notes=_notes(found, row, beside[-1], compared) + _left_out(found),
                diversity=different,
                contributions=[
                    {"member": name, "to_mean": to_mean, "to_method": gives}
                    for name, to_mean, gives in zip(found.names, of_members, to_method, strict=True)
                ],
                cost=dict(costs.get(ensemble.name, {})),
                test_reads=test_reads,
                members_chosen_from=pool,
            )
        )
    best_method = recommended([of_result(result) for result in results])
    return [replace(result, recommended=best_method) for result in results]


def chosen_members(found: Gathered) -> bool:
    """Whether the members are some of several trials."""
    return len(found.members) < len(found.pool.members) + len(found.pool.left_out)


def oof_reason(method: str, found: Gathered) -> str:
    """Why a method's pooled out-of-fold score is no estimate; '' where it is one."""
    if method == "bagging":
        return OUT_OF_BAG
    if method not in GIVEN and method != "bagging-retrained":
        return NETWORKS_SHARED
    candidates = len(found.pool.members) + len(found.pool.left_out)
    chosen = candidates > 1 if method == "bagging-retrained" else chosen_members(found)
    return MEMBERS_CHOSEN if chosen else ""


def _notes(found: Gathered, row: ScoreRow, mean: ScoreRow, compared: Comparison) -> list[str]:
    said = verdict(found.metric, row, mean, compared)
    if compared.judged_on == "none":
        said.append(unjudged(unusable(found.test)))
    if row.nested_full and chosen_members(found):
        said.append(chosen_note(len(found.members), len(found.pool.members) + len(found.pool.left_out)))
    return said


def bundle_name(method: str, found: Gathered) -> str:
    """METHOD-top5; METHOD-top5-with-OTHER where members come from other studies too."""
    others = "".join(f"-with-{study.name}" for study in found.studies[1:])
    return f"{method}-top{found.top}{others}"


def _singles(found: Gathered, nested_full: Floats | None) -> tuple[list[Predictions], int]:
    """The members, and which is the best by its mean over folds: that one's row says what taking the best is worth."""
    table, pool = found.table, found.pool
    members = [single_oof(table, m) for m in range(table.members)]
    best = best_first(found.members, found.metric)[0]
    choices = choose_without(pool, found.metric, 1, together=True)
    cross_fitted = stitched(choices, table.fold, {}, lambda one: single_oof(pool.table, one[0])) if choices else None
    return [
        Predictions(
            name=title,
            kind="single",
            oof=members[m],
            test=single_predict(found.test_logits, m, table.multilabel),
            selection=members[m] if m == best else None,
            cross_fitted=cross_fitted if m == best else None,
            nested_full=nested_full if m == best else None,
        )
        for m, title in enumerate(found.titles)
    ], best


def _mean(found: Gathered, nested_full: Floats | None) -> Predictions:
    table, pool = found.table, found.pool
    oof = mean_oof(table)
    cross_fitted = None
    if found.choices is not None:
        cross_fitted = stitched(
            found.choices, table.fold, {pool.chosen: oof}, lambda chosen: mean_oof(only(pool.table, chosen))
        )
    return Predictions(
        "mean",
        "mean",
        oof,
        mean_predict(found.test_logits, table.multilabel),
        oof,
        cross_fitted,
        nested_full,
        oof_reason("mean", found),
    )


def _members(found: Gathered) -> Floats:
    """(N, M, C) out-of-fold probabilities."""
    return np.stack([single_oof(found.table, m) for m in range(found.table.members)], axis=1)


def _contributions(
    found: Gathered, whole: Floats, without: Sequence[Floats] | Floats, seed: int, reason: str = ""
) -> list[Interval | None]:
    """One per member; None where nothing was made without it. reason: why there are no intervals."""
    if not len(without):
        return [None] * len(found.names)
    rows = found.development
    fold = found.table.fold
    return list(contributions(found.metric, rows.y, whole, list(without), rows.groups, seed, fold, reason))


def _diversity(found: Gathered) -> dict[str, Any]:
    """Means over pairs of members, and the pairs themselves in the order of the members."""
    made = asdict(diversity(found.table.y, _members(found)))
    means = {name: mean_over_pairs(made[name]) for name in PAIRS}
    pairs = {name: np.round(made[name], 4).tolist() for name in ("disagreement", "error_correlation")}
    return {**means, "members_brier": made["members_brier"], "ambiguity": made["ambiguity"], "pairs": pairs}


def _left_out(found: Gathered) -> list[str]:
    left_out = found.pool.left_out
    if not left_out:
        return []
    return [
        f"{len(left_out)} complete trials that are no members were left out when members were chosen again without "
        f"each fold, because their files do not fit: {', '.join(left_out)}."
    ]


PLAIN = "mean"
"""the method that another has to beat"""
RANDOM_LABELS = (0.51, 0.62)
"""the lowest and highest mean cross-fitted AUROC of methods that learn from out-of-fold predictions, on random labels
of 40 to 250 patients where .5 is true (benchmarks/nested_null.py)"""
OPTIMISM = (
    "cross-fitted, networks shared: no estimate. On random labels, where an AUROC of .5 is true, members that memorise "
    f"make it {RANDOM_LABELS[0]:.2f} to {RANDOM_LABELS[1]:.2f}, that of bagging far lower (benchmarks/nested_null.py)."
).replace("0.", ".")


@dataclass(frozen=True)
class Judged:
    """One method of a table, as far as recommending goes."""

    method: str
    metric: str
    judged_on: str
    delta: float
    """minus the mean of the same members"""
    p_holm: float


def of_result(found: EnsembleResult) -> Judged:
    compared = found.comparison
    return Judged(found.method, found.metric, compared.judged_on, compared.vs_mean.value, compared.holm_mean)


def of_document(about: Mapping[str, Any]) -> Judged:
    """From bundle.json or the JSON of `ensemble show`."""
    delta = about["delta_vs_mean"]
    value, p = (math.nan if delta.get(key) is None else float(delta[key]) for key in ("value", "p_holm"))
    return Judged(str(about["method"]), str(about["metric"]), str(about["judged_on"]), value, p)


def recommended(table: Iterable[Judged]) -> str:
    """The method to use: the mean, unless another is better than it on the test split or by --nested full, beyond
    chance after Holm over all comparisons of its table; of several such the one that is better by most."""
    better = []
    for one in table:
        delta = Difference(one.delta, math.nan, math.nan, one.p_holm)
        if one.judged_on in ("test", "nested_full") and verdict_word(one.metric, delta, one.p_holm) == "better":
            better.append((abs(one.delta), one.method))
    return max(better, key=lambda found: found[0])[1] if better else PLAIN


def why_recommended(table: Sequence[Judged], best: str) -> str:
    """In few words, to stand behind the name; `best`: what was recommended where these stood, maybe among others."""
    others = [one for one in table if one.method != PLAIN]
    if best != PLAIN:
        one = next((one for one in table if one.method == best), None)
        how = "" if one is None else f" ({_number(one.delta)}, {p_value(one.p_holm)} after Holm)"
        return f"better than the mean beyond chance{how}"
    if not others:
        return "the default; compare others by: harness ensemble build --method all"
    if all(one.judged_on == "none" for one in table):
        return "nothing held out judges the methods"
    return "no other method is better than it beyond chance"


def verdict(metric: str, row: ScoreRow, mean: ScoreRow, found: Comparison) -> list[str]:
    """At most one sentence for an ensemble's row: that it is worse than the mean beyond chance."""
    if row.name == mean.name or verdict_word(metric, found.vs_mean, found.holm_mean) != "worse":
        return []
    said = f"({_signed(found.vs_mean)}, {p_value(found.holm_mean)})"
    return [f"{row.name} is worse than the simple mean {judged(found.judged_on)} {said}."]


def verdict_together(metric: str, results: Sequence[EnsembleResult]) -> list[str]:
    """The same of several ensembles in one sentence."""
    worse = {
        result.method: result.comparison
        for result in results
        if result.method != PLAIN
        and verdict_word(metric, result.comparison.vs_mean, result.comparison.holm_mean) == "worse"
    }
    if not worse:
        return []
    on = judged(next(iter(worse.values())).judged_on)
    listed = "; ".join(f"{name} {_signed(one.vs_mean)}, {p_value(one.holm_mean)}" for name, one in worse.items())
    return [f"Worse than the simple mean {on}, beyond chance: {listed}."]


def unjudged(reason: str) -> str:
    """Why a table compares nothing, and what to do."""
    why = {
        "nothing-held-out": "The study holds nothing out (data.test_fraction: 0)",
        "one-class": "The test split holds one class only",
        "too-few-groups": "The test split has fewer than 3 groups of a class",
    }.get(reason, "No test split can judge")
    return (
        f"{why}, so no method is compared with another. For honest scores train the members again without each pair of "
        "folds: harness ensemble build --nested full"
    )


def chosen_note(members: int, candidates: int) -> str:
    """Where nested_full is a score of these members, and not of choosing them."""
    return (
        f"The {members} members were chosen from {candidates} trials on all development rows; nested full does not "
        "repeat that choice, so its scores have no interval, while differences between methods on these members do. "
        f"For a score that counts the choice: a held-out test split, or --top {candidates}."
    )


def _number(value: float) -> str:
    return f"{value:+.3f}"


def _signed(delta: Difference) -> str:
    if not (math.isfinite(delta.lo) and math.isfinite(delta.hi)):
        return _number(delta.value)
    return f"{delta.value:+.3f} [{delta.lo:+.3f}, {delta.hi:+.3f}]"
