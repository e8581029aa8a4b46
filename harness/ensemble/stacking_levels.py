"""Stacking of two levels: linear, boosted, greedy and weighted fits, and a linear stacking of what they say.

    level 0   the members' out-of-fold logits (given)
    level 1   stacking, stacking-boosted, greedy, weighted: each a rule over level 0
    level 2   linear stacking over the four rules' log-probabilities

The nesting, for the score of fold k. F(S): the level-1 rules fitted on the rows of the folds S; all: the K folds.

    1. for each other fold j:  the rules F(all - {j, k}) are asked of the rows of fold j
    2. level 2 is fitted on those answers, of all folds but k
    3. the rules F(all - {k}) are asked of fold k, and level 2 puts their answers together

So in step 2 no answer is that of a rule to a row that it was fitted on (level 2 would trust the rule that learns by
heart most), and nothing in 1 to 3 has read a row of fold k: neither the answers that level 2 learns from nor the rules
that it is applied to. That is why pairs are left out: answers by rules without j alone, which one would have at hand,
come from rules fitted on fold k. A fit without {j, k} serves both, so there are K(K-1)/2 + K + 1 fits of each rule: 16
for five folds.

The model that is kept does the same without a k: level 2 on the answers of F(all - {j}) to fold j; new rows go through
F(all) and level 2. Two folds leave no third: then level 2 is the plain mean of the four rules, in score and in model.

Level 2 chooses its penalty as linear stacking does, over the folds that it may read; behind the answers that it
compares there stand rules that knew each other's folds, so that choice, and it alone, is a little too sure of itself.
Sources: Wolpert 1992; the nesting is that of nested cross-validation (Varma, Simon 2006). Knows arrays only.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from harness.ensemble import greedy, stacking, stacking_boosted, weighted, weights
from harness.ensemble.cross_fit import Learn, Rule, cross_fit, over_folds, rows_without
from harness.ensemble.oof import Embed, Fitted, OofTable
from harness.errors import RequestError
from harness.types import Progress

LEVEL_1: dict[str, tuple[Callable[[OofTable, int], Learn], Callable[[Mapping[str, bytes]], Rule]]] = {
    "stacking": (stacking.learner, stacking.load),
    "stacking-boosted": (stacking_boosted.learner, stacking_boosted.load),
    "greedy": (greedy.learner, weights.load),
    "weighted": (weighted.learner, weights.load),
}
"""how each rule is learned and loaded; level 2 knows them in this order"""
SMALLEST = 1e-7
"""a smaller probability counts as this one, so that a class that a rule never saw has a logarithm"""


@dataclass(frozen=True)
class LevelsModel:
    level_1: tuple[Rule, ...]
    level_2: stacking.StackingModel | None
    """None: the plain mean of level 1"""

    def of(self, logits: NDArray[np.float32]) -> NDArray[np.float64]:
        """(n, M, C) -> (n, C)."""
        said = ask(self.level_1, logits)
        return np.exp(said).mean(axis=1, dtype=np.float64) if self.level_2 is None else self.level_2.of(said)

    def predict(self, logits: NDArray[np.float32], embed: Embed | None = None) -> NDArray[np.float64]:
        """(M, K, n, C) -> (n, C)."""
        return over_folds(self, logits)

    def files(self) -> dict[str, bytes]:
        out = self.level_2.files() if self.level_2 else {}
        for name, rule in zip(LEVEL_1, self.level_1, strict=True):
            out |= {f"{name}.{file}": content for file, content in rule.files().items()}
        return out


def ask(rules: tuple[Rule, ...], logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """(n, M, C) logits -> (n, L, C) log-probabilities of L rules: what members are to a rule, rules are to level 2."""
    p = np.stack([rule.of(logits) for rule in rules], axis=1)
    return np.log(np.maximum(p, SMALLEST)).astype(np.float32)


def learner(table: OofTable, seed: int) -> Learn:
    """Raises HarnessError when a member lacks a row."""
    learns = [learn(table, seed) for learn, _ in LEVEL_1.values()]
    fitted: dict[frozenset[int], tuple[Rule, ...]] = {}

    def level_1(left_out: frozenset[int]) -> tuple[Rule, ...]:
        if left_out not in fitted:
            fitted[left_out] = tuple(learn(left_out) for learn in learns)
        return fitted[left_out]

    def level_2(left_out: frozenset[int]) -> stacking.StackingModel:
        said = np.full((len(table.y), len(learns), table.classes), np.nan, dtype=np.float32)
        for j in set(table.fold.tolist()) - left_out:
            rows = table.fold == j
            said[rows] = ask(level_1(left_out | {j}), table.logits[rows])
        mine = rows_without(table, left_out)
        names = tuple((name,) * table.k for name in LEVEL_1)
        answers = replace(
            table,
            y=table.y[mine],
            groups=table.groups[mine],
            fold=table.fold[mine],
            logits=said[mine],
            encoder_ids=names,
        )
        return stacking.learner(answers)(frozenset())

    def learn(left_out: frozenset[int]) -> LevelsModel:
        enough = len(set(table.fold.tolist())) > 2
        return LevelsModel(level_1(left_out), level_2(left_out) if enough else None)

    return learn


def fit(table: OofTable, embed: Embed | None = None, seed: int = 0, progress: Progress | None = None) -> Fitted:
    """Raises HarnessError when a member lacks a row."""
    return cross_fit(learner(table, seed), "stacking-levels", table, progress)


def load(files: Mapping[str, bytes]) -> LevelsModel:
    """Raises RequestError where a rule is missing."""
    own: dict[str, dict[str, bytes]] = {name: {} for name in LEVEL_1}
    for path, content in files.items():
        name, _, file = path.partition(".")
        if file.count(".") and name in own:
            own[name][file] = content
    for name, parts in own.items():
        if not parts:
            raise RequestError(f"the files of level 1 lack {name}. Build the ensemble again.")
    level_1 = tuple(load_rule(own[name]) for name, (_, load_rule) in LEVEL_1.items())
    return LevelsModel(level_1, stacking.load(files) if "stacking.npz" in files else None)
