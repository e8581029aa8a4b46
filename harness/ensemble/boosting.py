"""Boosting on embeddings with XGBoost, and the check of stored trees.

Boosting: gradient-boosted trees (XGBoost) on each encoder's own embeddings, averaged over encoders.

Who is fitted on what stands in heads.py. Early stopping watches whole groups of the TRAINING
rows, never the held-out fold.
Limit, by construction: an encoder separates the rows it trained on better than new ones, so the trees are more
confident than they should be; they are shallow and strongly regularised for that reason, and log-loss and Brier score
are printed beside the ranking metrics.

On `device` cuda XGBoost uses the GPU where it finds one; the trees of CPU and GPU differ a little, as sums are added in
another order. Prediction is on the CPU. Source: Chen and Guestrin 2016. Knows arrays only.

Gradient-boosted trees over the classes that their rows have. The only file that imports xgboost.

Early stopping watches a fifth of the rows' GROUPS and never a row that is scored later. XGBoost wants labels 0, 1, 2,
... without gaps, and a fold may lack a class: the trees are fitted over the classes present, and say which those are.
One thread for each fit, and seeds that are given: the same trees every time. What is kept is UBJSON, which holds no
code.

The trees may start from a prior guess instead of the class shares: a row's log-probabilities by somebody else, to which
the trees add corrections ("base margin"). They must then be given the same for new rows.
Source: Chen and Guestrin 2016. Knows arrays only.

Boosted trees from a stranger, held to what trees are before XGBoost reads them.

XGBoost takes its own files on trust: one changed byte ends the process, or never ends, because indices, lengths and
links between nodes are used as they stand (measured in docs/bundles.md). So
a file is read here first, by the UBJSON grammar (ubjson.org, as far as XGBoost writes it) within its own length, and
every number in it that XGBoost uses as a place or a length is checked.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import xgboost
from numpy.typing import NDArray

from harness.ensemble.heads import fit_encoders, mean_of_encoders
from harness.ensemble.oof import Embed, Fitted, OofTable
from harness.errors import RequestError
from harness.numbering import by_appearance, first_rows
from harness.store.arrays import pack, unpack
from harness.types import Progress

ROUNDS = 200
PATIENCE = 15
"""rounds without a better log-loss on the watched part before boosting stops"""
WATCHED = 0.2
"""share of the groups that early stopping watches"""
FIXED = {"tree_method": "hist", "nthread": 1, "verbosity": 0}
SMALLEST = 1e-7
"""the prior guess counts a smaller probability as this one"""


@dataclass(frozen=True)
class BoostedTrees:
    """A single class needs no trees."""

    present: NDArray[np.int64]
    """classes, ascending: the trees' label i is class present[i]"""
    classes: int
    ubj: bytes
    """XGBoost's UBJSON; empty where one class only was present"""

    def predict(self, x: NDArray[np.float32], prior: NDArray[np.float64] | None = None) -> NDArray[np.float64]:
        """x (n, F), the prior guess (n, C) where they were fitted with one, -> (n, C); absent classes get 0."""
        p = np.zeros((len(x), self.classes))
        if len(self.present) == 1:
            p[:, self.present[0]] = 1.0
            return p
        booster = _booster(self.ubj)
        margin = None if prior is None else _margin(prior, self.present)
        # inplace_predict spares the copy into a DMatrix
        wide = np.ascontiguousarray(x, dtype=np.float32)
        raw = np.asarray(booster.inplace_predict(wide, base_margin=margin), dtype=np.float64)
        p[:, self.present] = np.column_stack([1.0 - raw, raw]) if raw.ndim == 1 else raw
        return np.asarray(p / p.sum(axis=1, keepdims=True))


