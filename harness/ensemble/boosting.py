"""Boosting: XGBoost on each encoder's own embeddings. The only file that imports xgboost.

Encoder (m, k), fold model k of member m, has an embedding space of its own, so each gets boosters of its own
(honesty rule 5): fitted on the embeddings of the rows the encoder trained on (folds other than k), scored on the
held-out fold k, applied to new rows; probabilities are averaged over encoders. Neither encoder nor booster saw fold k.
Limit, by construction: an encoder separates the rows it trained on better than new ones, so the booster is more
confident than it should be; the trees are shallow and strongly regularised for that reason, and log-loss and Brier
score are printed beside the ranking metrics.

Early stopping watches a fifth of the TRAINING rows, split by group, never the held-out fold. One thread per booster and
a seed from the encoder's name: the same numbers every time. Boosters are stored as UBJSON, which holds no code.
Source: Chen and Guestrin 2016. Knows arrays only.
"""

import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import xgboost
from numpy.typing import NDArray

from harness.ensemble.arrays import pack, unpack
from harness.ensemble.oof import Embed, Fitted, OofTable, check_probabilities, check_table, silent
from harness.errors import HarnessError, RequestError
from harness.records import Progress
from harness.seeds import derive_seed

ROUNDS = 200
PATIENCE = 15
"""rounds without a better log-loss on the watched part before boosting stops"""
WATCHED = 0.2
"""share of the training groups that early stopping watches"""
SETTINGS = {
    "max_depth": 3,
    "eta": 0.1,
    "min_child_weight": 2.0,
    "lambda": 10.0,
    "subsample": 0.7,
    "colsample_bytree": 0.3,
    "max_bin": 64,
    "tree_method": "hist",
    "nthread": 1,
    "verbosity": 0,
}


@dataclass(frozen=True)
class Booster:
    """One encoder's booster over the classes its training rows have; a single class needs no trees."""

    present: NDArray[np.int64]
    """classes, ascending: the booster's label i is class present[i]"""
    classes: int
    ubj: bytes
    """XGBoost's UBJSON; empty where one class only was present"""

    def predict(self, x: NDArray[np.float32]) -> NDArray[np.float64]:
        """(n, D) -> (n, C); absent classes get probability 0."""
        p = np.zeros((len(x), self.classes))
        if len(self.present) == 1:
            p[:, self.present[0]] = 1.0
            return p
        booster = xgboost.Booster({"nthread": 1})
        booster.load_model(bytearray(self.ubj))
        # inplace_predict spares the copy into a DMatrix
        raw = np.asarray(booster.inplace_predict(np.ascontiguousarray(x, dtype=np.float32)), dtype=np.float64)
        p[:, self.present] = np.column_stack([1.0 - raw, raw]) if raw.ndim == 1 else raw
        return np.asarray(p / p.sum(axis=1, keepdims=True))


@dataclass(frozen=True)
class BoostingModel:
    boosters: dict[tuple[int, int], Booster]

    def predict(self, logits: NDArray[np.float32], embed: Embed | None) -> NDArray[np.float64]:
        if embed is None:
            raise HarnessError("boosting predicts from embeddings, and none were given.")
        total = np.zeros(logits.shape[2:])
        for m, k in sorted(self.boosters):
            total += self.boosters[m, k].predict(embed(m, k))
        return total / len(self.boosters)

    def files(self) -> dict[str, bytes]:
        out = {f"booster_{m}_{k}.ubj": booster.ubj for (m, k), booster in self.boosters.items() if booster.ubj}
        arrays: dict[str, NDArray[np.generic]] = {
            f"present_{m}_{k}": booster.present for (m, k), booster in self.boosters.items()
        }
        arrays["classes"] = np.array(next(iter(self.boosters.values())).classes)
        return {**out, "boosting.npz": pack(arrays)}


