"""The table of a build: single members, their simple mean and every method, scored and compared on the same rows.

Everything that is chosen here (the best single member) is chosen on development rows; of the test split there are
scores and differences, which nothing is chosen by.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.ensemble.contribution import contributions, means_without
from harness.ensemble.diversity import diversity, mean_over_pairs
from harness.ensemble.gather import Gathered
from harness.ensemble.members import best_first
from harness.ensemble.nested import stitched
from harness.ensemble.oof import mean_oof, mean_predict, single_oof, single_predict
from harness.ensemble.pool import choose_without, only
from harness.ensemble.scores import EnsembleResult, Predictions, compare, score_table
from harness.ensemble.verdict import verdict
from harness.records import Interval, Progress

Floats = NDArray[np.float64]

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
) -> list[EnsembleResult]:
    """One result per ensemble, the rows of the members and of the mean being the same in all.

    folder: where bundles go; costs: by method; without: by method, where they were made, its out-of-fold predictions
    without each of the members; test_reads: see EnsembleResult.
    """
    metric = found.metric
    singles, best = _singles(found)
    mean = _mean(found)
    optimistic = any(member.trial.optimistic for member in found.members)
    # stage 1 has scored these very out-of-fold predictions of the single members
    known = [member.trial.oof for member in found.members]
    everything = [*singles, mean, *ensembles]
    rows = score_table(everything, found.development, found.test, seed, known, optimistic, report)
    beside, own = rows[: len(singles) + 1], rows[len(singles) + 1 :]
    comparisons = compare(metric, ensembles, mean, singles[best], found.development, found.test, seed)
    of_members = _contributions(found, mean.oof, means_without(_members(found)) if len(singles) > 1 else [], seed)
    different = _diversity(found)
    results = []
    for ensemble, row, compared in zip(ensembles, own, comparisons, strict=True):
        to_method = _contributions(found, ensemble.oof, without.get(ensemble.name, []), seed)
        results.append(
            EnsembleResult(
                study=found.studies[0].name,
                method=ensemble.name,
                bundle=folder / bundle_name(ensemble.name, found),
                members=found.labels,
                rows=[*beside, row],
                comparison=compared,
                metric=metric,
                notes=verdict(metric, row, beside[-1], compared) + _left_out(found),
                diversity=different,
                contributions=[
                    {"member": name, "to_mean": to_mean, "to_method": gives}
                    for name, to_mean, gives in zip(found.names, of_members, to_method, strict=True)
                ],
                cost=dict(costs.get(ensemble.name, {})),
                test_reads=test_reads,
            )
        )
    return results


def bundle_name(method: str, found: Gathered) -> str:
    """METHOD-top5; METHOD-top5-with-OTHER where members come from other studies too."""
    others = "".join(f"-with-{study.name}" for study in found.studies[1:])
    return f"{method}-top{found.top}{others}"


def _singles(found: Gathered) -> tuple[list[Predictions], int]:
    """The members, and which of them is best out of fold: that one's row says what taking the best is worth."""
    table, pool = found.table, found.pool
    members = [single_oof(table, m) for m in range(table.members)]
    best = best_first(found.members, found.metric)[0]
    choices = choose_without(pool, found.metric, 1, together=True)
    nested = stitched(choices, table.fold, {}, lambda one: single_oof(pool.table, one[0])) if choices else None
    return [
        Predictions(
            name=title,
            kind="single",
            oof=members[m],
            test=single_predict(found.test_logits, m, table.multilabel),
            selection=members[m] if m == best else None,
            nested=nested if m == best else None,
        )
        for m, title in enumerate(found.titles)
    ], best


def _mean(found: Gathered) -> Predictions:
    table, pool = found.table, found.pool
    oof = mean_oof(table)
    nested = None
    if found.choices is not None:
        nested = stitched(
            found.choices, table.fold, {pool.chosen: oof}, lambda chosen: mean_oof(only(pool.table, chosen))
        )
    return Predictions("mean", "mean", oof, mean_predict(found.test_logits, table.multilabel), oof, nested)


def _members(found: Gathered) -> Floats:
    """(N, M, C) out-of-fold probabilities."""
    return np.stack([single_oof(found.table, m) for m in range(found.table.members)], axis=1)


def _contributions(
    found: Gathered, whole: Floats, without: Sequence[Floats] | Floats, seed: int
) -> list[Interval | None]:
    """One per member; None where nothing was made without it."""
    if not len(without):
        return [None] * len(found.names)
    rows = found.development
    return list(contributions(found.metric, rows.y, whole, list(without), rows.groups, seed))


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
