"""The correction of 'best of M' against simulations whose truth is known, and against a plain loop."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from harness.errors import RequestError
from harness.metrics import METRICS
from harness.stats.intervals import group_weights
from harness.stats.optimism import best_corrected


def probabilities(score):
    p = 1 / (1 + np.exp(-score))
    return np.stack([1 - p, p], -1)


def test_trials_of_pure_noise_come_back_to_chance():
    rng = np.random.default_rng(0)
    naive, corrected = [], []
    for seed in range(40):
        y = np.arange(80) % 2
        p = probabilities(rng.normal(size=(20, 80)))
        groups = np.arange(80).astype(str)
        naive.append(max(float(METRICS["auroc"].of(y, one, None)[0]) for one in p))
        corrected.append(best_corrected("auroc", y, p, groups, seed, reps=100).value)
    error = np.std(corrected) / np.sqrt(40)
    assert np.mean(naive) > 0.6
    assert abs(np.mean(corrected) - 0.5) < 3 * error + 0.01


def test_a_single_trial_is_not_corrected_away():
    rng = np.random.default_rng(1)
    y = np.arange(300) % 2
    p = probabilities(2 * y + rng.normal(size=(1, 300)))
    found = best_corrected("auroc", y, p, np.arange(300).astype(str), 0)
    assert found.value == pytest.approx(float(METRICS["auroc"].of(y, p[0], None)[0]), abs=0.01)
    assert found.lo < found.value < found.hi


def test_equals_a_plain_loop_over_replicates():
    rng = np.random.default_rng(2)
    y, groups = np.arange(60) % 2, np.repeat(np.arange(20), 3).astype(str)
    p = probabilities(y + rng.normal(size=(4, 60)))
    scores = []
    for w in group_weights(groups, 50, 7):
        inside = [roc_auc_score(y, one[:, 1], sample_weight=w) for one in p]
        out = w == 0
        scores.append(roc_auc_score(y[out], p[int(np.argmax(inside))][out, 1]))
    assert best_corrected("auroc", y, p, groups, 7, reps=50).value == pytest.approx(np.mean(scores), abs=1e-12)


def test_losses_choose_the_smallest_and_one_group_has_no_answer():
    y = np.arange(40) % 2
    good, bad = probabilities(3.0 * (2 * y - 1)), probabilities(np.zeros(40))
    found = best_corrected("log_loss", y, np.stack([bad, good]), np.arange(40).astype(str), 0)
    assert found.value < 0.1
    assert np.isnan(best_corrected("auroc", y, np.stack([bad]), np.array(["one"] * 40), 0).value)


def test_a_trial_that_lacks_a_row_is_never_the_best_and_what_is_no_request_is_refused():
    y, groups = np.arange(40) % 2, np.arange(40).astype(str)
    good, whole = probabilities(3.0 * (2 * y - 1)), probabilities(np.zeros(40))
    good[7] = np.nan
    assert best_corrected("auroc", y, np.stack([good, whole]), groups, 0, reps=50).value == 0.5
    assert np.isnan(best_corrected("auroc", y, good[None], groups, 0, reps=50).value)
    with pytest.raises(RequestError, match=r"'auroq' does not exist.*auroc"):
        best_corrected("auroq", y, whole[None], groups, 0)
    with pytest.raises(ValueError, match="no trials"):
        best_corrected("auroc", y, np.empty((0, 40, 2)), groups, 0)
