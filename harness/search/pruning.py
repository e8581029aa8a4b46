"""Whether a running trial is worth its remaining folds: pure functions of fold scores.

A step is a FOLD, and what counts at it is that fold's held-out score. All trials share the folds, so the scores of two
trials are paired by fold. Epochs are never compared: schedules of different length would not be comparable.
"""

import numpy as np

from harness.records import TrialRecord
from harness.study.search import Search


def should_stop(
    search: Search, values: list[float], folds: int, complete: list[TrialRecord], higher_is_better: bool
) -> bool:
    """True when the finished folds of a trial (`values`, in fold order) say that it will not win.

    wilcoxon: the one-sided signed-rank test (Wilcoxon 1945) of the paired differences to the best complete trial;
    with pruner_p = .13 it can stop a trial after three folds that are all worse.
    median: the mean of the finished folds is worse than the median complete trial's mean over the same folds
    (Golovin et al. 2017, section 3.2.2), from `startup` complete trials and two folds on.
    Nothing is stopped after its last fold, nor on a score that is not defined.
    """
    if search.pruner == "none" or len(values) >= folds or not np.isfinite(values).all():
        return False
    sign = 1.0 if higher_is_better else -1.0
    own = sign * np.array(values)
    others = [sign * np.array(record.fold_values[: len(values)]) for record in complete]
    others = [other for other in others if len(other) == len(own) and np.isfinite(other).all()]
    if not others:
        return False
    if search.pruner == "median":
        enough = len(others) >= search.startup and len(values) >= 2
        return enough and bool(own.mean() < np.median([other.mean() for other in others]))
    best = _best(search, complete, sign)
    if best is None:
        return False
    difference = own - sign * np.array(best.fold_values[: len(values)])
    return bool(difference.any()) and _signed_rank_p(difference) < search.pruner_p


def _best(search: Search, complete: list[TrialRecord], sign: float) -> TrialRecord | None:
    scored = [record for record in complete if np.isfinite(record.oof[search.metric].value)]
    return max(scored, key=lambda record: sign * record.oof[search.metric].value, default=None)


def _signed_rank_p(difference: np.ndarray) -> float:
    """P(W+ <= observed) under symmetry about 0, exact over all sign patterns; zeros count half on either side."""
    from scipy.stats import wilcoxon

    return float(wilcoxon(difference, alternative="less", zero_method="zsplit", method="auto").pvalue)
