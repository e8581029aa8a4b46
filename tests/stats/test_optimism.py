"""The correction of 'best of M' against simulations whose truth is known: many trials, a search that climbs the noise,
trials that were stopped, chains of fine-tunes. And its parts against other implementations."""

import numpy as np
import pytest

from harness.errors import RequestError
from harness.metrics import mean_over_folds
from harness.stats.optimism import Search, _auroc_noise, best_corrected, corrected_difference, fold_values
from harness.stats.paired import auroc_covariance

K = 4


def probabilities(score):
    p = 1 / (1 + np.exp(-score))
    return np.stack([1 - p, p], -1)


def rows(n):
    """(y, fold, groups) of n patients, one row each."""
    return np.arange(n) % 2, (np.arange(n) // 2) % K, np.arange(n).astype(str)


def values(y, fold, p):
    return np.array([mean_over_folds("auroc", y, one, fold)[0] for one in p])


def climbed(draw, y, fold, trials, stop, apart=0.0):
    """(scores (M, N), places (M, 1)): random places at first, then next to the best one so far. Near places err on the
    same patients. `stop`: a trial behind the best one after its first fold is stopped. All are alike in truth."""
    n = len(y)
    common, waves = draw.normal(size=n), draw.normal(size=(n, 2))
    scores, places, found = [], [], []
    for number in range(trials):
        best = places[int(np.argmax(found))] if number >= 5 else None
        at = draw.random() if best is None else float(np.clip(best + 0.1 * draw.normal(), 0, 1))
        smooth = waves @ np.array([np.cos(6 * at), np.sin(6 * at)])
        score = apart * y + 0.6 * common + 0.6 * smooth + 0.5 * draw.normal(size=n)
        of_fold = fold_values("auroc", y, probabilities(score)[None], fold)[0]
        first = fold_values("auroc", y, probabilities(np.array(scores)), fold)[:, 0] if scores else np.array([0.0])
        stopped = stop and number >= 3 and of_fold[0] < first[int(np.argmax(found))]
        scores.append(np.where(fold == 0, score, np.nan) if stopped else score)
        places.append(at)
        found.append(-1.0 if stopped else float(of_fold.mean()))
    return np.array(scores), np.array(places)[:, None]


@pytest.mark.parametrize("stop", [False, True], ids=["all-complete", "raced"])
def test_a_search_that_climbs_the_noise_comes_back_to_the_truth(stop):
    """A sampler that looks at its results climbs the noise: uncorrected, the best is about .10 too high."""
    naive, corrected, inside = [], [], 0
    y, fold, groups = rows(64)
    studies = 40
    for seed in range(studies):
        scores, places = climbed(np.random.default_rng(seed), y, fold, 16, stop)
        p = probabilities(scores)
        found = best_corrected("auroc", y, fold, groups, Search(p, points=places))
        naive.append(np.nanmax(values(y, fold, p)) - 0.5)
        corrected.append(found.value - 0.5)
        inside += found.lo <= 0.5 <= found.hi
    error = np.std(corrected) / np.sqrt(studies)
    assert np.mean(naive) > 0.08 and error < 0.02
    assert abs(np.mean(corrected)) < 0.005 + 2.5 * error
    assert inside / studies >= 0.85


def test_fine_tunes_of_a_winner_are_not_innocent():
    """Study B is one fine-tune of the best of study A: alone it is as lucky as that one, beside A's trials not."""
    alone, corrected = [], []
    y, fold, groups = rows(64)
    for seed in range(40):
        draw = np.random.default_rng(seed)
        scores, places = climbed(draw, y, fold, 15, stop=False)
        best = int(values(y, fold, probabilities(scores)).argmax())
        tuned = scores[best] + 0.1 * draw.normal(size=len(y))
        p = probabilities(np.vstack([scores, tuned]))
        mine = np.arange(16) == 15
        chain = Search(p, mine, np.vstack([places, places[best]]), np.where(mine, best, -1))
        corrected.append(best_corrected("auroc", y, fold, groups, chain).value - 0.5)
        alone.append(best_corrected("auroc", y, fold, groups, Search(p[mine])).value - 0.5)
    error = np.std(corrected) / np.sqrt(40)
    assert np.mean(alone) > 0.06
    assert abs(np.mean(corrected)) < 0.005 + 2.5 * error


def test_trials_that_truly_differ_keep_their_lead():
    draw, (y, fold, groups) = np.random.default_rng(3), rows(400)
    scores = np.linspace(0, 2, 12)[:, None] * y + draw.normal(size=(12, 400))
    p = probabilities(scores)
    found, seen = best_corrected("auroc", y, fold, groups, Search(p)), values(y, fold, p)
    assert seen.max() - 0.02 < found.value < seen.max() + 0.005 and found.lo < found.value < found.hi


def test_what_was_chosen_among_nothing_is_not_corrected():
    draw, (y, fold, groups) = np.random.default_rng(1), rows(200)
    p = probabilities(2 * y + draw.normal(size=(1, 200)))
    found = best_corrected("auroc", y, fold, groups, Search(p))
    assert found.value == pytest.approx(values(y, fold, p)[0], abs=1e-12) and found.lo < found.value < found.hi
    hopeless = probabilities(np.array([[2.0], [-2.0]]) * y + draw.normal(size=(2, 200)))
    best = best_corrected("auroc", y, fold, groups, Search(hopeless)).value
    assert best == pytest.approx(values(y, fold, hopeless).max(), abs=1e-12)


@pytest.mark.parametrize("metric", ["log_loss", "brier", "accuracy", "auprc", "balanced_accuracy"])
def test_every_metric_is_corrected_to_the_side_that_is_worse(metric):
    draw, (y, fold, groups) = np.random.default_rng(5), rows(120)
    p = probabilities(y - 0.5 + draw.normal(size=(20, 120)))
    seen = np.array([mean_over_folds(metric, y, one, fold)[0] for one in p])
    found = best_corrected(metric, y, fold, groups, Search(p))
    lower = metric in ("log_loss", "brier")
    best = seen.min() if lower else seen.max()
    assert (found.value > best) if lower else (found.value < best)
    assert abs(found.value - best) < 3 * seen.std() + 0.01 and found.lo < found.value < found.hi


def test_the_noise_of_small_folds_is_not_counted_twice():
    """Variance of the AUROC of 4 against 4 at chance: (m + n + 1) / (12 m n). DeLong's estimate is a tenth above it."""
    draw, y = np.random.default_rng(0), np.arange(8) % 2
    groups, here, delong = np.arange(8).astype(str), [], []
    for _ in range(400):
        scores = draw.normal(size=(5, 8))
        here.append(np.diag(_auroc_noise(y == 1, scores, groups)).mean())
        delong.append(np.diag(auroc_covariance(y == 1, scores, groups)[1]).mean())
    truth = 9 / (12 * 16)
    assert np.mean(here) == pytest.approx(truth, rel=0.03) and np.mean(delong) > 1.07 * truth


def test_images_of_one_patient_count_as_one():
    """Each row twice under one group: the same values, so the same correction, and no narrower interval."""
    draw, (y, fold, groups) = np.random.default_rng(7), rows(96)
    p = probabilities(y + draw.normal(size=(8, 96)))
    once = best_corrected("auroc", y, fold, groups, Search(p))
    twice = [np.repeat(one, 2) for one in (y, fold, groups)]
    again = best_corrected("auroc", *twice, Search(np.repeat(p, 2, axis=1)))
    assert again.value == pytest.approx(once.value, abs=0.01)
    assert again.hi - again.lo == pytest.approx(once.hi - once.lo, rel=0.1)


def test_the_difference_of_two_searches_is_that_of_their_values_and_paired():
    draw, (y, fold, groups) = np.random.default_rng(2), rows(160)
    hard = 1.5 * draw.normal(size=160)
    a, b = (Search(probabilities(3 * y + hard + 0.3 * draw.normal(size=(m, 160)))) for m in (9, 7))
    of_a, of_b, delta = corrected_difference("auroc", y, fold, groups, a, b)
    assert of_a == best_corrected("auroc", y, fold, groups, a) and of_b == best_corrected("auroc", y, fold, groups, b)
    assert delta.value == of_a.value - of_b.value
    width_a, width_b, width = (one.hi - one.lo for one in (of_a, of_b, delta))
    assert width < 0.8 * np.hypot(width_a, width_b)  # what is hard for both is no part of it


def test_where_nothing_can_be_said_there_is_a_reason():
    y, fold, groups = rows(40)
    draw = np.random.default_rng(0)
    p = probabilities(draw.normal(size=(3, 40)))
    cut = p.copy()
    cut[:, fold == 2] = np.nan
    assert best_corrected("auroc", y, fold, groups, Search(cut)).reason == "no-complete-trial"
    one_each = np.array([f"{a}{b}" for a, b in zip(y, fold, strict=True)])
    found = best_corrected("auroc", y, fold, one_each, Search(p))
    assert found.reason == "too-few-groups" and np.isnan(found.value)
    perfect = probabilities(np.stack([9.0 * (2 * y - 1)] * 2))
    assert best_corrected("auroc", y, fold, groups, Search(perfect)).reason == "no-noise"
    with pytest.raises(RequestError, match=r"'auroq' does not exist.*auroc"):
        best_corrected("auroq", y, fold, groups, Search(p))
    with pytest.raises(ValueError, match="no trials"):
        best_corrected("auroc", y, fold, groups, Search(np.empty((0, 40, 2))))