def fit_trees(
    x: NDArray[np.float32],
    y: NDArray[np.int64],
    groups: NDArray[np.str_],
    classes: int,
    seed: int,
    settings: dict[str, Any],
    device: str = "cpu",
    prior: NDArray[np.float64] | None = None,
) -> BoostedTrees:
    """x (n, F), y (n,) in 0..classes-1, groups (n,); `settings` are XGBoost's own names; prior (n, C) probabilities.

    Where no group can be watched a quarter of the rounds is fitted.
    """
    present, label = np.unique(y, return_inverse=True)
    if len(present) == 1:
        return BoostedTrees(present, classes, b"")
    watched = watched_rows(label, groups, seed)
    margin = None if prior is None else _margin(prior, present)

    def matrix(rows: NDArray[np.bool_]) -> xgboost.DMatrix:
        start = None if margin is None else margin[rows]
        return xgboost.DMatrix(x[rows], label[rows], base_margin=start, nthread=1)

    objective: dict[str, Any] = {"objective": "binary:logistic", "eval_metric": "logloss"}
    if len(present) > 2:
        objective = {"objective": "multi:softprob", "eval_metric": "mlogloss", "num_class": len(present)}
    every = {**FIXED, **settings, **objective, "seed": seed % 2**31, "device": device_in_use(device)}
    if not watched.any():
        booster = xgboost.train(every, matrix(~watched), ROUNDS // 4)
    else:
        booster = xgboost.train(
            every,
            matrix(~watched),
            ROUNDS,
            evals=[(matrix(watched), "watched")],
            early_stopping_rounds=PATIENCE,
            verbose_eval=False,
        )
        booster = booster[: booster.best_iteration + 1]
    return BoostedTrees(present, classes, bytes(booster.save_raw("ubj")))


def read_trees(present: NDArray[np.int64], classes: int, ubj: bytes, what: str) -> BoostedTrees:
    """From a file that harness.ensemble.boosting has checked. Raises RequestError where XGBoost itself refuses it."""
    if ubj:
        try:
            _booster(ubj)
        except xgboost.core.XGBoostError as error:
            first = str(error).splitlines()[0]
            raise RequestError(f"{what} is no booster that can be read ({first}). Build the ensemble again.") from error
    return BoostedTrees(present, classes, ubj)


def watched_rows(label: NDArray[np.int64], groups: NDArray[np.str_], seed: int) -> NDArray[np.bool_]:
    """(n,) a fifth of the groups of each class (by a group's first row), for early stopping. A group is watched whole;
    no class loses its last group; nothing is watched where no class has two groups."""
    rng = np.random.default_rng(seed)
    group_of = by_appearance(groups)
    first = first_rows(group_of)
    chosen = np.zeros(len(first), dtype=bool)
    for value in np.unique(label[first]):
        own = np.flatnonzero(label[first] == value)
        take = min(max(1, round(WATCHED * len(own))), len(own) - 1)
        chosen[rng.permutation(own)[:take]] = True
    watched = chosen[group_of]
    # a class that sat only in watched groups (groups may hold several classes) would leave the fit without it
    if len(np.unique(label[~watched])) < len(np.unique(label)):
        return np.zeros(len(label), dtype=bool)
    return np.asarray(watched)


@cache
def device_in_use(wanted: str) -> str:
    """The device that XGBoost takes when it is asked for `wanted` (cpu, cuda, cuda:0): the CPU where its build or the
    machine has no GPU for it. Asked of XGBoost itself, by one tree over two rows, for it may see no GPU where torch
    sees one (another CUDA version)."""
    if wanted.split(":")[0] != "cuda" or not xgboost.build_info().get("USE_CUDA", False):
        return "cpu"
    rows = xgboost.DMatrix(np.zeros((2, 1), dtype=np.float32), np.array([0.0, 1.0]), nthread=1)
    try:
        booster = xgboost.train({**FIXED, "device": wanted}, rows, 1)
        return str(json.loads(booster.save_config())["learner"]["generic_param"]["device"])
    except xgboost.core.XGBoostError:
        return "cpu"


def _booster(ubj: bytes) -> xgboost.Booster:
    booster = xgboost.Booster({"nthread": 1, "device": "cpu"})
    booster.load_model(bytearray(ubj))
    return booster


def _margin(prior: NDArray[np.float64], present: NDArray[np.int64]) -> NDArray[np.float32]:
    """What XGBoost adds its trees to: log-odds (n,) of two classes, log-probabilities (n, P) of more."""
    logs = np.log(np.maximum(prior[:, present], SMALLEST))
    return np.asarray(logs[:, 1] - logs[:, 0] if len(present) == 2 else logs, dtype=np.float32)


SETTINGS = {
    "max_depth": 3,
    "eta": 0.1,
    "min_child_weight": 2.0,
    "lambda": 10.0,
    "subsample": 0.7,
    "colsample_bytree": 0.3,
    "max_bin": 64,
}


@dataclass(frozen=True)
class BoostingModel:
    boosters: dict[tuple[int, int], BoostedTrees]

    def predict(self, logits: NDArray[np.float32], embed: Embed | None) -> NDArray[np.float64]:
        return mean_of_encoders(self.boosters, logits.shape[2:], embed, "boosting")

    def files(self) -> dict[str, bytes]:
        out = {f"booster_{m}_{k}.ubj": trees.ubj for (m, k), trees in self.boosters.items() if trees.ubj}
        arrays: dict[str, NDArray[np.generic]] = {
            f"present_{m}_{k}": trees.present for (m, k), trees in self.boosters.items()
        }
        arrays["classes"] = np.array(next(iter(self.boosters.values())).classes)
        return {**out, "boosting.npz": pack(arrays)}


def fit(
    table: OofTable, embed: Embed | None, seed: int, progress: Progress | None = None, device: str = "cpu"
) -> Fitted:
    """embed(m, k) gives the (N, D) embeddings of the development rows by encoder (m, k); device is cpu, cuda or cuda:N.

    Raises HarnessError when a member lacks a row or an embedding is not finite.
    """

    def one(x: NDArray[np.float32], y: NDArray[np.int64], groups: NDArray[np.str_], own_seed: int) -> BoostedTrees:
        return fit_trees(x, y, groups, table.classes, own_seed, SETTINGS, device)

    # one fit at a time fills a GPU
    jobs = 8 if device_in_use(device) == "cpu" else 1
    boosters, oof = fit_encoders(one, "boosting", table, embed, seed, progress, jobs)
    return Fitted(BoostingModel(boosters), oof, oof)


def load(files: Mapping[str, bytes]) -> BoostingModel:
    """Raises RequestError where a booster is missing."""
    arrays = unpack(files["boosting.npz"], "boosting.npz")
    classes = int(arrays["classes"].astype(np.int64))
    boosters: dict[tuple[int, int], BoostedTrees] = {}
    for name, present in arrays.items():
        if not name.startswith("present_"):
            continue
        m, _, k = name.removeprefix("present_").partition("_")
        trees = f"booster_{m}_{k}.ubj"
        ubj = files.get(trees, b"")
        if len(present) > 1 and not ubj:
            raise RequestError(f"{trees} is missing. Build the ensemble again.")
        boosters[int(m), int(k)] = read_trees(present.astype(np.int64), classes, ubj, trees)
    return BoostingModel(boosters)


DEEPEST = 12
"""an object in an object; XGBoost's own files go to 6"""
MOST = 1_000_000
"""features, classes, and nodes of a tree"""
NUMBERS = {b"i": ">i1", b"U": ">u1", b"I": ">i2", b"l": ">i4", b"L": ">i8", b"d": ">f4", b"D": ">f8"}
OBJECTIVES = {"binary:logistic": "reg_loss_param", "multi:softprob": "softmax_multiclass_param"}
NO_PARENT = 2**31 - 1
FLOATS = ("base_weights", "loss_changes", "split_conditions", "sum_hessian")
WHOLE = ("default_left", "left_children", "parents", "right_children", "split_indices", "split_type")
CATEGORIES = ("enc", "feature_segments", "sorted_idx")
EMPTY = ("categories", "categories_nodes", "categories_segments", "categories_sizes")


def check_trees(data: bytes, what: str) -> None:
    """Raises RequestError when `data` is not a whole, acyclic booster of trees as harness.ensemble.boosting makes."""
    try:
        found = _Reader(data).whole()
        _check(found)
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, OverflowError, RecursionError) as error:
        raise RequestError(f"{what} is no booster that can be read ({error}). Build the ensemble again.") from error


