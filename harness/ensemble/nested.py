"""Nested scores: what a recipe is worth when everything that it chooses and fits is chosen and fitted without the fold
that is scored.

Two scores of this kind exist, and only the second is an estimate:

    cross_fitted   members chosen and method fitted without the fold, from predictions that exist already. The networks
                   behind the other folds' predictions have trained on the scored fold (they are shared), so this score
                   can be too high or, with heads on embeddings, too low: on random labels .38 to .58 where .5 is true
                   (benchmarks/nested_null.py). It has no interval and judges nothing.
    nested_full    the networks trained again without each pair of folds: everything that the fit for fold k reads comes
                   from networks that never saw fold k. This is nested cross-validation of the whole second stage, given
                   the members.

A network without folds {j, k} predicts fold j's rows for the fit that leaves out k, and fold k's rows for the fit that
leaves out j, so K (K - 1) / 2 trainings of each member serve all.

Sources: Stone 1974 (cross-validatory choice and assessment); Varma and Simon 2006 (bias of choosing and scoring on the
same rows). Knows arrays only. P: the trials that could have been members; N: rows; M: members; K: folds; C: classes.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from harness.ensemble.oof import Embed, Fitted, Model, OofTable, check_probabilities, single_oof, single_predict
from harness.errors import HarnessError, RequestError
from harness.metrics import METRICS, mean_over_folds
from harness.types import Progress, silent

Floats = NDArray[np.float64]
Chosen = tuple[int, ...]
"""places in the pool, ascending"""
Fit = Callable[[OofTable, Embed | None, int, Progress | None], Fitted]
"""fit(table, embed, seed, progress): Method.fit, or what fits like it"""
Apply = Callable[[Model, NDArray[np.float32], Embed | None], Floats]
"""apply(model, logits (M, K', n, C), embed) -> (..., n, C) probabilities"""
PairEmbed = Callable[[int, int, int], NDArray[np.float32]]
"""embed(m, j, k) -> (N, D) embeddings of the development rows by member m's network without folds j and k; j and k may
change places"""


@dataclass(frozen=True)
class PairTable:
    """The development rows as networks see them that were trained without two folds. Letters as above."""

    y: NDArray[np.int64]
    """(N,) class index; in a multi-label task (N, C)"""
    groups: NDArray[np.str_]
    """(N,)"""
    fold: NDArray[np.int64]
    """(N,) 0..K-1"""
    logits: NDArray[np.float32]
    """(N, K, M, C): logits[n, j, m] are those of row n by member m's network without the folds fold[n] and j; NaN where
    j is the row's own fold"""
    names: tuple[tuple[tuple[str, ...], ...], ...]
    """M x K x K names of the networks, which are those of their embedding spaces; names[m][j][k] == names[m][k][j]"""

    @property
    def k(self) -> int:
        return int(self.logits.shape[1])

    @property
    def multilabel(self) -> bool:
        return self.y.ndim == 2

    def deployed(self) -> NDArray[np.float32]:
        """(N, K-1, M, C) what the K - 1 networks of each member say of each row that none of them saw: development
        rows predicted as new ones are, with one network less."""
        n = len(self.y)
        others = np.array([[j for j in range(self.k) if j != own] for own in range(self.k)])[self.fold]
        return np.asarray(self.logits[np.arange(n)[:, None], others])


def nested_full(
    fit: Fit,
    pairs: PairTable,
    embed: PairEmbed | None,
    seed: int,
    progress: Progress | None = None,
    what: str = "",
    apply: Apply = lambda model, logits, embed: model.predict(logits, embed),
) -> Floats:
    """(N, C) probabilities of each fold's rows by the method fitted on the other folds, from networks of which none has
    seen the scored fold, and applied to the K - 1 networks of each member as it is to new rows.

    apply: what is asked of the fitted model instead of its probabilities (n, C): arrays (..., n, C), such as those of
    each fold index by itself; then the result is (..., N, C).

    Raises RequestError for fewer than three folds, HarnessError where a prediction is missing.
    """
    if pairs.k < 3:
        raise RequestError(too_few_folds(pairs.k))
    report = progress or silent
    classes = pairs.logits.shape[3]
    found = np.full((len(pairs.y), classes), np.nan)
    shape: tuple[int, ...] = ()
    deployed = pairs.deployed()
    for k in range(pairs.k):
        here = pairs.fold == k
        rest = [j for j in range(pairs.k) if j != k]
        fitted = fit(without_fold(pairs, k), _embed_of(embed, rest, k, ~here), seed, None)
        logits = np.moveaxis(deployed[here], 0, 2).swapaxes(0, 1)  # (M, K - 1, n, C)
        said = apply(fitted.model, logits, _embed_of(embed, rest, k, here))
        if said.shape[:-2] != shape:
            shape = said.shape[:-2]
            found = np.full((*shape, len(pairs.y), classes), np.nan)
        found[..., here, :] = said
        report(what or "nested score, networks trained again", k + 1, pairs.k)
    check_probabilities(found.reshape(-1, classes), f"{what or 'the method'}, nested", pairs.multilabel)
    return found


def too_few_folds(k: int) -> str:
    return (
        f"--nested full needs at least three folds, and the study has {k}: without a pair of folds no row is left to "
        "train on. Judge by a held-out test split (data.test_fraction), or run the study with data.folds: 5."
    )


def without_fold(pairs: PairTable, k: int) -> OofTable:
    """The rows outside fold k as an ordinary out-of-fold table of K - 1 folds, all of whose networks lack fold k."""
    rows = pairs.fold != k
    rest = [j for j in range(pairs.k) if j != k]
    return OofTable(
        y=pairs.y[rows],
        groups=pairs.groups[rows],
        fold=np.searchsorted(rest, pairs.fold[rows]),
        logits=pairs.logits[rows, k],
        encoder_ids=tuple(tuple(names[j][k] for j in rest) for names in pairs.names),
    )


def _embed_of(embed: PairEmbed | None, rest: Sequence[int], k: int, rows: NDArray[np.bool_]) -> Embed | None:
    return None if embed is None else lambda m, j: embed(m, rest[j], k)[rows]


@dataclass(frozen=True)
class _Single:
    """One member as a fitted method."""

    member: int
    multilabel: bool

    def predict(self, logits: NDArray[np.float32], embed: Embed | None = None) -> Floats:
        return single_predict(logits, self.member, self.multilabel)

    def files(self) -> Mapping[str, bytes]:
        return {}


def fit_best_single(metric: str) -> Fit:
    """Taking the member with the best mean over folds of `metric`, the first of equals, as if that were a method."""

    def fit(table: OofTable, embed: Embed | None, seed: int, progress: Progress | None) -> Fitted:
        p = [single_oof(table, m) for m in range(table.logits.shape[1])]
        values = np.array([mean_over_folds(metric, table.y, one, table.fold)[0] for one in p])
        chosen = best(metric, values, [""] * len(p), 1)
        if not chosen:
            raise HarnessError(f"no member has a {metric} in every fold, so none of them is the best single one.")
        return Fitted(_Single(chosen[0], table.multilabel), p[chosen[0]], p[chosen[0]])  # type: ignore[arg-type]

    return fit


def values_without(metric: str, y: NDArray[np.int64], p: Sequence[Floats], fold: NDArray[np.int64], k: int) -> Floats:
    """(P, k) the mean over the folds other than 0, 1, ... of the metric of each trial; p: P arrays (N, C). NaN where it
    is not defined in one of them."""
    of = METRICS[metric].of
    each = np.array([[float(of(y[fold == j], one[fold == j], None)[0]) for j in range(k)] for one in p])
    return np.stack([np.delete(each, held_out, axis=1).mean(axis=1) for held_out in range(k)], axis=1)


def best(metric: str, values: Floats, parts: Sequence[str], top: int) -> Chosen:
    """The `top` best of each part by `values` (P,), the first of equals; undefined values are never taken.

    parts: P names of the studies that the trials are of, each of which gives its own best.
    """
    sign = 1.0 if METRICS[metric].higher_is_better else -1.0
    places = [place for place in np.argsort(-sign * values, kind="stable").tolist() if np.isfinite(values[place])]
    taken = [[place for place in places if parts[place] == part][:top] for part in dict.fromkeys(parts)]
    return tuple(sorted(chain.from_iterable(taken)))


def stitched(
    choices: Sequence[Chosen],
    fold: NDArray[np.int64],
    known: dict[Chosen, Floats],
    out_of_fold: Callable[[Chosen], Floats],
) -> Floats:
    """(N, C) each fold's rows as the recipe with that fold's choice of members predicts them.

    choices: one per fold, made without it; out_of_fold(chosen) -> (N, C) by fits that never saw the row's fold;
    `known`: what it would give for choices that have been fitted before. Choices that return are fitted once.
    """
    found = dict(known)
    for chosen in choices:
        if chosen not in found:
            found[chosen] = out_of_fold(chosen)
    out = np.full_like(found[choices[0]], np.nan)
    for held_out, chosen in enumerate(choices):
        out[fold == held_out] = found[chosen][fold == held_out]
    return out
