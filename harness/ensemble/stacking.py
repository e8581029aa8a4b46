"""Stacking: linear, boosted, with embeddings, two levels.

Stacking: a regularised multinomial logistic regression on the members' out-of-fold log-probabilities.

Features of a row are, for two classes, each member's log-odds (M of them); for more, each member's log-probabilities
centred over the classes (M x C), so that no class plays the reference and the penalty treats all alike. They are cut
off at +-15: an overconfident network has one vote, not an infinite one.

Cross-fitted over the study's own folds (oof.py). The strength of the penalty is chosen by log-loss on the folds
that a fit may read, each left out in turn, so groups never straddle fit and choice: from strong to weak, as long as the
loss falls. A fit without folds {j, k} serves both as k's inner fit for j and as j's for k, which halves the work.

Sources: Wolpert 1992; van der Laan, Polley, Hubbard 2007 (super learner). Knows arrays only.

Stacking by boosted trees: XGBoost on the members' out-of-fold log-odds, starting from their simple mean.

The features are those of linear stacking. Every row's first guess is the members' mean, and the trees add corrections
to it, as long as these help on a watched fifth of the groups: with few rows it stays near the mean, with many it finds
what no line can, that a member is to be believed in one region and not in another. The trees are shallow (two splits
deep) and slow (eta .05), for M features of one kind hold few interactions.

Cross-fitted over the study's folds (oof.py); early stopping watches a part of the rows that a fit may read.
Sources: Wolpert 1992; Chen and Guestrin 2016. Knows arrays only.

Stacking with the embeddings passed through: beside each member's logits stands a second opinion from its embedding.

Embeddings of different encoders share no space (honesty rule 5), so what is passed through are not their coordinates
but class scores: for encoder (m, k), fold model k of member m, an L2-regularised logistic head on its embeddings of
fold k, the rows that it held out. (A linear head on the rows that the encoder trained on would only find the network's
own last layer again.) Log-probabilities of heads mean the same for every encoder, so they stand in one column per
member, and linear stacking is fitted over 2 M columns: M networks, M heads.

    head scores of fold k   from heads fitted on the other PARTS - 1 parts of fold k, by whole groups
    nested score of fold k  by a stacking fitted on the other folds' columns
    new rows                the head of encoder (m, k), refitted on all of fold k; stacking applied per fold index

So a row's nested prediction has seen neither its group nor, in the stacking, its fold; the heads behind it have seen
other groups of its fold, and nothing of other folds. Source: Wolpert 1992, with features beside the level-0 guesses
(Sill, Takacs, Mackey, Lin 2009, feature-weighted linear stacking, is a relative). Knows arrays only.

Stacking of two levels: linear, boosted, greedy and weighted fits, and a linear stacking of what they say.

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
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from harness.ensemble import averaging
from harness.ensemble.boosting import BoostedTrees, fit_trees, read_trees
from harness.ensemble.heads import Linear, fit_logistic, require_embeddings
from harness.ensemble.oof import Embed, Fitted, Learn, OofTable, Rule, check_table, cross_fit, over_folds, rows_without
from harness.errors import HarnessError, RequestError
from harness.metrics import softmax
from harness.numbering import by_appearance, first_rows
from harness.seeds import derive_seed
from harness.store.arrays import pack, unpack
from harness.types import Progress, silent

STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
"""inverse penalties tried; small is strong"""
FALLBACK = 1e-2
"""the strength where two folds leave no third one to choose it on"""
CUT = 15.0


@dataclass(frozen=True)
class StackingModel:
    linear: Linear
    strength: float

    def of(self, logits: NDArray[np.float32]) -> NDArray[np.float64]:
        """(n, M, C) -> (n, C)."""
        return self.linear.predict(features(logits))

    def predict(self, logits: NDArray[np.float32], embed: Embed | None = None) -> NDArray[np.float64]:
        """(M, K, n, C) -> (n, C)."""
        return over_folds(self, logits)

    def files(self) -> dict[str, bytes]:
        arrays = {"weights": self.linear.weights, "bias": self.linear.bias, "strength": np.array(self.strength)}
        return {"stacking.npz": pack(arrays)}


def features(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """(n, M, C) logits -> (n, M) log-odds for two classes, else (n, M*C) centred log-probabilities."""
    wide = logits.astype(np.float64)
    if wide.shape[2] == 2:
        return np.asarray(np.clip(wide[:, :, 1] - wide[:, :, 0], -CUT, CUT))
    centred = wide - wide.mean(axis=2, keepdims=True)
    return np.asarray(np.clip(centred, -CUT, CUT).reshape(len(wide), -1))


def stacking_learner(table: OofTable, seed: int = 0) -> Callable[[frozenset[int]], StackingModel]:
    """Nothing is random here: the seed is not used. Raises HarnessError when a member lacks a row."""
    check_table(table)
    x, y, fold = features(table.logits), table.y, table.fold
    fits: dict[tuple[frozenset[int], float], Linear] = {}

    def without(left_out: frozenset[int], strength: float) -> Linear:
        if (left_out, strength) not in fits:
            rows = rows_without(table, left_out)
            fits[left_out, strength] = fit_logistic(x[rows], y[rows], table.classes, strength)
        return fits[left_out, strength]

    def loss(left_out: frozenset[int], strength: float) -> float:
        """Of the rows that are not left out, each fold of them by a fit that saw neither it nor the left-out ones."""
        rest = sorted(set(fold.tolist()) - left_out)
        return sum(_log_loss(without(left_out | {j}, strength).predict(x[fold == j]), y[fold == j]) for j in rest)

    def learn(left_out: frozenset[int]) -> StackingModel:
        several = len(set(fold.tolist()) - left_out) > 1
        strength = _first_minimum(lambda s: loss(left_out, s)) if several else FALLBACK
        return StackingModel(without(left_out, strength), strength)

    return learn


def fit_stacking(
    table: OofTable, embed: Embed | None = None, seed: int = 0, progress: Progress | None = None
) -> Fitted:
    """Raises HarnessError when a member lacks a row."""
    return cross_fit(stacking_learner(table, seed), "stacking", table, progress)


def load_stacking(files: Mapping[str, bytes]) -> StackingModel:
    arrays = unpack(files["stacking.npz"], "stacking.npz")
    weights, bias = arrays["weights"].astype(np.float64), arrays["bias"].astype(np.float64)
    return StackingModel(Linear(weights, bias), float(arrays["strength"].astype(np.float64)))


def _first_minimum(loss: Callable[[float], float]) -> float:
    """The strength, from the strongest penalty on, from which the loss first stops falling; weaker ones, which are
    the slow ones, are not tried."""
    lowest = loss(STRENGTHS[0])
    for strength, weaker in pairwise(STRENGTHS):
        found = loss(weaker)
        if found >= lowest:
            return strength
        lowest = found
    return STRENGTHS[-1]


def _log_loss(p: NDArray[np.float64], y: NDArray[np.int64]) -> float:
    """Summed; a class that was absent from the fit costs much, not infinitely much."""
    return float(-np.log(np.clip(p[np.arange(len(y)), y], 1e-7, 1.0)).sum())


SETTINGS = {"max_depth": 2, "eta": 0.05, "min_child_weight": 5.0, "lambda": 10.0, "max_bin": 64}


@dataclass(frozen=True)
class StackingBoostedModel:
    trees: BoostedTrees
    order: NDArray[np.int64]
    """(M,) the members by name, as the trees know them: of equally good splits the first is taken"""

    def of(self, logits: NDArray[np.float32]) -> NDArray[np.float64]:
        """(n, M, C) -> (n, C)."""
        ordered = logits[:, self.order]
        return self.trees.predict(features(ordered).astype(np.float32), mean_of(ordered))

    def predict(self, logits: NDArray[np.float32], embed: Embed | None = None) -> NDArray[np.float64]:
        """(M, K, n, C) -> (n, C)."""
        return over_folds(self, logits)

    def files(self) -> dict[str, bytes]:
        arrays = {"present": self.trees.present, "classes": np.array(self.trees.classes), "order": self.order}
        return {"stacking_boosted.ubj": self.trees.ubj, "stacking_boosted.npz": pack(arrays)}


def mean_of(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """(n, M, C) logits -> (n, C) mean of the members' probabilities, one member in memory at a time."""
    total = np.zeros((len(logits), logits.shape[2]))
    for member in range(logits.shape[1]):
        total += softmax(logits[:, member])
    return np.asarray(total / logits.shape[1])


