"""Stopping rules as pure functions, against hand-computed cases and scipy."""

import numpy as np
import pytest

from harness.metrics import METRICS
from harness.records import Interval, TrialRecord
from harness.search.best import best_trial
from harness.search.pruning import should_stop
from harness.study.spec import Search


def complete(number, folds, value=None):
    scores = {name: Interval(np.mean(folds) if value is None else value, 0.0, 1.0) for name in METRICS}
    return TrialRecord(number, "complete", {}, f"run{number}", oof=scores, fold_values=list(folds))


BEST = complete(0, [0.80, 0.82, 0.78, 0.81, 0.79])


def stop(values, others=(BEST,), higher=True, folds=5, **search):
    return should_stop(Search(**search), list(values), folds, list(others), higher)


def test_wilcoxon_stops_after_three_worse_folds_and_not_before():
    # one-sided signed-rank p of n differences that are all negative is 2 ** -n
    assert not stop([0.5])
    assert not stop([0.5, 0.5])
    assert stop([0.5, 0.5, 0.5])
    assert stop([0.5, 0.5], pruner_p=0.26)
    assert not stop([0.9, 0.9, 0.9])
    assert not stop([0.79, 0.81, 0.85])


def test_a_trial_equal_to_the_best_goes_on():
    assert not stop(BEST.fold_values[:4])


def test_nothing_is_stopped_after_its_last_fold_without_a_rival_or_on_an_undefined_score():
    assert not stop([0.1] * 5)
    assert not stop([0.1] * 4, others=())
    assert not stop([0.1, np.nan, 0.1])
    assert not stop([0.1] * 4, pruner="none")


def test_losses_are_compared_the_other_way_round():
    assert stop([2.0, 2.0, 2.0], higher=False)
    assert not stop([0.1, 0.1, 0.1], higher=False)


def test_the_rival_is_the_best_complete_trial():
    weak = complete(1, [0.4] * 5)
    assert not stop([0.5] * 4, others=(weak,))
    assert stop([0.5] * 4, others=(weak, BEST))


def test_median_needs_enough_trials_and_two_folds():
    others = [complete(i, [v] * 5) for i, v in enumerate([0.5, 0.6, 0.7])]
    rule = {"pruner": "median", "startup": 3}
    assert stop([0.55, 0.6], others, **rule)
    assert not stop([0.55, 0.7], others, **rule)
    assert not stop([0.1], others, **rule)
    assert not stop([0.1, 0.1], others[:2], **rule)


@pytest.mark.parametrize("seed", range(5))
def test_under_no_difference_wilcoxon_stops_about_as_often_as_it_says(seed):
    rng = np.random.default_rng(seed)
    stopped = 0
    for _ in range(400):
        rival = complete(0, rng.normal(0.8, 0.02, 5))
        stopped += stop(rng.normal(0.8, 0.02, 3), (rival,))
    # P(three of three worse) = 1/8; four standard errors of 400 draws
    assert abs(stopped / 400 - 0.125) < 4 * np.sqrt(0.125 * 0.875 / 400)


def test_best_trial_knows_the_direction_and_skips_what_is_not_complete():
    a, b = complete(0, [0.5] * 5), complete(1, [0.7] * 5)
    pruned = TrialRecord(2, "pruned", {}, "run2", fold_values=[0.9])
    undefined = complete(3, [0.1] * 5, value=np.nan)
    assert best_trial([a, b, pruned, undefined], "auroc").number == 1
    assert best_trial([a, b, pruned, undefined], "log_loss").number == 0
    assert best_trial([pruned, undefined], "auroc") is None
    assert best_trial([complete(4, [0.5] * 5), a], "auroc").number == 0
