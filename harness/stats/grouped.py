"""Scores per group (patient, lesion, case) beside those per image: one prediction and one label for each group.

A group's probability is the mean over its images, or per class the largest (then scaled to sum to 1 where classes
exclude each other). Its label: positive where any image is, for two classes and for each label of several; for more
classes the one that all its images have, and groups whose images differ are left out. Knows arrays only.

N: rows, G: groups, C: classes.
"""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from harness.metrics import METRICS, UNKNOWN
from harness.stats.intervals import intervals
from harness.types import Interval

Labels = NDArray[np.int64]
Floats = NDArray[np.float64]
How = Literal["none", "mean", "max"]
PREFIX = "group_"


def by_group(y: Labels, p: Floats, groups: NDArray[np.str_], how: How) -> tuple[Labels, Floats, NDArray[np.str_]]:
    """(labels, probabilities, names) of the groups, in the order in which they first appear.

    y (N,) or (N, C), p (N, C), groups (N,) -> (G,) or (G, C), (G, C), (G,).
    """
    names, first, of_row = np.unique(groups, return_index=True, return_inverse=True)
    order = np.argsort(first, kind="stable")
    place = np.empty(len(names), dtype=np.int64)
    place[order] = np.arange(len(names))
    of_row = place[of_row]
    shape = (len(names), p.shape[1])
    if how == "max":
        pooled = np.full(shape, -np.inf)
        np.maximum.at(pooled, of_row, p)
        if y.ndim == 1 and p.shape[1] == 2:
            pooled[:, 0] = 1 - pooled[:, 1]  # what is looked for is the positive class
        elif y.ndim == 1:
            pooled /= pooled.sum(axis=1, keepdims=True)
    else:
        pooled = np.zeros(shape)
        np.add.at(pooled, of_row, p)
        pooled /= np.bincount(of_row, minlength=len(names))[:, None]
    highest = np.full((len(names), *y.shape[1:]), UNKNOWN, dtype=np.int64)
    np.maximum.at(highest, of_row, y)
    keep = np.ones(len(names), dtype=bool)
    if y.ndim == 1 and p.shape[1] > 2:
        lowest = np.full(len(names), p.shape[1], dtype=np.int64)
        np.minimum.at(lowest, of_row, y)
        keep = lowest == highest
    return highest[keep], pooled[keep], names[order][keep]


def all_intervals(
    y: Labels,
    p: Floats,
    groups: NDArray[np.str_],
    seed: int,
    how: How,
    fold: NDArray[np.int64] | None = None,
) -> dict[str, Interval]:
    """Every metric per image, and as `group_NAME` per group, each with its 95% interval.

    fold (N,): the fold of out-of-fold rows, see harness.stats.intervals; a group is in one fold.
    Nothing per group where `how` is none, or where no group has two images: the numbers would be the same.
    """
    found = intervals(y, p, groups, seed, fold=fold)
    if how == "none" or len(np.unique(groups)) == len(groups):
        return found
    group_y, group_p, names = by_group(y, p, groups, how)
    if not len(names):
        return found
    of_group = None if fold is None else dict(zip(groups.tolist(), fold.tolist(), strict=True))
    group_fold = None if of_group is None else np.array([of_group[name] for name in names.tolist()])
    per_group = intervals(group_y, group_p, names, seed, fold=group_fold)
    return found | {f"{PREFIX}{name}": per_group[name] for name in METRICS}
