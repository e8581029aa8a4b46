"""The table of out-of-fold predictions, its checks, and cross-fitting over folds.

The table that every ensemble method is fitted on, and what may be said of it before anything is averaged.

Knows arrays only: no disk, no torch, no study. Letters: N development rows, M members, K folds, C classes,
D embedding size, T rows to predict.

Methods that are fitted on out-of-fold predictions alone: how they are cross-fitted over the study's folds.

Such a method is a function learn(left_out) -> rule: fitted on the rows of all folds but the left-out ones, of which it
reads nothing. A rule turns the logits of one network per member into probabilities. All the rest is the same for all of
them:

    oof        rows of fold k, by learn({k}): a fit and all its choices without the fold that is scored
    model      learn({}): fitted on all development rows, kept
    selection  all development rows, by the model that was fitted on them: flattered

(As in all combining over one set of folds, the networks behind the features of the other folds have trained on fold k,
so `oof` is no estimate of what the method is worth: nested.py. The test split and nested_full are.)

New rows: a rule was fitted on logits of SINGLE fold models. The mean over K fold models is less noisy and less spread
than one, another distribution than it knows, so it is applied to each fold index's logits of all members, and the K
probabilities are averaged. Knows arrays only.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from harness.errors import HarnessError
from harness.metrics import probabilities
from harness.types import Progress, silent

Embed = Callable[[int, int], NDArray[np.float32]]
"""embed(m, k) -> (n, D) embeddings of the rows in question by encoder (m, k): fold model k of member m.

Each encoder has its own space and maybe its own D, so the arrays of two encoders are never put into one matrix.
"""


@dataclass(frozen=True)
class OofTable:
    """The development rows as the members' fold models saw them."""

    y: NDArray[np.int64]
    """(N,) class index; in a multi-label task (N, C): 1 yes, 0 no, -1 not known"""
    groups: NDArray[np.str_]
    """(N,) what never straddles two folds"""
    fold: NDArray[np.int64]
    """(N,) 0..K-1"""
    logits: NDArray[np.float32]
    """(N, M, C) by the one fold model that held the row out; NaN where none predicted it"""
    encoder_ids: tuple[tuple[str, ...], ...]
    """M tuples of K names, one per embedding space"""

    @property
    def members(self) -> int:
        return int(self.logits.shape[1])

    @property
    def classes(self) -> int:
        return int(self.logits.shape[2])

    @property
    def multilabel(self) -> bool:
        return self.y.ndim == 2

    @property
    def k(self) -> int:
        return len(self.encoder_ids[0])


class Model(Protocol):
    """A fitted method: what the bundle keeps and what predicts."""

    def predict(self, logits: NDArray[np.float32], embed: Embed | None) -> NDArray[np.float64]:
        """(M, K, n, C) logits of n new rows by every fold model, and their embeddings where the method needs them,
        -> (n, C) probabilities."""
        ...

    def files(self) -> dict[str, bytes]:
        """What to store, by file name: nothing executable."""
        ...


@dataclass(frozen=True)
class Fitted:
    model: Model
    oof: NDArray[np.float64]
    """(N, C) cross-fitted probabilities of the development rows: by a fit that saw neither the row's fold nor anything
    chosen on it, from networks of which those of the other folds have trained on it (nested.py)"""
    selection: NDArray[np.float64]
    """(N, C) what `model`, fitted on all development rows, says of those very rows, from their out-of-fold logits and
    held-out embeddings. Its score flatters; by how much, the distance to the score of `oof` tells"""


def check_table(table: OofTable) -> None:
    """Raises HarnessError when a shape is off or a row of a member has no finite prediction (honesty rule 4)."""
    n, members, _ = table.logits.shape
    if not (len(table.y) == len(table.groups) == len(table.fold) == n) or len(table.encoder_ids) != members:
        raise HarnessError("the table of out-of-fold predictions is inconsistent: its columns differ in length.")
    if members < 1:
        raise HarnessError("the table of out-of-fold predictions has no member.")
    missing = ~np.isfinite(table.logits).all(axis=2)
    if missing.any():
        row, member = np.argwhere(missing)[0]
        raise HarnessError(
            f"{int(missing.sum())} of {missing.size} out-of-fold predictions are missing or not finite, the first in "
            f"row {row} (fold {table.fold[row]}) of member number {member}: nothing can be averaged over them. "
            "Leave that trial out, or run it again."
        )


