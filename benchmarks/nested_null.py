"""Nested scores of ensembles on labels that are random, where .5 is true: which of them is an estimate?

    python -m benchmarks.nested_null [--json] [--save] [--studies N] [--patients 40 100 250]

Every study is simulated anew: patients with two or three images each, labels drawn by patient without regard to
anything, five members, each a weakly regularised logistic regression on more random features than there are images, so
that it memorises its training rows as a converged network does. The members are really trained: once per fold, and
once without each pair of folds. Then every method gets both scores of the product:

    cross_fitted   harness's costless score, by networks that are shared between the folds
    nested_full    what `harness ensemble build --nested full` computes (harness.ensemble.nested.nested_full)

of which the table has the mean AUROC over studies (the mean over folds within a study, and pooled), how often the 95%
interval of the AUROC holds .5, and how often the method is called better or worse than the mean of the members at
p < .05. `ratio` is 1 when for every method and number of patients nested_full is within .01 of .5 (beyond twice its
Monte-Carlo error) and false "better" is at most .07 (likewise), and falls below otherwise.
"""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks._report import arguments, publish
from harness.ensemble.methods import METHODS
from harness.ensemble.nested import (
    Fit,
    PairEmbed,
    PairTable,
    best,
    fit_best_single,
    nested_full,
    stitched,
    values_without,
)
from harness.ensemble.oof import Embed, OofTable, single_oof
from harness.metrics import METRICS, mean_over_folds
from harness.stats.intervals import intervals
from harness.stats.paired import paired_differences

K, MEMBERS = 5, 5
CHEAP = ("mean", "best single", "weighted", "greedy", "stacking", "stacking-boosted")
METHOD_SETS = {"cheap": CHEAP, "all": (*CHEAP, "bagging")}
SCORES = ("cross_fitted", "nested_full")
CLOSE, FALSE = 0.01, 0.07
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class NullStudy:
    """A simulated study: what the product has on disk after training, as arrays."""

    table: OofTable
    pairs: PairTable
    embed: Embed
    pair_embed: PairEmbed


def null_study(seed: int, patients: int, members: int = MEMBERS, k: int = K, ridge: float = 1e-2) -> NullStudy:
    """Two or three images a patient, labels by patient at random; each member has features of its own."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(2, 4, patients)
    patient = np.repeat(np.arange(patients), sizes)
    label = rng.permutation(np.arange(patients) % 2)
    y, n = label[patient].astype(np.int64), len(patient)
    groups = np.array([f"g{one:05d}" for one in patient])
    fold = _folds(label, k, rng)[patient]
    features = 2 * n
    logits = np.empty((n, members, 2), dtype=np.float32)
    pairs = np.full((n, k, members, 2), np.nan, dtype=np.float32)
    # what linear members share with networks: an embedding that the training rows are separable in
    embeddings: dict[tuple[int, int, int], NDArray[np.float32]] = {}
    for m in range(members):
        x = rng.normal(size=(patients, features))[patient] + rng.normal(size=(n, features))
        gram = x @ x.T / features
        for j in range(k):
            score = _trained(gram, y, fold != j, ridge)
            rows = fold == j
            logits[rows, m] = _two(score[rows])
            embeddings[m, j, j] = _embedding(score, m, j, j, seed)
            for other in range(j + 1, k):
                score = _trained(gram, y, (fold != j) & (fold != other), ridge)
                pairs[rows, other, m] = _two(score[rows])
                pairs[fold == other, j, m] = _two(score[fold == other])
                embeddings[m, j, other] = embeddings[m, other, j] = _embedding(score, m, j, other, seed)
    ids = tuple(tuple(f"m{m}-{j}" for j in range(k)) for m in range(members))
    names = tuple(
        tuple(tuple(f"m{m}-{min(j, o)}-{max(j, o)}" for o in range(k)) for j in range(k)) for m in range(members)
    )
    return NullStudy(
        OofTable(y, groups, fold, logits, ids),
        PairTable(y, groups, fold, pairs, names),
        lambda m, j: embeddings[m, j, j],
        lambda m, j, o: embeddings[m, j, o],
    )


def _folds(label: NDArray[np.int64], k: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """(patients,) folds, each class dealt out evenly."""
    fold = np.empty(len(label), dtype=np.int64)
    for value in (0, 1):
        own = rng.permutation(np.flatnonzero(label == value))
        fold[own] = (np.arange(len(own)) + value) % k
    return fold


def _trained(gram: Floats, y: NDArray[np.int64], rows: NDArray[np.bool_], ridge: float) -> Floats:
    """(n,) log-odds of all rows by an L2-regularised logistic regression on `rows`, by Newton's method in the dual:
    log-odds = K a + b with K the inner products of the features."""
    k, t = gram[np.ix_(rows, rows)], y[rows].astype(np.float64)
    alpha, bias = np.zeros(len(t)), 0.0
    for _ in range(12):
        eta = k @ alpha + bias
        p = 1 / (1 + np.exp(-eta))
        w = np.maximum(p * (1 - p), 1e-6)
        working = eta + (t - p) / w
        system = k + np.diag(ridge / w)
        solved = np.linalg.solve(system, np.column_stack([working, np.ones(len(t))]))
        new_bias = solved[:, 0].sum() / solved[:, 1].sum()
        new = solved[:, 0] - new_bias * solved[:, 1]
        moved = np.abs(new - alpha).max()
        alpha, bias = new, float(new_bias)
        if moved < 1e-6 * max(1.0, np.abs(alpha).max()):
            break
    return np.asarray(gram[:, rows] @ alpha + bias)


def _two(score: Floats) -> NDArray[np.float32]:
    return np.column_stack([np.zeros_like(score), score]).astype(np.float32)


def _embedding(score: Floats, m: int, j: int, other: int, seed: int, size: int = 6) -> NDArray[np.float32]:
    """(n, D) a penultimate layer: the member's log-odds among noise, turned by a rotation of its own."""
    rng = np.random.default_rng([seed, m, min(j, other), max(j, other)])
    turn, _ = np.linalg.qr(rng.normal(size=(size, size)))
    noise = rng.normal(size=(len(score), size - 1)) * max(float(score.std()), 1e-9)
    return np.asarray(np.column_stack([score, noise]) @ turn, dtype=np.float32)


