"""AdaBoost, the classic: a weighted vote of shallow trees on each encoder's own embeddings, averaged over encoders.

SAMME (Zhu, Zou, Rosset, Hastie 2009), fitted by scikit-learn. Each tree is the shallowest that has a leaf for every
class (a stump, for two classes), and every split chooses among sqrt(D) features drawn at random: 512 embedding
coordinates are redundant, and an encoder that tells the rows it trained on apart by one of them would otherwise end
the boosting with one stump. Who is fitted on what stands in heads.py.

The probabilities are SAMME's own, equation 15 of that paper: the softmax of f / (C - 1), where f_c, in -1/(C-1)..1, is
the trees' weighted vote for class c. They rank rows and are badly calibrated: for two classes they stay between .12 and
.88, and for more they are paler still. Read log-loss and Brier score after calibration.

Kept are the trees as arrays, predicted by a few lines here: neither pickle nor scikit-learn is needed. Knows arrays
only.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import AdaBoostClassifier
from sklearn.tree import DecisionTreeClassifier

from harness.ensemble.heads import fit_encoders, mean_of_encoders
from harness.ensemble.oof import Embed, Fitted, OofTable
from harness.errors import RequestError
from harness.metrics import softmax
from harness.store.arrays import pack, unpack
from harness.types import Progress

ROUNDS = 100
LEAF = -1
"""scikit-learn's mark of a node without children"""


@dataclass(frozen=True)
class Vote:
    """One encoder's trees, T of them with at most S nodes, over the P classes that its training rows have."""

    shares: NDArray[np.float64]
    """(C,) of the classes among the training rows: the answer where there is no tree"""
    present: NDArray[np.int64]
    """(P,) ascending"""
    say: NDArray[np.float64]
    """(T,) weight of a tree in the vote"""
    feature: NDArray[np.int64]
    """(T, S) the coordinate that a node looks at"""
    threshold: NDArray[np.float64]
    """(T, S) up to which a row goes left"""
    left: NDArray[np.int64]
    """(T, S) the next node; the node itself where it is a leaf"""
    right: NDArray[np.int64]
    label: NDArray[np.int64]
    """(T, S) index into `present` that a node votes for"""

    def predict(self, x: NDArray[np.float32]) -> NDArray[np.float64]:
        """(n, D) -> (n, C); absent classes get 0."""
        p = np.zeros((len(x), len(self.shares)))
        if not len(self.say):
            return p + self.shares
        present = len(self.present)
        votes = np.zeros((len(x), present))
        for t in range(len(self.say)):
            votes += self.say[t] * np.eye(present)[self._labels(x, t)]
        # a tree says 1 to the class it votes for and -1/(P-1) to the others
        f = (votes * present / self.say.sum() - 1.0) / (present - 1)
        p[:, self.present] = softmax(f / (present - 1))
        return p

    def _labels(self, x: NDArray[np.float32], t: int) -> NDArray[np.int64]:
        """(n,) what tree t says."""
        node = np.zeros(len(x), dtype=np.int64)
        while True:
            goes_left = x[np.arange(len(x)), self.feature[t, node]] <= self.threshold[t, node]
            following = np.where(goes_left, self.left[t, node], self.right[t, node])
            if (following == node).all():
                return np.asarray(self.label[t, node])
            node = following


@dataclass(frozen=True)
class AdaBoostModel:
    boosters: dict[tuple[int, int], Vote]

    def predict(self, logits: NDArray[np.float32], embed: Embed | None) -> NDArray[np.float64]:
        return mean_of_encoders(self.boosters, logits.shape[2:], embed, "adaboost")

    def files(self) -> dict[str, bytes]:
        arrays: dict[str, NDArray[np.generic]] = {}
        for (m, k), vote in self.boosters.items():
            arrays |= {f"{name}_{m}_{k}": array for name, array in vars(vote).items()}
        return {"adaboost.npz": pack(arrays)}


