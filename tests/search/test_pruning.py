"""Stopping rules as pure functions, against hand-computed cases and scipy."""

import math

import numpy as np
import pytest

from harness.config.spec import Search
from harness.metrics import METRICS
from harness.search.pruners import Runner, make_field, stop_after_epoch, stop_after_folds
from harness.store.records import best_trial
from harness.types import TrialRecord


def runner(number, folds, score=None, curve=(), epochs=0):
    return Runner(number, tuple(folds), float(np.mean(folds)) if score is None else score, tuple(curve), epochs)


BEST = runner(0, [0.80, 0.82, 0.78, 0.81, 0.79])


def stop(values, others=(BEST,), k=5, pruner="wilcoxon", **search):
    return stop_after_folds(Search(pruner=pruner, **search), list(values), make_field(others, k))


def test_wilcoxon_stops_after_three_worse_folds_and_not_before():
    # one-sided signed-rank p of n differences that are all negative is 2 ** -n
    assert not stop([0.5])
    assert not stop([0.5, 0.5])
    assert stop([0.5, 0.5, 0.5]) == "0.300 behind trial 0 after 3 of 5 folds, signed-rank p 0.125"
    assert stop([0.5, 0.5], pruner_p=0.26)
    assert not stop([0.9, 0.9, 0.9])
    assert not stop([0.79, 0.81, 0.85])


@pytest.mark.parametrize("pruner", ["race", "wilcoxon", "median"])
def test_nothing_is_stopped_after_its_last_fold_without_a_rival_or_on_an_undefined_score(pruner):
    others = [BEST, *(runner(i, np.add(BEST.folds, 0.01 * i - 0.2)) for i in range(1, 9))]
    assert stop([0.1] * 4, others, pruner=pruner)
    assert not stop(BEST.folds[:4], others, pruner=pruner)
    assert not stop([0.1] * 5, others, pruner=pruner)
    assert not stop([], others, pruner=pruner)
    assert not stop([0.1] * 4, (), pruner=pruner)
    assert not stop([0.1, math.nan, 0.1], others, pruner=pruner)
    assert not stop([0.1] * 4, others, pruner="none")


def test_the_rival_is_the_best_complete_trial():
    weak, unfinished = runner(1, [0.4] * 5), runner(2, [0.99] * 4, score=math.nan)
    assert not stop([0.5] * 4, (weak, unfinished))
    assert stop([0.5] * 4, (weak, BEST, unfinished))


def test_median_needs_enough_trials_and_two_folds():
    others = [runner(i, [v] * 5) for i, v in enumerate([0.5, 0.6, 0.7])]
    rule = {"pruner": "median", "startup": 3}
    assert stop([0.55, 0.6], others, **rule) == "0.025 behind the median of 3 trials after 2 of 5 folds"
    assert not stop([0.55, 0.7], others, **rule)
    assert not stop([0.1], others, **rule)
    assert not stop([0.1, 0.1], others[:2], **rule)


@pytest.mark.parametrize("seed", range(5))
def test_under_no_difference_wilcoxon_stops_about_as_often_as_it_says(seed):
    rng = np.random.default_rng(seed)
    stopped = 0
    for _ in range(400):
        rival = runner(0, rng.normal(0.8, 0.02, 5))
        stopped += bool(stop(rng.normal(0.8, 0.02, 3), (rival,)))
    # P(three of three worse) = 1/8; four standard errors of 400 draws
    assert abs(stopped / 400 - 0.125) < 4 * np.sqrt(0.125 * 0.875 / 400)


CURVE = [0.5, 0.6, 0.7, 0.8]


def test_a_hopeless_curve_stops_its_trial_inside_the_first_fold_and_the_reason_says_where():
    past = [BEST, *(runner(i, np.add(BEST.folds, 0.002 * i - 0.05)) for i in range(1, 41))]
    past = [Runner(r.number, r.folds, r.score, tuple(np.add(CURVE, r.folds[0] - 0.8)), 4) for r in past]
    field = make_field(past, 5)
    why = stop_after_epoch(Search(), 0.2, 2, 4, field)
    assert why.startswith("0.530 behind trial 40 after 3 of 4 epochs of fold 0, chance to overtake it")
    assert not stop_after_epoch(Search(), 0.2, 3, 4, field)  # the fold is done: its score comes at no cost
    assert not stop_after_epoch(Search(), math.nan, 2, 4, field)
    assert not stop_after_epoch(Search(), 0.2, 2, 4, None)
    for pruner in ("wilcoxon", "median", "none"):
        assert not stop_after_epoch(Search(pruner=pruner), 0.2, 2, 4, field)


def test_a_larger_race_p_stops_more_and_less_seen_asks_for_more():
    past = [BEST, *(runner(i, np.add(BEST.folds, np.resize([0.02, -0.03, 0.01], 5) - 0.03)) for i in range(1, 9))]
    p = [0.001, 0.01, 0.1, 0.5, 0.9]
    stopped = [bool(stop([0.76, 0.79], past, pruner="race", race_p=value)) for value in p]
    assert stopped == sorted(stopped) and not stopped[0] and stopped[-1]


def complete(number, folds, value=None):
    scores = dict.fromkeys(METRICS, float(np.mean(folds)) if value is None else value)
    return TrialRecord(number, "complete", {}, f"run{number}", cv=scores, fold_values=list(folds))


def test_best_trial_knows_the_direction_and_skips_what_is_not_complete():
    a, b = complete(0, [0.5] * 5), complete(1, [0.7] * 5)
    pruned = TrialRecord(2, "pruned", {}, "run2", fold_values=[0.9])
    undefined = complete(3, [0.1] * 5, value=np.nan)
    assert best_trial([a, b, pruned, undefined], "auroc").number == 1
    assert best_trial([a, b, pruned, undefined], "log_loss").number == 0
    assert best_trial([pruned, undefined], "auroc") is None
    assert best_trial([complete(4, [0.5] * 5), a], "auroc").number == 0
