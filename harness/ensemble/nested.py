"""What an ensemble is worth when the choice of its members is part of it: chosen and fitted without the scored fold.

"Take the N best trials, then combine them" chooses twice on the out-of-fold predictions, and a score over the very
rows that chose is too good. So the whole recipe is repeated for every fold k: the members are the N best trials on the
OTHER folds' rows, and fold k is predicted by a method fitted on those members and those rows. Stitched together, that
is one prediction for every row by a recipe that never saw the row's label. (The networks themselves are shared: the
fold models behind the other folds' rows have trained on fold k, as in all stacking over one set of folds; the test
split is free of that, too.)

Sources: Stone 1974 (cross-validatory choice and assessment); Varma and Simon 2006 (bias of choosing and scoring on the
same rows). Knows arrays only. P: the trials that could have been members; N: rows; C: classes.
"""

from collections.abc import Callable, Sequence
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from harness.metrics import METRICS

Floats = NDArray[np.float64]
Chosen = tuple[int, ...]
"""places in the pool, ascending"""


def values_without(metric: str, y: NDArray[np.int64], p: Sequence[Floats], fold: NDArray[np.int64], k: int) -> Floats:
    """(P, k) the metric of each trial on the rows that are not in fold 0, 1, ...; p: P arrays (N, C)."""
    others = np.stack([fold != held_out for held_out in range(k)]).astype(np.float64)
    return np.stack([METRICS[metric].of(y, one, others) for one in p])


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
