"""Gradient-boosted trees over the classes that their rows have. The only file that imports xgboost.

Early stopping watches a fifth of the rows' GROUPS and never a row that is scored later. XGBoost wants labels 0, 1, 2,
... without gaps, and a fold may lack a class: the trees are fitted over the classes present, and say which those are.
One thread for each fit, and seeds that are given: the same trees every time. What is kept is UBJSON, which holds no
code.

The trees may start from a prior guess instead of the class shares: a row's log-probabilities by somebody else, to which
the trees add corrections ("base margin"). They must then be given the same for new rows.
Source: Chen and Guestrin 2016. Knows arrays only.
"""

import json
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import xgboost
from numpy.typing import NDArray

from harness.errors import RequestError
from harness.numbering import by_appearance, first_rows

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
    """From a file that harness.ensemble.trees has checked. Raises RequestError where XGBoost itself refuses it."""
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
