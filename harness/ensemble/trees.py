"""Boosted trees from a stranger, held to what trees are before XGBoost reads them.

XGBoost takes its own files on trust: one changed byte ends the process, or never ends, because indices, lengths and
links between nodes are used as they stand (measured in docs/bundles.md). So
a file is read here first, by the UBJSON grammar (ubjson.org, as far as XGBoost writes it) within its own length, and
every number in it that XGBoost uses as a place or a length is checked.
"""

import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.errors import RequestError

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