def check_probabilities(p: NDArray[np.float64], what: str, multilabel: bool = False) -> NDArray[np.float64]:
    """`p` (n, C), when every row is a distribution, or of a multi-label task C probabilities. Raises HarnessError that
    counts the rows that are not."""
    fits = (p <= 1).all(axis=1) if multilabel else np.abs(p.sum(axis=1) - 1.0) < 1e-6
    bad = ~(np.isfinite(p).all(axis=1) & fits & (p >= 0).all(axis=1))
    if bad.any():
        raise HarnessError(
            f"{what}: {int(bad.sum())} of {len(p)} rows have no prediction, first row {int(np.flatnonzero(bad)[0])}. "
            "Nothing is averaged over a row that no model could predict."
        )
    return p


def single_oof(table: OofTable, member: int) -> NDArray[np.float64]:
    """(N, C) what one member says of the development rows: the probabilities of its one held-out fold model."""
    return probabilities(table.logits[:, member], table.multilabel)


def single_predict(logits: NDArray[np.float32], member: int, multilabel: bool = False) -> NDArray[np.float64]:
    """(n, C) what one member says of new rows: its probabilities from logits (M, K, n, C), averaged over its K fold
    models."""
    return np.asarray(probabilities(logits[member], multilabel).mean(axis=0))


def mean_oof(table: OofTable) -> NDArray[np.float64]:
    """(N, C) mean over members of their out-of-fold probabilities."""
    total = np.zeros((len(table.y), table.classes))
    for member in range(table.members):
        total += single_oof(table, member)
    return total / table.members


def mean_predict(logits: NDArray[np.float32], multilabel: bool = False) -> NDArray[np.float64]:
    """(n, C) mean over members of their probabilities, from logits (M, K, n, C)."""
    total = np.zeros(logits.shape[2:])
    for member in range(len(logits)):
        total += single_predict(logits, member, multilabel)
    return total / len(logits)


def without_fold(table: OofTable, embed: Embed | None, k: int) -> tuple[OofTable, Embed | None]:
    """The table of a study that never had fold k: its rows and the networks that held it out are gone."""
    rows = table.fold != k
    left = [index for index in range(table.k) if index != k]
    smaller = OofTable(
        y=table.y[rows],
        groups=table.groups[rows],
        fold=table.fold[rows] - (table.fold[rows] > k),
        logits=table.logits[rows],
        encoder_ids=tuple(tuple(ids[index] for index in left) for ids in table.encoder_ids),
    )
    return smaller, None if embed is None else lambda m, index: embed(m, left[index])[rows]


class Rule(Protocol):
    """A Model that needs no embeddings, and that can be asked of one network per member."""

    def of(self, logits: NDArray[np.float32]) -> NDArray[np.float64]:
        """(n, M, C) logits, one network per member, -> (n, C) probabilities."""
        ...

    def predict(self, logits: NDArray[np.float32], embed: Embed | None = None) -> NDArray[np.float64]: ...

    def files(self) -> dict[str, bytes]: ...


Learn = Callable[[frozenset[int]], Rule]
"""learn(left_out): the rule fitted on the rows of all other folds. Labels and logits of left-out folds are not read."""


def cross_fit(learn: Learn, what: str, table: OofTable, progress: Progress | None = None) -> Fitted:
    """Raises HarnessError when a member lacks a row."""
    report = progress or silent
    oof = np.full((len(table.y), table.classes), np.nan)
    for k in range(table.k):
        held_out = table.fold == k
        if held_out.any():
            oof[held_out] = learn(frozenset({k})).of(table.logits[held_out])
        report(what, k + 1, table.k + 1)
    model = learn(frozenset())
    report(what, table.k + 1, table.k + 1)
    return Fitted(model, check_probabilities(oof, f"{what}, out of fold"), model.of(table.logits))


def over_folds(rule: Rule, logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """(M, K, n, C) logits -> (n, C): the rule's probabilities for each fold index, averaged."""
    per_fold = [rule.of(logits[:, k].swapaxes(0, 1)) for k in range(logits.shape[1])]
    return np.asarray(np.mean(per_fold, axis=0))


def rows_without(table: OofTable, left_out: frozenset[int]) -> NDArray[np.bool_]:
    """(N,) the rows that a fit without these folds may read."""
    return ~np.isin(table.fold, sorted(left_out))