def stacking_boosted_learner(table: OofTable, seed: int) -> Learn:
    """Raises HarnessError when a member lacks a row."""
    check_table(table)
    order = np.argsort([ids[0] for ids in table.encoder_ids], kind="stable")
    ordered = table.logits[:, order]
    x, prior = features(ordered).astype(np.float32), mean_of(ordered)

    def learn(left_out: frozenset[int]) -> StackingBoostedModel:
        rows = rows_without(table, left_out)
        own_seed = derive_seed(seed, "stacking-boosted", *sorted(left_out))
        y, groups = table.y[rows], table.groups[rows]
        trees = fit_trees(x[rows], y, groups, table.classes, own_seed, SETTINGS, prior=prior[rows])
        return StackingBoostedModel(trees, order)

    return learn


def fit_stacking_boosted(
    table: OofTable, embed: Embed | None = None, seed: int = 0, progress: Progress | None = None
) -> Fitted:
    """Raises HarnessError when a member lacks a row."""
    return cross_fit(stacking_boosted_learner(table, seed), "stacking-boosted", table, progress)


def load_stacking_boosted(files: Mapping[str, bytes]) -> StackingBoostedModel:
    """Raises RequestError where the trees or the members' order are missing."""
    arrays = unpack(files["stacking_boosted.npz"], "stacking_boosted.npz")
    order = arrays["order"].astype(np.int64)
    if sorted(order.tolist()) != list(range(len(order))):
        raise RequestError("stacking_boosted.npz: the order of its members is none. Build the ensemble again.")
    present, classes = arrays["present"].astype(np.int64), int(arrays["classes"].astype(np.int64))
    name = "stacking_boosted.ubj"
    return StackingBoostedModel(read_trees(present, classes, files[name], name), order)