class _Reader:
    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def whole(self) -> Any:
        found = self._value(self._take(1), 0)
        if self._at != len(self._data):
            raise ValueError("something follows its end")
        return found

    def _take(self, count: int) -> bytes:
        if not 0 <= count <= len(self._data) - self._at:
            raise ValueError(f"it ends before {count} more bytes")
        self._at += count
        return self._data[self._at - count : self._at]

    def _peek(self) -> bytes:
        return self._data[self._at : self._at + 1]

    def _number(self, kind: bytes) -> Any:
        form = np.dtype(NUMBERS[kind])
        return np.frombuffer(self._take(form.itemsize), form)[0].item()

    def _length(self) -> int:
        kind = self._take(1)
        if kind not in b"iUIlL":
            raise ValueError("a length that is no whole number")
        length = self._number(kind)
        if not 0 <= length <= len(self._data) - self._at:
            raise ValueError(f"a length of {length} in {len(self._data)} bytes")
        return int(length)

    def _text(self) -> str:
        return self._take(self._length()).decode("utf-8")

    def _value(self, kind: bytes, depth: int) -> Any:
        if depth > DEEPEST:
            raise ValueError("it is nested too deeply")
        if kind in NUMBERS:
            return self._number(kind)
        if kind == b"S":
            return self._text()
        if kind == b"{":
            return self._object(depth)
        if kind == b"[":
            return self._list(depth)
        raise ValueError(f"a value of the unknown kind {kind!r}")

    def _object(self, depth: int) -> dict[str, Any]:
        found: dict[str, Any] = {}
        while self._peek() != b"}":
            key = self._text()
            if key in found:
                raise ValueError(f"the key {key[:40]!r} comes twice")
            found[key] = self._value(self._take(1), depth + 1)
        self._take(1)
        return found

    def _list(self, depth: int) -> Any:
        """An array of numbers where it says of what kind it is; a list otherwise."""
        if self._peek() == b"$":
            self._take(1)
            form = np.dtype(NUMBERS[self._take(1)])
            if self._take(1) != b"#":
                raise ValueError("an array without its length")
            return np.frombuffer(self._take(self._length() * form.itemsize), form)
        if self._peek() == b"#":
            self._take(1)
            return [self._value(self._take(1), depth + 1) for _ in range(self._length())]
        found = []
        while self._peek() != b"]":
            found.append(self._value(self._take(1), depth + 1))
        self._take(1)
        return found