def cross_fitted(method: str, study: NullStudy, metric: str = "auroc") -> Floats:
    """(N, C) the costless score's predictions: of the method by its own fit, or of the best single member."""
    if method == "best single":
        table = study.table
        p = [single_oof(table, m) for m in range(table.members)]
        values = values_without(metric, table.y, p, table.fold, table.k)
        choices = [best(metric, values[:, j], [""] * len(p), 1) for j in range(table.k)]
        return stitched(choices, table.fold, {}, lambda chosen: p[chosen[0]])
    one = METHODS[method]
    return one.fit(study.table, study.embed if one.needs_embeddings else None, 0, None).oof


def fully_nested(method: str, study: NullStudy, metric: str = "auroc") -> Floats:
    """(N, C) by the product's own function."""
    if method == "best single":
        return nested_full(fit_best_single(metric), study.pairs, None, 0)
    one = METHODS[method]
    fit: Fit = one.fit
    return nested_full(fit, study.pairs, study.pair_embed if one.needs_embeddings else None, 0)


MAKERS: dict[str, Callable[[str, NullStudy], Floats]] = {"cross_fitted": cross_fitted, "nested_full": fully_nested}


@dataclass(frozen=True)
class Measured:
    """Of one study: method x score."""

    auroc: Floats
    """mean over folds"""
    pooled: Floats
    covered: Floats
    """1 where the interval of the pooled AUROC holds .5, 0 where not, NaN where there is none"""
    better: Floats
    """1 where p < .05 and better than the mean"""
    worse: Floats


def measure(study: NullStudy, methods: Sequence[str], reps: int = 500) -> Measured:
    y, groups, fold = study.table.y, study.table.groups, study.table.fold
    shape = (len(methods), len(SCORES))
    auroc, pooled, covered, better, worse = (np.full(shape, np.nan) for _ in range(5))
    for s, score in enumerate(SCORES):
        made = [MAKERS[score](method, study) for method in methods]
        mean = made[methods.index("mean")]
        found = paired_differences("auroc", y, [(one, mean) for one in made], groups, 0, fold=fold)
        for m, one in enumerate(made):
            auroc[m, s] = mean_over_folds("auroc", y, one, fold)[0]
            pooled[m, s] = METRICS["auroc"].of(y, one, None)[0]
            ends = intervals(y, one, groups, 0, reps, fold=fold)["auroc"]
            covered[m, s] = np.nan if not np.isfinite(ends.lo) else float(ends.lo <= 0.5 <= ends.hi)
            p = found[m].p
            better[m, s] = float(np.isfinite(p) and p < 0.05 and found[m].value > 0)
            worse[m, s] = float(np.isfinite(p) and p < 0.05 and found[m].value < 0)
    return Measured(auroc, pooled, covered, better, worse)


