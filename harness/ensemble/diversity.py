"""Diversity of members, and the contribution of each.

How different the members of an ensemble are: what one gets wrong, do the others get right?

Members that err alike gain nothing from being averaged. Every number here is of out-of-fold predictions: of rows that
no member has trained on. An answer is a row's most probable class; in a multi-label task each known label of a row is
an answer of its own, yes or no.

Sources: Kuncheva and Whitaker 2003, "Measures of diversity in classifier ensembles" (disagreement, double fault, Q,
correlation of being right); Krogh and Vedelsby 1995 (ambiguity: the squared error of the mean is the members' own less
their spread around it, which holds exactly for the Brier score). Knows arrays only. N: rows, M: members, C: classes.

What each member gives to an ensemble: the ensemble's score less that of the same ensemble without the member.

Scored out of fold, by fits that never saw the row's fold. A member may be good and give nothing (others say the same),
or be weak and give much. Knows arrays only. M: members, N: rows, C: classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from harness.metrics import UNKNOWN
from harness.stats.paired import paired_differences
from harness.types import Interval

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Diversity:
    """Pairwise (M, M) numbers are symmetric; NaN where a pair has none, as on the diagonal of all but double_fault."""

    disagreement: Floats
    """share of answers that differ"""
    double_fault: Floats
    """share of answers that both get wrong; on the diagonal each member's own share of wrong answers"""
    q: Floats
    """Yule's Q of being right: 1 where they err on the same rows, 0 where independently, below 0 on different ones"""
    error_correlation: Floats
    """correlation of being right, in -1..1"""
    residual_correlation: Floats
    """correlation of probability minus truth, which answers hide where no member changes its mind"""
    members_brier: float
    """mean over members of their own Brier scores"""
    ambiguity: float
    """mean squared distance of the members from their mean; members_brier - ambiguity is the mean's Brier score"""


def diversity(y: NDArray[np.int64], p: Floats) -> Diversity:
    """y (N,) or in a multi-label task (N, C), p (N, M, C) out-of-fold probabilities."""
    right, answers = _answers(y, p)
    n, members = right.shape
    both, neither = right.T @ right, (1 - right).T @ (1 - right)  # (M, M) counts
    only = right.T @ (1 - right)
    agreed = sum(((answers == value).astype(np.float64).T @ (answers == value)) for value in np.unique(answers))
    disagreement = 1.0 - np.asarray(agreed) / n
    above, below = both * neither - only * only.T, both * neither + only * only.T
    q = np.divide(above, below, out=np.full_like(above, np.nan), where=below > 0)
    residuals, scale = _residuals(y, p)
    spread = residuals - residuals.mean(axis=1, keepdims=True)
    return Diversity(
        disagreement=_off_diagonal(disagreement),
        double_fault=neither / n,
        q=_off_diagonal(q),
        error_correlation=_off_diagonal(_correlation(right)),
        residual_correlation=_off_diagonal(_correlation(residuals)),
        members_brier=float((residuals**2).sum() / members / scale),
        ambiguity=float((spread**2).sum() / members / scale),
    )


def mean_over_pairs(pairs: Floats) -> float:
    """The mean of a symmetric (M, M) measure over pairs of different members; NaN where no pair has a number."""
    upper = pairs[np.triu_indices(len(pairs), 1)]
    defined = upper[np.isfinite(upper)]
    return float(defined.mean()) if len(defined) else float("nan")


def _answers(y: NDArray[np.int64], p: Floats) -> tuple[Floats, NDArray[np.int64]]:
    """(n, M) 1 where a member is right, and (n, M) its answer."""
    if y.ndim == 1:
        answers = p.argmax(axis=2)
        return (answers == y[:, None]).astype(np.float64), answers
    rows, labels = np.nonzero(y != UNKNOWN)
    answers = (p[rows, :, labels] > 0.5).astype(np.int64)
    return (answers == y[rows, labels][:, None]).astype(np.float64), answers


def _residuals(y: NDArray[np.int64], p: Floats) -> tuple[Floats, float]:
    """(n, M) probability minus truth, and what the sum of their squares is divided by to be the Brier score of
    metrics.METRICS. With two classes only the second one counts; a multi-label task weighs its labels equally."""
    if y.ndim == 2:
        known = y != UNKNOWN
        rows, labels = np.nonzero(known)
        weight = 1.0 / np.sqrt(known.sum(axis=0)[labels])
        return (p[rows, :, labels] - y[rows, labels][:, None]) * weight[:, None], float(y.shape[1])
    if p.shape[2] == 2:
        return p[:, :, 1] - y[:, None], float(len(y))
    truth = np.eye(p.shape[2])[y]
    return (p - truth[:, None]).swapaxes(1, 2).reshape(-1, p.shape[1]), float(len(y))


def _correlation(columns: Floats) -> Floats:
    """(M, M) of (n, M); NaN where a column does not vary."""
    centred = columns - columns.mean(axis=0)
    covariance = centred.T @ centred
    scale = np.sqrt(np.outer(np.diag(covariance), np.diag(covariance)))
    return np.asarray(np.divide(covariance, scale, out=np.full_like(covariance, np.nan), where=scale > 0))


def _off_diagonal(pairs: Floats) -> Floats:
    out = np.array(pairs, dtype=np.float64)
    np.fill_diagonal(out, np.nan)
    return out


def means_without(p: Floats) -> Floats:
    """(M, N, C) for each member the mean of the others, from p (N, M, C). Raises ValueError for a single member."""
    members = p.shape[1]
    if members < 2:
        raise ValueError("without its only member an ensemble is none")
    return np.asarray((p.sum(axis=1, keepdims=True) - p).swapaxes(0, 1) / (members - 1))


def contributions(
    metric: str,
    y: NDArray[np.int64],
    whole: Floats,
    without: Sequence[Floats],
    groups: NDArray[np.str_],
    seed: int,
    fold: NDArray[np.int64] | None = None,
    reason: str = "",
) -> list[Interval]:
    """M differences of the metric, the whole ensemble (N, C) minus it without a member (M arrays (N, C)), with the 95%
    interval of stats.paired.paired_differences. For log_loss and brier a useful member's difference is negative. NaN
    where the metric is not defined.

    fold (N,): given where the rows are out-of-fold predictions of several models. reason: the code of why these
    predictions are no estimate; the differences are then values without an interval.
    """
    nothing = float("nan")
    found = paired_differences(metric, y, [(whole, one) for one in without], groups, seed, fold=fold)
    if reason:
        return [Interval(one.value, nothing, nothing, reason=reason) for one in found]
    return [Interval(one.value, one.lo, one.hi, one.coverage, one.reason) for one in found]