def _check(found: dict[str, Any]) -> None:
    _keys(found, {"learner", "version"})
    _whole(found["version"], 3)
    learner = found["learner"]
    names = {"attributes", "feature_names", "feature_types", "gradient_booster", "learner_model_param", "objective"}
    _keys(learner, names)
    _require(all(isinstance(value, str) for value in learner["attributes"].values()), "attributes that are no text")
    _require(len(learner["feature_names"]) == len(learner["feature_types"]) == 0, "names of features")
    param = learner["learner_model_param"]
    _keys(param, {"base_score", "boost_from_average", "num_class", "num_feature", "num_target"})
    features, classes = _count(param["num_feature"]), _count(param["num_class"])
    _require(features > 0 and classes != 1 and _count(param["num_target"]) == 1, "no features, or one class")
    _require(param["boost_from_average"] in ("0", "1"), "boost_from_average")
    _check_objective(learner["objective"], classes)
    scores = re.fullmatch(r"\[?([-+.\dEe]+(?:,[-+.\dEe]+)*)\]?", param["base_score"])
    _require(scores is not None, "a base score that is no number")
    start = [float(one) for one in param["base_score"].strip("[]").split(",")]
    _require(bool(np.isfinite(start).all()) and len(start) in (1, max(1, classes)), "a base score")
    booster = learner["gradient_booster"]
    _keys(booster, {"model", "name"})
    _require(booster["name"] == "gbtree", "no trees")
    _check_forest(booster["model"], features, classes)


def _check_objective(objective: dict[str, Any], classes: int) -> None:
    param = OBJECTIVES[objective["name"]]
    _keys(objective, {"name", param})
    if param == "reg_loss_param":
        _keys(objective[param], {"scale_pos_weight"})
        _require(classes == 0 and float(objective[param]["scale_pos_weight"]) > 0, "the weight of a class")
    else:
        _keys(objective[param], {"num_class"})
        _require(_count(objective[param]["num_class"]) == classes >= 2, "different numbers of classes")