def fit(table: OofTable, embed: Embed | None, seed: int, progress: Progress | None = None) -> Fitted:
    """embed(m, k) gives the (N, D) embeddings of the development rows by encoder (m, k).

    Raises HarnessError when a member lacks a row or an embedding is not finite.
    """

    def one(x: NDArray[np.float32], y: NDArray[np.int64], groups: NDArray[np.str_], own_seed: int) -> Vote:
        return fit_vote(x, y, table.classes, own_seed)

    boosters, oof = fit_encoders(one, "adaboost", table, embed, seed, progress)
    return Fitted(AdaBoostModel(boosters), oof, oof)


def fit_vote(x: NDArray[np.float32], y: NDArray[np.int64], classes: int, seed: int, rounds: int = ROUNDS) -> Vote:
    """x (n, D), y (n,) in 0..classes-1. No tree at all where there is one class, or none does better than chance."""
    present, label = np.unique(y, return_inverse=True)
    shares = np.bincount(y, minlength=classes) / len(y)
    trees: list[DecisionTreeClassifier] = []
    say = np.zeros(0)
    if len(present) > 1:
        try:
            fitted = booster(len(present), seed, rounds).fit(x, label)
            trees, say = fitted.estimators_, fitted.estimator_weights_[: len(fitted.estimators_)]
        except ValueError as error:
            if "worse than random" not in str(error):
                raise
    return _as_arrays(trees, np.asarray(say, dtype=np.float64), present, shares)


def booster(classes: int, seed: int, rounds: int) -> AdaBoostClassifier:
    depth = int(np.ceil(np.log2(classes)))
    tree = DecisionTreeClassifier(max_depth=depth, max_features="sqrt")
    return AdaBoostClassifier(tree, n_estimators=rounds, random_state=seed % 2**31)


def _as_arrays(
    trees: list[DecisionTreeClassifier],
    say: NDArray[np.float64],
    present: NDArray[np.int64],
    shares: NDArray[np.float64],
) -> Vote:
    size = max((each.tree_.node_count for each in trees), default=0)
    shape = (len(trees), size)
    feature, label = np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=np.int64)
    threshold = np.zeros(shape)
    left, right = (np.tile(np.arange(size), (len(trees), 1)) for _ in range(2))
    for t, each in enumerate(trees):
        tree, n = each.tree_, each.tree_.node_count
        inner = np.flatnonzero(tree.children_left != LEAF)
        left[t, inner], right[t, inner] = tree.children_left[inner], tree.children_right[inner]
        feature[t, inner], threshold[t, inner] = tree.feature[inner], tree.threshold[inner]
        label[t, :n] = each.classes_[tree.value[:, 0].argmax(axis=1)]
    return Vote(shares, present, say, feature, threshold, left, right, label)


def load(files: Mapping[str, bytes]) -> AdaBoostModel:
    """Raises RequestError where a tree is not whole: a node that points nowhere, or in a circle."""
    arrays = unpack(files["adaboost.npz"], "adaboost.npz")
    boosters: dict[tuple[int, int], Vote] = {}
    for name in arrays:
        kind, _, encoder = name.partition("_")
        if kind != "say":
            continue
        m, _, k = encoder.partition("_")
        vote = Vote(*(arrays[f"{field}_{encoder}"] for field in Vote.__dataclass_fields__))  # type: ignore[arg-type]
        _check_whole(vote, encoder)
        boosters[int(m), int(k)] = vote
    return AdaBoostModel(boosters)


def _check_whole(vote: Vote, encoder: str) -> None:
    shape = vote.feature.shape
    nodes = np.arange(shape[1])
    same = all(array.shape == shape for array in (vote.threshold, vote.left, vote.right, vote.label))
    # children stand behind their parent, so that every walk ends
    onward = all(((step == nodes) | ((step > nodes) & (step < shape[1]))).all() for step in (vote.left, vote.right))
    known = ((vote.label >= 0) & (vote.label < len(vote.present))).all() and (vote.feature >= 0).all()
    if not (same and len(vote.say) == shape[0] and onward and known):
        raise RequestError(f"adaboost.npz: the trees of encoder {encoder} are not whole. Build the ensemble again.")