PARTS = 5
"""of a fold's groups, each left out in turn"""
EMBEDDINGS_SMALLEST = 1e-7


@dataclass(frozen=True)
class StackingEmbeddingsModel:
    heads: dict[tuple[int, int], Linear]
    stacked: StackingModel

    def predict(self, logits: NDArray[np.float32], embed: Embed | None) -> NDArray[np.float64]:
        """(M, K, n, C) logits and the embeddings of n new rows -> (n, C)."""
        given = require_embeddings(embed, "stacking-embeddings")
        members, folds = logits.shape[:2]
        said = [[_scores(self.heads[m, k], given(m, k)) for k in range(folds)] for m in range(members)]
        return self.stacked.predict(np.concatenate([logits, np.array(said)]))

    def files(self) -> dict[str, bytes]:
        arrays: dict[str, NDArray[np.generic]] = {}
        for (m, k), head in self.heads.items():
            arrays[f"weights_{m}_{k}"], arrays[f"bias_{m}_{k}"] = head.weights, head.bias
        return {"heads.npz": pack(arrays), **self.stacked.files()}


def fit_stacking_embeddings(
    table: OofTable, embed: Embed | None, seed: int, progress: Progress | None = None
) -> Fitted:
    """embed(m, k) gives the (N, D) embeddings of the development rows; only those of fold k are used.

    Raises HarnessError when a member lacks a row, an embedding is not finite, or a fold has one group only.
    """
    check_table(table)
    given = require_embeddings(embed, "stacking-embeddings")
    report = progress or silent
    heads: dict[tuple[int, int], Linear] = {}
    cross_fitted, refitted = np.empty_like(table.logits), np.empty_like(table.logits)
    for m in range(table.members):
        for k in range(table.k):
            rows = np.flatnonzero(table.fold == k)
            x, y, groups = given(m, k)[rows], table.y[rows], table.groups[rows]
            if not np.isfinite(x).all():
                raise HarnessError(f"the embeddings of {table.encoder_ids[m][k]} are not finite. Leave that trial out.")
            if len(np.unique(groups)) < 2:
                raise HarnessError(f"fold {k} has a single group: no head can be fitted without the rows it scores.")
            # the same parts for all members: what stacking compares differs by encoder alone
            part = parts(y, groups, derive_seed(seed, "stacking-embeddings", k))
            for i in np.unique(part):
                inside = _fit_head(x[part != i], y[part != i], table.classes)
                cross_fitted[rows[part == i], m] = _scores(inside, x[part == i])
            heads[m, k] = _fit_head(x, y, table.classes)
            refitted[rows, m] = _scores(heads[m, k], x)
            report("heads on embeddings", m * table.k + k + 1, table.members * table.k)
    learn = stacking_learner(_beside(table, cross_fitted))
    oof = cross_fit(learn, "stacking-embeddings", _beside(table, cross_fitted), progress).oof
    stacked = learn(frozenset())
    return Fitted(StackingEmbeddingsModel(heads, stacked), oof, stacked.of(_beside(table, refitted).logits))


