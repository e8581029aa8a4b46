"""Fold racing: the chance that a running trial still overtakes the best one. Pure functions of scores.

All trials share the folds, so two trials are compared fold by fold, and what is at stake is the mean difference over
all K folds. The folds to come are predicted from those seen; the first fold, while it is trained, from its curve. In
this file higher is better: losses come in with their sign turned round. Races of models on paired cases: Maron and
Moore 1994, Birattari et al. 2002.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

LEAST_CURVES = 4
"""earlier trials that finished their first fold, before curves are believed"""
SMALLEST = 0.01
"""the least variance that is believed, as a share of the median one: a copy of the best trial has none"""


@dataclass(frozen=True)
class Runner:
    """What is known of an earlier trial."""

    number: int
    folds: tuple[float, ...]
    """scores of its finished folds, in fold order"""
    score: float
    """mean over all K folds, by which trials are ranked; NaN unless the trial is complete"""
    curve: tuple[float, ...] = ()
    """score on the first held-out fold after each epoch"""
    epochs: int = 0
    """of its schedule; the curve is shorter where training stopped early"""


@dataclass(frozen=True)
class Field:
    """What a running trial is judged by. It changes only when a trial ends."""

    k: int
    rival: Runner
    """the best complete trial"""
    others: tuple[Runner, ...]
    variance: float
    """of one fold's difference to the rival, as it is for a typical trial"""
    freedom: float
    """how many degrees of freedom that variance is worth for a trial that is not known yet"""


@dataclass(frozen=True)
class Standing:
    """How a trial stands against the best one."""

    rival: int
    lead: float
    """the expected difference over all folds; negative when behind"""
    chance: float
    """of a final score above the rival's"""
    seen: float
    """the share of the trial's training that this is known from"""


def make_field(past: Sequence[Runner], k: int) -> Field | None:
    """Sum up the trials that have ended; None while none of them is complete.

    Variances of trials differ. They are shrunk towards a common one, by as much as they agree (Smyth 2004): where
    they agree, a new trial is judged after one fold; where they do not, it first has to show its own.
    """
    whole = [r for r in past if np.isfinite(r.score) and len(r.folds) == k and np.isfinite(r.folds).all()]
    if not whole:
        return None
    rival = max(whole, key=lambda runner: (runner.score, -runner.number))
    others = tuple(r for r in past if r.number != rival.number and r.folds and np.isfinite(r.folds).all())
    # as if folds were not paired: too large, so careful, and after a few trials one value among many
    variances, freedoms = [2 * float(np.var(rival.folds, ddof=1))], [k - 1]
    for other in others:
        difference = np.subtract(other.folds, rival.folds[: len(other.folds)])
        if len(difference) > 1:
            variances.append(float(np.var(difference, ddof=1)))
            freedoms.append(len(difference) - 1)
    variance, freedom = common_variance(np.array(variances), np.array(freedoms, float))
    return Field(k, rival, others, variance, freedom)


def after_folds(own: Sequence[float], field: Field) -> Standing | None:
    """How a trial stands after its first n folds, 0 < n < K; None where that cannot be said.

    The differences are normal with unknown mean and variance, so that the mean over all K folds, n of them seen, has a
    t distribution about the mean of those n with variance s^2 (K - n) / (K n).
    """
    n, k = len(own), field.k
    if not 0 < n < k or not np.isfinite(own).all():
        return None
    difference = np.subtract(own, field.rival.folds[:n])
    lead = float(difference.mean())
    freedom = field.freedom + n - 1
    variance = (field.freedom * field.variance + float(((difference - lead) ** 2).sum())) / freedom
    return _standing(field, lead, variance * (k - n) / (k * n), freedom, n / k)


def inside_first_fold(value: float, epoch: int, epochs: int, field: Field) -> Standing | None:
    """How a trial stands after an epoch (from 0) of its first fold; None where that cannot be said.

    Trials are compared at the same share of their schedules, which may differ in length. How far the difference there
    is from the fold's final one is known from earlier trials' curves, in mean square; this trial's own catching up
    all the way counts as one case more (Laplace's rule of succession), because slow learners may not have been seen.
    """
    share = (epoch + 1) / epochs
    if share >= 1:
        return None
    rival = field.rival
    there = _at(rival, share)
    lead = value - there
    errors = np.array([other.folds[0] - rival.folds[0] - (_at(other, share) - there) for other in field.others])
    known = errors[np.isfinite(errors)]
    if len(known) < LEAST_CURVES or not np.isfinite(lead):
        return None
    by_curve = float(np.square(known).sum() + lead**2) / (len(known) + 1)
    by_folds = field.variance * (field.k - 1) / field.k
    # degrees of freedom of a sum of two variances: Satterthwaite 1946
    freedom = (by_curve + by_folds) ** 2 / (by_curve**2 / len(known) + by_folds**2 / field.freedom or np.inf)
    return _standing(field, lead, by_curve + by_folds, freedom, share / field.k)


def _standing(field: Field, lead: float, variance: float, freedom: float, seen: float) -> Standing | None:
    from scipy.special import stdtr

    if variance <= 0:
        return None
    return Standing(field.rival.number, lead, float(stdtr(freedom, lead / np.sqrt(variance))), seen)


def _at(runner: Runner, share: float) -> float:
    """A curve's value at a share of its schedule; NaN before its first epoch has ended."""
    shares = np.arange(1, len(runner.curve) + 1) / max(runner.epochs, 1)
    if not len(shares) or share < shares[0] - 1e-9:
        return float("nan")
    return float(np.interp(share, shares, runner.curve))


def common_variance(variances: NDArray[np.float64], freedoms: NDArray[np.float64]) -> tuple[float, float]:
    """The prior s0^2 and its degrees of freedom d0, from variances s_j^2 ~ s0^2 F(d_j, d0): Smyth 2004, section 6.2."""
    from scipy.optimize import brentq
    from scipy.special import digamma, polygamma

    if len(variances) < 2 or not np.median(variances) > 0:
        return float(variances.mean()), 1.0
    half = freedoms / 2
    logs = np.log(np.maximum(variances, SMALLEST * np.median(variances))) - digamma(half) + np.log(half)
    beyond = logs.var(ddof=1) - polygamma(1, half).mean()
    most = half.sum()
    agree = beyond <= polygamma(1, most)
    d0 = 2 * float(most if agree else brentq(lambda x: polygamma(1, x) - beyond, 1e-3, most))
    return float(np.exp(logs.mean() + digamma(d0 / 2) - np.log(d0 / 2))), d0
