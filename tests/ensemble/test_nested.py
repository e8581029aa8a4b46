"""Scores that count the choice: equal to the recipe written out, and where networks are shared between folds no
estimate, as random labels show."""

import numpy as np
import pytest

from benchmarks.nested_null import cross_fitted, failures, fully_nested, null_study
from harness.ensemble.methods import METHODS
from harness.ensemble.nested import PairTable, best, nested_full, stitched, values_without, without_fold
from harness.errors import RequestError
from harness.metrics import METRICS, mean_over_folds, softmax

AUROC = METRICS["auroc"].of


def test_a_trial_is_valued_by_its_mean_over_the_other_folds() -> None:
    rng = np.random.default_rng(0)
    y, fold = rng.integers(0, 3, 90), rng.integers(0, 4, 90)
    p = [softmax(rng.normal(size=(90, 3))) for _ in range(5)]
    found = values_without("auroc", y, p, fold, 4)
    for trial in range(5):
        for k in range(4):
            kept = fold != k
            expected = mean_over_folds("auroc", y[kept], p[trial][kept], fold[kept])[0]
            assert found[trial, k] == pytest.approx(expected)
    y[fold == 2] = 1  # not defined in fold 2: only without it is there a value
    assert np.isfinite(values_without("auroc", y, p, fold, 4)).tolist() == [[False, False, True, False]] * 5


def test_the_best_of_each_study_and_the_first_of_equals() -> None:
    values = np.array([0.7, 0.9, 0.8, 0.8, np.nan, 0.1])
    parts = ["a", "a", "a", "a", "b", "b"]
    assert best("auroc", values, parts, 2) == (1, 2, 5)
    assert best("log_loss", values, parts, 2) == (0, 2, 5)
    assert best("auroc", values, parts, 9) == (0, 1, 2, 3, 5)
    assert best("auroc", np.full(6, np.nan), parts, 2) == ()


def test_choices_that_return_are_fitted_once_and_rows_come_from_their_own() -> None:
    fold = np.array([0, 1, 2, 0, 1, 2])
    fitted = []

    def out_of_fold(chosen: tuple[int, ...]) -> np.ndarray:
        fitted.append(chosen)
        return np.full((6, 1), float(sum(chosen)))

    known = {(0, 1): np.full((6, 1), 100.0)}
    found = stitched([(0, 1), (2, 3), (2, 3)], fold, known, out_of_fold)
    assert found[:, 0].tolist() == [100, 5, 5, 100, 5, 5]
    assert fitted == [(2, 3)]
    assert list(known) == [(0, 1)]


def test_the_best_of_forty_coins_is_a_coin() -> None:
    """40 trials of pure noise, 100 times: the winner's own score flatters, its nested score is at chance."""
    own, nested = [], []
    for seed in range(100):
        rng = np.random.default_rng(seed)
        y, fold = rng.integers(0, 2, 120), np.arange(120) % 5
        p = [softmax(rng.normal(size=(120, 2))) for _ in range(40)]
        values = values_without("accuracy", y, p, fold, 5)
        choices = [best("accuracy", values[:, k], ["s"] * 40, 1) for k in range(5)]
        out = stitched(choices, fold, {}, lambda chosen, p=p: p[chosen[0]])
        (winner,) = best("accuracy", np.array([METRICS["accuracy"].of(y, one, None)[0] for one in p]), ["s"] * 40, 1)
        own.append(METRICS["accuracy"].of(y, p[winner], None)[0])
        nested.append(METRICS["accuracy"].of(y, out, None)[0])
    assert np.mean(own) > 0.58
    # accuracy of 120 coins has a standard deviation of .046; of its mean over 100 studies, .0046 to .006
    assert abs(np.mean(nested) - 0.5) < 0.02


def test_nothing_of_the_scored_fold_is_read() -> None:
    """Labels of fold k, and logits of networks that have seen it, may be anything: its predictions are the same."""
    study = null_study(3, 30, members=3, k=4)
    pairs = study.pairs
    for name in ("stacking", "bagging"):
        method = METHODS[name]
        embed = study.pair_embed if method.needs_embeddings else None
        told = nested_full(method.fit, pairs, embed, 0)
        for k in (0, 3):
            y, logits = pairs.y.copy(), pairs.logits.copy()
            y[pairs.fold == k] = 1 - y[pairs.fold == k]
            others = [j for j in range(4) if j != k]
            seen = np.ix_(pairs.fold != k, others)
            logits[seen] = np.where(np.isnan(logits[seen]), np.nan, 9.0)
            turned = nested_full(method.fit, PairTable(y, pairs.groups, pairs.fold, logits, pairs.names), embed, 0)
            np.testing.assert_array_equal(turned[pairs.fold == k], told[pairs.fold == k])
            assert not np.array_equal(turned, told)


def test_the_table_without_a_fold_is_an_ordinary_one() -> None:
    study = null_study(1, 30, members=2, k=4)
    table = without_fold(study.pairs, 1)
    assert table.k == 3 and sorted(set(table.fold.tolist())) == [0, 1, 2] and np.isfinite(table.logits).all()
    assert table.encoder_ids[1] == ("m1-0-1", "m1-1-2", "m1-1-3")
    assert study.pairs.deployed().shape == (len(study.pairs.y), 3, 2, 2) and np.isfinite(study.pairs.deployed()).all()


def test_a_pair_of_two_folds_leaves_nothing() -> None:
    y, names = np.arange(8) % 2, (("", "a"), ("a", ""))
    pairs = PairTable(y, y.astype(str), np.arange(8) // 4, np.zeros((8, 2, 1, 2), dtype=np.float32), (names,))
    with pytest.raises(RequestError, match="three folds"):
        nested_full(METHODS["mean"].fit, pairs, None, 0)


def test_on_random_labels_shared_networks_score_too_well_and_networks_trained_again_do_not() -> None:
    """20 simulated studies, truth .5. Standard errors are of the means over studies: about .02 for a score, .012 for
    the difference of the two scores of one study. benchmarks/nested_null.py is the same with more studies."""
    found = []
    for seed in range(20):
        study = null_study(seed, 40, k=4)
        y, fold = study.table.y, study.table.fold
        scores = [
            [mean_over_folds("auroc", y, make(method, study), fold)[0] for make in (cross_fitted, fully_nested)]
            for method in ("best single", "greedy")
        ]
        found.append(scores)
    values = np.array(found)  # (studies, methods, 2)
    error = values.std(axis=0, ddof=1) / np.sqrt(len(values))
    assert (np.abs(values.mean(axis=0)[:, 1] - 0.5) < 0.01 + 2.5 * error[:, 1]).all()
    assert (values[:, :, 0] - values[:, :, 1]).mean() > 0.03


def test_a_cell_that_misses_the_goal_is_named() -> None:
    good = {"auroc": 0.505, "mc_error": 0.001, "called_better": 0.05}
    rows = [
        {"patients": 40, "method": "greedy", "studies": 200, "nested_full": good},
        {"patients": 40, "method": "stacking", "studies": 200, "nested_full": {**good, "auroc": 0.53}},
        {"patients": 100, "method": "stacking", "studies": 200, "nested_full": {**good, "called_better": 0.2}},
    ]
    assert failures(rows) == ["stacking, 40 patients: AUROC 0.53", "stacking, 100 patients: called better in 0.2"]