def fit(table: OofTable, embed: Embed | None, seed: int, progress: Progress | None = None) -> Fitted:
    """embed(m, k) gives the (N, D) embeddings of the development rows by encoder (m, k).

    Raises HarnessError when a member lacks a row.
    """
    check_table(table)
    if embed is None:
        raise HarnessError("boosting is fitted on embeddings, and none were given.")
    report = progress or silent
    jobs = [(m, k) for m in range(table.members) for k in range(table.k) if (table.fold == k).any()]

    def one(job: tuple[int, int]) -> tuple[Booster, NDArray[np.float64]]:
        m, k = job
        x, encoder = embed(m, k), table.encoder_ids[m][k]
        if not np.isfinite(x).all():
            raise HarnessError(f"the embeddings of {encoder} are not finite. Leave that trial out.")
        train, held_out = table.fold != k, table.fold == k
        booster = _fit_encoder(
            x[train], table.y[train], table.groups[train], table.classes, derive_seed(seed, "boosting", encoder)
        )
        return booster, booster.predict(x[held_out])

    boosters: dict[tuple[int, int], Booster] = {}
    oof = np.zeros((len(table.y), table.classes))
    # XGBoost lets go of the interpreter while it works, so threads share the machine without copying embeddings
    pool = ThreadPoolExecutor(min(len(jobs), os.cpu_count() or 1, 8))
    try:
        for done, (job, (booster, p)) in enumerate(zip(jobs, pool.map(one, jobs), strict=True), start=1):
            boosters[job] = booster
            oof[table.fold == job[1]] += p
            report("boosting", done, len(jobs))
    finally:
        pool.shutdown(cancel_futures=True)  # on Ctrl-C only the boosters underway are waited for
    oof /= table.members
    check_probabilities(oof, "boosting, out of fold")
    return Fitted(BoostingModel(boosters), oof, oof)


def _fit_encoder(
    x: NDArray[np.float32], y: NDArray[np.int64], groups: NDArray[np.str_], classes: int, seed: int
) -> Booster:
    present, label = np.unique(y, return_inverse=True)
    if len(present) == 1:
        return Booster(present, classes, b"")
    watched = watched_rows(label, groups, seed)
    objective: dict[str, Any] = {"objective": "binary:logistic", "eval_metric": "logloss"}
    if len(present) > 2:
        objective = {"objective": "multi:softprob", "eval_metric": "mlogloss", "num_class": len(present)}
    settings = {**SETTINGS, **objective, "seed": seed % 2**31}
    fitted = xgboost.DMatrix(x[~watched], label[~watched], nthread=1)
    if not watched.any():
        booster = xgboost.train(settings, fitted, ROUNDS // 4)
    else:
        booster = xgboost.train(
            settings,
            fitted,
            ROUNDS,
            evals=[(xgboost.DMatrix(x[watched], label[watched], nthread=1), "watched")],
            early_stopping_rounds=PATIENCE,
            verbose_eval=False,
        )
        booster = booster[: booster.best_iteration + 1]
    return Booster(present, classes, bytes(booster.save_raw("ubj")))


def watched_rows(label: NDArray[np.int64], groups: NDArray[np.str_], seed: int) -> NDArray[np.bool_]:
    """(n,) a fifth of the groups of each class (by a group's first row), for early stopping. A group is watched whole;
    no class loses its last group; nothing is watched where no class has two groups."""
    rng = np.random.default_rng(seed)
    names, first, group_of = np.unique(groups, return_index=True, return_inverse=True)
    chosen = np.zeros(len(names), dtype=bool)
    for value in np.unique(label[first]):
        own = np.flatnonzero(label[first] == value)
        take = min(max(1, round(WATCHED * len(own))), len(own) - 1)
        chosen[rng.permutation(own)[:take]] = True
    watched = chosen[group_of]
    # a class that sat only in watched groups (groups may hold several classes) would leave the fit without it
    if len(np.unique(label[~watched])) < len(np.unique(label)):
        return np.zeros(len(label), dtype=bool)
    return np.asarray(watched)


def load(files: Mapping[str, bytes]) -> BoostingModel:
    arrays = unpack(files["boosting.npz"], "boosting.npz")
    classes = int(arrays["classes"].astype(np.int64))
    boosters: dict[tuple[int, int], Booster] = {}
    for name, present in arrays.items():
        if not name.startswith("present_"):
            continue
        m, _, k = name.removeprefix("present_").partition("_")
        ubj = files.get(f"booster_{m}_{k}.ubj", b"")
        if len(present) > 1 and not ubj:
            raise RequestError(f"booster_{m}_{k}.ubj is missing. Build the ensemble again.")
        boosters[int(m), int(k)] = Booster(present.astype(np.int64), classes, ubj)
    return BoostingModel(boosters)
