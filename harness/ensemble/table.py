"""The table of a build: single members, their simple mean and every method, scored and compared on the same rows.

Everything that is chosen here (the best single member) is chosen on development rows; of the test split there are
scores and differences, which nothing is chosen by.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.ensemble.contribution import contributions, means_without
from harness.ensemble.diversity import diversity, mean_over_pairs
from harness.ensemble.gather import Gathered
from harness.ensemble.members import best_first
from harness.ensemble.names import GIVEN
from harness.ensemble.nested import stitched
from harness.ensemble.oof import mean_oof, mean_predict, single_oof, single_predict
from harness.ensemble.pool import choose_without, only
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
)
from harness.ensemble.verdict import chosen_note, of_result, recommended, unjudged, verdict
from harness.types import Interval, Progress

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