def cells(patients: int, studies: int, methods: Sequence[str], first: int = 0) -> list[dict[str, object]]:
    """One row per method: what its two scores say over this many studies."""
    all_of = [measure(null_study(1000 * patients + first + s, patients), methods) for s in range(studies)]
    rows: list[dict[str, object]] = []
    for m, method in enumerate(methods):
        row: dict[str, object] = {"patients": patients, "method": method, "studies": studies}
        for s, score in enumerate(SCORES):
            values = np.array([one.auroc[m, s] for one in all_of])
            row[score] = {
                "auroc": round(float(values.mean()), 4),
                "mc_error": round(float(values.std(ddof=1) / np.sqrt(studies)), 4),
                "pooled_auroc": round(float(np.mean([one.pooled[m, s] for one in all_of])), 4),
                "coverage": round(float(np.nanmean([one.covered[m, s] for one in all_of])), 3),
                "called_better": None
                if method == "mean"
                else round(float(np.mean([o.better[m, s] for o in all_of])), 3),
                "called_worse": None if method == "mean" else round(float(np.mean([o.worse[m, s] for o in all_of])), 3),
            }
        rows.append(row)
    return rows


def _share(values: Sequence[float]) -> float:
    return round(float(np.mean(values)), 3)


def failures(rows: Sequence[dict[str, object]]) -> list[str]:
    """The cells of nested_full that miss the goal by more than twice the Monte-Carlo error."""
    found = []
    for row in rows:
        one = row["nested_full"]
        assert isinstance(one, dict)
        name = f"{row['method']}, {row['patients']} patients"
        if abs(one["auroc"] - 0.5) > CLOSE + 2 * one["mc_error"]:
            found.append(f"{name}: AUROC {one['auroc']}")
        error = np.sqrt(FALSE * (1 - FALSE) / float(str(row["studies"])))
        if one["called_better"] is not None and one["called_better"] > FALSE + 2 * error:
            found.append(f"{name}: called better in {one['called_better']}")
    return found


def as_text(rows: Sequence[dict[str, object]]) -> str:
    lines = [f"{'patients':>8}  {'method':17}{'':2}" + "".join(f"{score:^46}" for score in SCORES)]
    lines.append(f"{'':8}  {'':17}  " + f"{'AUROC +- error  pooled  covers  better  worse':^46}" * 2)
    for row in rows:
        text = f"{row['patients']:>8}  {row['method']!s:17}  "
        for score in SCORES:
            one = row[score]
            assert isinstance(one, dict)
            rates = ["    -" if one[key] is None else f"{one[key]:.3f}" for key in ("called_better", "called_worse")]
            text += f" {one['auroc']:.3f} +- {one['mc_error']:.3f}   {one['pooled_auroc']:.3f}   {one['coverage']:.3f}"
            text += f"   {rates[0]}   {rates[1]}  "
        lines.append(text)
    return "\n".join(lines)


def main() -> None:
    parser: argparse.ArgumentParser = arguments(__doc__ or "")
    parser.add_argument("--studies", type=int, default=200, help="simulated studies for each number of patients")
    parser.add_argument("--patients", type=int, nargs="+", default=[40, 100, 250])
    parser.add_argument("--methods", choices=sorted(METHOD_SETS), default="all")
    options = parser.parse_args()
    rows: list[dict[str, object]] = []
    for patients in options.patients:
        studies = options.studies if patients < 200 else max(20, options.studies // 4)
        rows += cells(patients, studies, METHOD_SETS[options.methods])
    missed = failures(rows)
    publish(
        "nested_null", 1.0 if not missed else 1.0 - len(missed) / (2 * len(rows)), 1.0, options, as_text(rows),
        unit="1 when nested_full is an estimate in every cell", cells=rows, missed=missed,
    )  # fmt: skip


if __name__ == "__main__":
    main()
