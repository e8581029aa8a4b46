"""The trials that members were chosen from, on real files: what choosing again without a fold rests on."""

import shutil

import numpy as np
import pytest
from every_method import build_every

from harness.ensemble.build import build
from harness.ensemble.inputs import choose_without, cross_fitted_oof, gather
from harness.ensemble.methods import METHODS
from harness.ensemble.oof import mean_oof, single_oof
from harness.errors import HarnessError
from harness.metrics import METRICS, mean_over_folds
from harness.store.home import Home
from harness.store.records import read_trials
from harness.types import silent

AUROC = METRICS["auroc"].of


@pytest.fixture
def copied(small_study, tmp_path):
    home = Home(tmp_path / "home")
    shutil.copytree(
        small_study.home.root, home.root, ignore=shutil.ignore_patterns("bundles", "embeddings", "test_reads.json")
    )
    return home


def test_members_are_chosen_again_without_each_fold(small_study):
    """top 1 of 2 trials, the recipe written out: for each fold the trial that is better on the other rows."""
    found = gather(small_study.home, [small_study.record], 1, "cpu", silent)
    table = found.pool.table
    assert table.members == 2 and len(found.pool.chosen) == 1
    assert found.pool.members[found.pool.chosen[0]].number == found.members[0].number
    expected = np.full((len(table.y), 2), np.nan)
    for fold in range(3):
        rest = table.fold != fold
        values = [
            mean_over_folds("auroc", table.y[rest], single_oof(table, m)[rest], table.fold[rest])[0] for m in range(2)
        ]
        winner = int(np.argmax(values))
        assert found.choices[fold] == (winner,)
        expected[~rest] = single_oof(table, winner)[~rest]
    for method in ("mean", "weighted", "greedy"):  # of one member they are all that member
        fitted = METHODS[method].fit(found.table, None, 0, None)
        nested = cross_fitted_oof(found.pool, METHODS[method], found.choices, fitted.oof, 0, silent)
        np.testing.assert_allclose(nested, expected, atol=1e-12)


def test_the_best_single_carries_the_worth_of_taking_the_best(small_study):
    found = gather(small_study.home, [small_study.record], 5, "cpu", silent)
    (result,) = build_every(small_study.home, [small_study.record], ["mean"], 5, 0, "cpu")
    singles = result.rows[:2]
    best = max(range(2), key=lambda m: found.members[m].trial.cv["auroc"])
    assert singles[best].selection["auroc"].value == pytest.approx(singles[best].oof["auroc"].value)
    assert singles[best].selection["auroc"].reason == "same-rows" and np.isfinite(singles[best].oof["auroc"].lo)
    assert singles[1 - best].selection is None and singles[1 - best].cross_fitted is None
    choices = choose_without(found.pool, "auroc", 1, together=True)
    p = np.full((len(found.table.y), 2), np.nan)
    for fold, (winner,) in enumerate(choices):
        rows = found.table.fold == fold
        p[rows] = single_oof(found.pool.table, winner)[rows]
    assert singles[best].cross_fitted["auroc"].value == pytest.approx(AUROC(found.table.y, p, None)[0])


def test_a_rival_whose_files_do_not_fit_is_left_out_and_named(copied, small_study):
    trials = sorted(read_trials(copied, "small"), key=lambda trial: trial.cv["auroc"])
    (copied.fold("small", trials[0].run_id, 1) / "predictions.parquet").write_bytes(b"nothing")
    (result,) = build_every(copied, [small_study.record], ["mean"], 1, 0, "cpu")
    assert result.members == [trials[1].number]
    assert any(f"small/trial-{trials[0].number:04d}" in note for note in result.notes)


def test_a_method_that_cannot_be_built_does_not_stop_the_others(copied, small_study):
    """A soup needs two members."""
    built = build(copied, [small_study.record], ["mean", "soup", "weighted"], 1, 0, "cpu")
    assert [result.method for result in built.results] == ["mean", "weighted"]
    assert list(built.refused) == ["soup"] and "two" in built.refused["soup"]
    with pytest.raises(HarnessError, match="two"):  # of a single method nothing is left to build
        build(copied, [small_study.record], ["soup"], 1, 0, "cpu")


def test_the_test_split_s_use_is_counted_once_for_each_ensemble(copied, small_study):
    def reads(methods, top):
        return build_every(copied, [small_study.record], methods, top, 0, "cpu")[0].test_reads

    assert reads(["mean"], 5) == 1
    assert reads(["mean"], 5) == 1  # the same numbers again are no further look
    assert reads(["mean", "greedy"], 5) == 2
    assert reads(["mean"], 1) == 3


def test_costs_and_contributions_are_in_the_result(copied, small_study):
    mean, weighted = build_every(copied, [small_study.record], ["mean", "weighted"], 5, 0, "cpu")
    for result in (mean, weighted):
        assert set(result.cost) == {"fit_seconds", "networks", "seconds_per_image", "megabytes"}
        assert result.cost["networks"] == 6 and result.cost["seconds_per_image"] > 0
        assert [one["member"] for one in result.contributions] == ["trial-0000", "trial-0001"]
    # without the other, a member is all: what it gives the mean is the mean's score less the other's, over the folds
    table = gather(copied, [small_study.record], 5, "cpu", silent).table

    def over_folds(p):
        inside = [table.fold == k for k in np.unique(table.fold)]
        return np.mean([AUROC(table.y[rows], p[rows], None)[0] for rows in inside])

    of_mean, oof = over_folds(mean_oof(table)), [over_folds(single_oof(table, m)) for m in range(2)]
    assert mean.contributions[0]["to_mean"].value == pytest.approx(of_mean - oof[1])
    assert mean.contributions[1]["to_method"].value == pytest.approx(of_mean - oof[0])
