"""The distribution that an ensemble answers from, and how it differs from that of its out-of-fold predictions.

Out of fold a row of fold k is predicted by ONE network of each member, the one of fold index k. A new row is predicted
by all K, and the mean of K is less noisy than one, hence less extreme and better. A map or a threshold that was fitted
on the former does not fit the latter: how much it is off depends on how alike the fold models' errors are, and no
development row can tell, for each of them was held out from one fold index only. What can tell:

- rows that no network trained on, without their labels (the held-out test images): by how much the K predictions of one
  image vary about their mean (`as_deployed`);
- development rows predicted by several networks none of which saw them (labelled; `--nested full`).

Knows arrays only. n: rows, M: members, K: fold indices, C: classes.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from harness.metrics import softmax

Floats = NDArray[np.float64]
Parts = Sequence[Sequence[int]]
FARTHEST = 15.0
"""a log-probability further than this from the mean over the classes counts as this far: one saturated network has
one vote, not an infinite one"""


def merged(each: Floats, parts: Parts | None) -> Floats:
    """(P, n, C) means over the fold indices of each part, from (K, n, C): for networks that development rows are known
    to by several at a time (out-of-bag). None: each index is a part."""
    return each if parts is None else np.stack([each[list(part)].mean(axis=0) for part in parts])


def out_of_bag_parts(networks: int) -> list[list[int]]:
    """The networks in parts of as many as a row's out-of-bag mean is of: a bootstrap resample leaves a group out with
    probability 1/e."""
    count = max(1, round(networks / max(1.0, networks / np.e)))
    return [part.tolist() for part in np.array_split(np.arange(networks), min(count, networks))]


def as_deployed(p: Floats, y: NDArray[np.int64], unseen: Floats) -> Floats:
    """(n, C) the development rows as the mean over K networks would spread them.

    p (n, C) by one fold index each, y (n,) their classes; unseen (K, T, C): rows that no network trained on, by every
    fold index. Of the variance within a class, in log-probabilities, the part that one image's K predictions vary by is
    noise of the networks; the mean over K keeps 1/K of it. So each row is drawn towards the mean of its class until
    that is the variance; what averaging probabilities takes off beyond averaging their logarithms is taken off, too.
    (The idea is that of regression calibration under measurement error: Carroll et al. 2006, chapter 4.) It holds for a
    distribution, not for the single row: the result is to fit maps and thresholds on, not to score.
    """
    folds, classes = len(unseen), p.shape[1]
    z, each = centred(p), centred(unseen)
    mean, said = each.mean(axis=0), centred(unseen.mean(axis=0))
    noise = float(each.var(axis=0, ddof=1).sum(axis=1).mean())
    flatter = float((said * mean).sum() / max((mean * mean).sum(), 1e-12))
    present = np.unique(y)
    middle = np.zeros((classes, classes))
    for c in present:
        middle[c] = z[y == c].mean(axis=0)
    apart = z - middle[y]
    within = float((apart**2).sum() / max(len(y) - len(present), 1))
    kept = 1 - noise * (1 - 1 / folds) / within if within > 0 else 1.0
    return softmax(flatter * (middle[y] + np.sqrt(np.clip(kept, 1 / folds, 1.0)) * apart))


def alike(unseen: Floats) -> float:
    """How alike the K predictions of a row are: the correlation within rows of log-probabilities, from (K, T, C). 1:
    all fold models say the same; NaN below two fold indices or rows."""
    folds, rows = unseen.shape[:2]
    if folds < 2 or rows < 2:
        return float("nan")
    each = centred(unseen)
    noise = float(each.var(axis=0, ddof=1).sum(axis=1).mean())
    between = float(each.mean(axis=0).var(axis=0, ddof=1).sum()) - noise / folds
    return float(max(between, 0.0) / (max(between, 0.0) + noise + 1e-12))


def centred(p: Floats) -> Floats:
    """Log-probabilities (..., C), centred over the classes."""
    z = np.log(np.maximum(p, np.exp(-2 * FARTHEST)))
    return np.asarray(np.clip(z - z.mean(axis=-1, keepdims=True), -FARTHEST, FARTHEST))