def _check_forest(model: dict[str, Any], features: int, classes: int) -> None:
    _keys(model, {"cats", "gbtree_model_param", "iteration_indptr", "tree_info", "trees"}, optional={"cats"})
    categories = model.get("cats", dict.fromkeys(CATEGORIES, ()))
    _keys(categories, set(CATEGORIES))
    _require(all(len(values) == 0 for values in categories.values()), "categories")
    param = model["gbtree_model_param"]
    _keys(param, {"num_parallel_tree", "num_trees"})
    trees = model["trees"]
    _require(_count(param["num_trees"]) == len(trees) > 0, "another number of trees")
    _require(_count(param["num_parallel_tree"]) == 1, "a forest of forests")
    group = _whole(model["tree_info"], len(trees))
    _require(bool(((group >= 0) & (group < max(1, classes))).all()), "a tree of a class that is not there")
    each = max(1, classes)
    rounds = _whole(model["iteration_indptr"], len(trees) // each + 1)
    _require(bool((rounds == each * np.arange(len(rounds))).all()) and rounds[-1] == len(trees), "uneven rounds")
    for number, tree in enumerate(trees):
        _check_tree(tree, number, features)


def _check_tree(tree: dict[str, Any], number: int, features: int) -> None:
    _keys(tree, {*FLOATS, *WHOLE, *EMPTY, "id", "tree_param"})
    param = tree["tree_param"]
    _keys(param, {"num_deleted", "num_feature", "num_nodes", "size_leaf_vector"})
    nodes = _count(param["num_nodes"])
    _require(tree["id"] == number and _count(param["num_feature"]) == features, "a tree of other features")
    _require(_count(param["num_deleted"]) == 0 and _count(param["size_leaf_vector"]) <= 1, "a tree with gaps")
    _require(nodes > 0, "a tree without nodes")
    for name in FLOATS:
        values = np.asarray(tree[name])
        _require(values.shape == (nodes,) and values.dtype.kind == "f", f"{name} of another length")
        _require(bool(np.isfinite(values).all()), f"{name} that are not finite")
    own = {name: _whole(tree[name], nodes) for name in WHOLE}
    _require(all(len(tree[name]) == 0 for name in EMPTY), "categories")
    _require(
        not own["split_type"].any() and bool(np.isin(own["default_left"], (0, 1)).all()), "a split of another kind"
    )
    split = own["split_indices"]
    _require(bool(((split >= 0) & (split < features)).all()), "a split on a feature that is not there")
    _check_links(own["left_children"], own["right_children"], own["parents"])


def _check_links(left: NDArray[np.int64], right: NDArray[np.int64], parent: NDArray[np.int64]) -> None:
    """Every node but the first hangs on one parent that comes before it: no circle, no node twice."""
    place = np.arange(len(left))
    leaf = left == -1
    _require(bool((leaf == (right == -1)).all()), "a node with one child")
    inner = place[~leaf]
    children = np.concatenate([left[inner], right[inner]])
    _require(bool(((children > np.tile(inner, 2)) & (children < len(left))).all()), "a child that is not there")
    _require(len(np.unique(children)) == len(children) == len(left) - 1, "nodes that hang on two others, or on none")
    _require(bool((parent[children] == np.tile(inner, 2)).all()) and parent[0] == NO_PARENT, "another parent")


def _require(holds: bool, problem: str) -> None:
    if not holds:
        raise ValueError(problem)


def _keys(found: Any, wanted: set[str], optional: frozenset[str] | set[str] = frozenset()) -> None:
    _require(isinstance(found, dict) and wanted - optional <= set(found) <= wanted, f"other keys than {sorted(wanted)}")


def _count(text: Any) -> int:
    _require(isinstance(text, str) and bool(re.fullmatch(r"\d{1,7}", text)), "a number that is none")
    _require(int(text) <= MOST, f"{text} of something")
    return int(text)


def _whole(values: Any, length: int) -> NDArray[np.int64]:
    """(length,) of whole numbers."""
    array = np.asarray(values)
    _require(array.shape == (length,) and array.dtype.kind in "iu", "whole numbers of another length")
    return array.astype(np.int64)
