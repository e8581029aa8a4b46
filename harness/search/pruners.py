"""When a trial is stopped early: race, wilcoxon, median.

Whether a running trial is worth the rest of its training: `search.pruner`, as pure functions of scores.

To Optuna a step is a FOLD, and what counts at it is that fold's held-out score. Epochs are compared inside the first
fold only, at the same share of the schedule, and by `race` alone. Higher is better here, as in `racing`.

Fold racing: the chance that a running trial still overtakes the best one. Pure functions of scores.

All trials share the folds, so two trials are compared fold by fold, and what is at stake is the mean difference over
all K folds. The folds to come are predicted from those seen; the first fold, while it is trained, from its curve. In
this file higher is better: losses come in with their sign turned round. Races of models on paired cases: Maron and
Moore 1994, Birattari et al. 2002.

Who tells running trials to stop: what pruning needs to know of earlier trials, kept ready for it.

It knows only what is on disk of trials that have ended, so that a study that was killed and resumed decides the same.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from harness.config.spec import Search
from harness.metrics import METRICS
from harness.store.home import Home
from harness.store.records import read_epochs
from harness.types import EpochReport, TrialRecord, rank_value

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


def stop_after_folds(search: Search, own: Sequence[float], field: Field | None) -> str:
    """Why a trial stops after its first n folds, whose scores are `own`; '' when it goes on.

    race: its chance to overtake the best complete trial (`racing.after_folds`) is below race_p x n / K.
    wilcoxon: the one-sided signed-rank test (Wilcoxon 1945) of the paired differences to the best complete trial;
    with pruner_p = .13 it can stop a trial after three folds that are all worse.
    median: the mean of the finished folds is worse than the median complete trial's mean over the same folds
    (Golovin et al. 2017, section 3.2.2), from `startup` complete trials and two folds on.
    Nothing is stopped after its last fold, on a score that is not defined, or before a trial is complete.
    """
    if search.pruner == "none" or field is None or not 0 < len(own) < field.k or not np.isfinite(own).all():
        return ""
    when = f"after {len(own)} of {field.k} folds"
    if search.pruner == "race":
        return _too_unlikely(search, after_folds(own, field), when)
    if search.pruner == "wilcoxon":
        return _signed_rank(search, own, field, when)
    return _below_median(search, own, field, when)


def stop_after_epoch(search: Search, value: float, epoch: int, epochs: int, field: Field | None) -> str:
    """Why a trial stops after an epoch (from 0) of its first fold; '' when it goes on. Only `race` looks at epochs."""
    if search.pruner != "race" or field is None:
        return ""
    when = f"after {epoch + 1} of {epochs} epochs of fold 0"
    return _too_unlikely(search, inside_first_fold(value, epoch, epochs, field), when)


def _too_unlikely(search: Search, standing: Standing | None, when: str) -> str:
    """What is known from little has to be the surer: the chance asked for grows with the share of the training seen."""
    if standing is None or standing.chance >= search.race_p * standing.seen:
        return ""
    chance = f"{standing.chance:.3f}" if standing.chance >= 0.001 else "below 0.001"
    return f"{-standing.lead:.3f} behind trial {standing.rival} {when}, chance to overtake it {chance}"


def _signed_rank(search: Search, own: Sequence[float], field: Field, when: str) -> str:
    from scipy.stats import wilcoxon

    difference = np.subtract(own, field.rival.folds[: len(own)])
    if not difference.any():
        return ""
    # P(W+ <= observed) under symmetry about 0, exact over all sign patterns; zeros count half on either side
    p = float(wilcoxon(difference, alternative="less", zero_method="zsplit", method="auto").pvalue)
    behind = f"{-difference.mean():.3f} behind trial {field.rival.number} {when}, signed-rank p {p:.3f}"
    return behind if p < search.pruner_p else ""


def _below_median(search: Search, own: Sequence[float], field: Field, when: str) -> str:
    n = len(own)
    complete = [runner for runner in (field.rival, *field.others) if np.isfinite(runner.score)]
    if n < 2 or len(complete) < search.startup:
        return ""
    behind = float(np.median([np.mean(runner.folds[:n]) for runner in complete]) - np.mean(own))
    return f"{behind:.3f} behind the median of {len(complete)} trials {when}" if behind > 0 else ""


class Referee:
    """Of one study with K folds. Trials that failed, and copies, say nothing about others."""

    def __init__(self, home: Home, study: str, search: Search, k: int, ended: Iterable[TrialRecord]) -> None:
        self._home, self._study, self._search, self._k = home, study, search, k
        self._sign = 1.0 if METRICS[search.metric].higher_is_better else -1.0
        self._past: list[Runner] = []
        self._field: Field | None = None
        for record in ended:
            self._add(record)
        self._field = make_field(self._past, k)

    def ended(self, record: TrialRecord) -> None:
        """A trial has ended: later ones are judged by it, too."""
        self._add(record)
        self._field = make_field(self._past, self._k)

    def after_epoch(self, report: EpochReport) -> str:
        """Why the trial stops; '' when it goes on."""
        if report.fold > 0:
            return ""
        value = self._sign * report.val[self._search.metric]
        return stop_after_epoch(self._search, value, report.epoch, report.epochs, self._field)

    def after_fold(self, values: Sequence[float]) -> str:
        """Why the trial stops after the folds with these scores; '' when it goes on."""
        return stop_after_folds(self._search, [self._sign * value for value in values], self._field)

    def _add(self, record: TrialRecord) -> None:
        says = record.state in ("complete", "pruned") and record.same_as is None and record.fold_values
        if self._search.pruner == "none" or not says:
            return
        metric, sign = self._search.metric, self._sign
        first = []
        if self._search.pruner == "race":
            epochs = read_epochs(self._home, self._study, record.number)
            first = [logged.report for logged in epochs if logged.report.fold == 0]
        self._past.append(
            Runner(
                record.number,
                folds=tuple(sign * value for value in record.fold_values),
                score=sign * rank_value(record, metric),
                curve=tuple(sign * report.val[metric] for report in first),
                epochs=first[-1].epochs if first else 0,
            )
        )
