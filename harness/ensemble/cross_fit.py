"""Methods that are fitted on out-of-fold predictions alone: how they are cross-fitted over the study's folds.

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
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from harness.ensemble.oof import Embed, Fitted, OofTable, check_probabilities
from harness.types import Progress, silent


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
