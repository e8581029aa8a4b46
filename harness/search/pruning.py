"""Whether a running trial is worth the rest of its training: `search.pruner`, as pure functions of scores.

To Optuna a step is a FOLD, and what counts at it is that fold's held-out score. Epochs are compared inside the first
fold only, at the same share of the schedule, and by `race` alone. Higher is better here, as in `racing`.
"""

from collections.abc import Sequence

import numpy as np

from harness.config.spec import Search
from harness.search.racing import Field, Standing, after_folds, inside_first_fold


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