def parts(y: NDArray[np.int64], groups: NDArray[np.str_], seed: int) -> NDArray[np.int64]:
    """(n,) part of each row: whole groups, each class (by a group's first row) dealt out evenly; at most PARTS, at
    least two where there are two groups."""
    rng = np.random.default_rng(seed)
    group_of = by_appearance(groups)
    first = first_rows(group_of)
    part_of, dealt = np.zeros(len(first), dtype=np.int64), 0
    for value in np.unique(y[first]):
        own = rng.permutation(np.flatnonzero(y[first] == value))
        part_of[own] = (dealt + np.arange(len(own))) % min(PARTS, len(first))
        dealt += len(own)
    return np.asarray(part_of[group_of])


def _fit_head(x: NDArray[np.float32], y: NDArray[np.int64], classes: int) -> Linear:
    # with D standardised features, strength 1/D is a prior of unit variance on the log-odds whatever D is
    return fit_logistic(x, y, classes, 1.0 / x.shape[1])


def _scores(head: Linear, x: NDArray[np.float32]) -> NDArray[np.float32]:
    """(n, D) -> (n, C) log-probabilities; finite where a class was absent."""
    return np.log(np.maximum(head.predict(x), EMBEDDINGS_SMALLEST)).astype(np.float32)


def _beside(table: OofTable, scores: NDArray[np.float32]) -> OofTable:
    """The table with the heads as further members."""
    names = tuple(tuple(f"{name}-head" for name in names) for names in table.encoder_ids)
    logits = np.concatenate([table.logits, scores], axis=1)
    return replace(table, logits=logits, encoder_ids=table.encoder_ids + names)


def load_stacking_embeddings(files: Mapping[str, bytes]) -> StackingEmbeddingsModel:
    """Raises RequestError where a head is not whole."""
    arrays = unpack(files["heads.npz"], "heads.npz")
    heads: dict[tuple[int, int], Linear] = {}
    for name, weights in arrays.items():
        kind, _, encoder = name.partition("_")
        if kind != "weights":
            continue
        m, _, k = encoder.partition("_")
        bias = arrays.get(f"bias_{encoder}")
        if bias is None or weights.ndim != 2 or bias.shape != weights.shape[1:]:
            raise RequestError(f"heads.npz: the head of encoder {encoder} is not whole. Build the ensemble again.")
        heads[int(m), int(k)] = Linear(weights.astype(np.float64), bias.astype(np.float64))
    return StackingEmbeddingsModel(heads, load_stacking(files))


LEVEL_1: dict[str, tuple[Callable[[OofTable, int], Learn], Callable[[Mapping[str, bytes]], Rule]]] = {
    "stacking": (stacking_learner, load_stacking),
    "stacking-boosted": (stacking_boosted_learner, load_stacking_boosted),
    "greedy": (averaging.greedy_learner, averaging.load_weights),
    "weighted": (averaging.weighted_learner, averaging.load_weights),
}
"""how each rule is learned and loaded; level 2 knows them in this order"""
LEVELS_SMALLEST = 1e-7
"""a smaller probability counts as this one, so that a class that a rule never saw has a logarithm"""


@dataclass(frozen=True)
class LevelsModel:
    level_1: tuple[Rule, ...]
    level_2: StackingModel | None
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
    return np.log(np.maximum(p, LEVELS_SMALLEST)).astype(np.float32)


def stacking_levels_learner(table: OofTable, seed: int) -> Learn:
    """Raises HarnessError when a member lacks a row."""
    learns = [learn(table, seed) for learn, _ in LEVEL_1.values()]
    fitted: dict[frozenset[int], tuple[Rule, ...]] = {}

    def level_1(left_out: frozenset[int]) -> tuple[Rule, ...]:
        if left_out not in fitted:
            fitted[left_out] = tuple(learn(left_out) for learn in learns)
        return fitted[left_out]

    def level_2(left_out: frozenset[int]) -> StackingModel:
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
        return stacking_learner(answers)(frozenset())

    def learn(left_out: frozenset[int]) -> LevelsModel:
        enough = len(set(table.fold.tolist())) > 2
        return LevelsModel(level_1(left_out), level_2(left_out) if enough else None)

    return learn


def fit_stacking_levels(
    table: OofTable, embed: Embed | None = None, seed: int = 0, progress: Progress | None = None
) -> Fitted:
    """Raises HarnessError when a member lacks a row."""
    return cross_fit(stacking_levels_learner(table, seed), "stacking-levels", table, progress)


def load_stacking_levels(files: Mapping[str, bytes]) -> LevelsModel:
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
    return LevelsModel(level_1, load_stacking(files) if "stacking.npz" in files else None)
