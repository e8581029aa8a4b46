"""Attempts to get a better score than is deserved, each made with real files: every one must be refused or seen."""

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from every_method import build_every

from harness.config.load import check_study
from harness.data.prepare import prepare
from harness.ensemble.build import build, fit_method, score_candidates
from harness.ensemble.inputs import Gathered, gather
from harness.ensemble.methods import METHODS
from harness.errors import Leak
from harness.store.files import is_done
from harness.store.home import Home
from harness.store.records import read_trials, write_trial
from harness.train.checkpoint import digest, load_fold, save_weights
from harness.train.inference import infer
from harness.types import silent

EVERY_METHOD = pytest.mark.parametrize("method", sorted(METHODS))


@pytest.fixture
def copied(small_study, tmp_path):
    """A copy of the home, to spoil."""
    home = Home(tmp_path / "home")
    shutil.copytree(small_study.home.root, home.root, ignore=shutil.ignore_patterns("bundles", "embeddings"))
    return home


def folds_of(home: Home, number: int = 0) -> list[Path]:
    record = next(trial for trial in read_trials(home, "small") if trial.number == number)
    return [home.fold("small", record.run_id, fold) for fold in range(3)]


def forget_fingerprints(home: Home) -> None:
    """As if an earlier version had trained the trials, or the cheat had been written into the ledger, too."""
    for trial in read_trials(home, "small"):
        write_trial(home, "small", dataclasses.replace(trial, files={}))


def refused(home: Home, small_study, method: str, saying: str) -> None:
    with pytest.raises(Leak, match=saying):
        build_every(home, [small_study.record], [method], 5, 0, "cpu")
    folder = home.bundles("small")
    assert not folder.exists() or not [path for path in folder.iterdir() if is_done(path)]


def plant_perfect_predictions(path: Path, share: float = 1.0) -> None:
    """Logits that give the label away, for a share of the rows; rows, labels and groups stay as they are."""
    table = pd.read_parquet(path)
    logits = np.stack(table["logits"])
    edited = np.random.default_rng(0).uniform(size=len(table)) < share
    logits[edited] = 6.0 * np.eye(logits.shape[1], dtype=np.float32)[table["y"].to_numpy()][edited]
    table["logits"] = list(logits)
    table.to_parquet(path)


@EVERY_METHOD
def test_a_fold_model_in_the_wrong_place_is_refused(copied, small_study, method):
    """Fold models 0 and 1 change places: each would be scored on rows it trained on."""
    first, second, _ = folds_of(copied)
    (first / "weights.safetensors").rename(first / "aside")
    (second / "weights.safetensors").rename(first / "weights.safetensors")
    (first / "aside").rename(second / "weights.safetensors")
    refused(copied, small_study, method, r"trial 0, fold 0: the checkpoint .* says fold 1, not 0.*refused")


@EVERY_METHOD
def test_a_fold_model_that_saw_the_rows_and_poses_as_another_is_refused(copied, small_study, method):
    """Fold model 1, which trained on fold 0, takes fold model 0's place and description, and the predictions of fold 0
    are what it says: every file fits every other one. Only the fingerprints of training know better."""
    first, second, _ = folds_of(copied)
    network, _ = load_fold(second / "weights.safetensors")
    _, meta = load_fold(first / "weights.safetensors")
    spec = check_study(small_study.record.tree, "small").spec
    data = prepare(spec.data, spec.seed, copied, silent)
    logits, _ = infer(network, meta, np.array(data.pixels[data.folds.held_out_rows(0)]))
    save_weights(first / "weights.safetensors", network, dataclasses.replace(meta, encoder_id=digest(network)))
    table = pd.read_parquet(first / "predictions.parquet")
    table["logits"] = list(logits)
    table.to_parquet(first / "predictions.parquet")
    refused(copied, small_study, method, r"trial 0: .* is not the file that its training wrote")


@EVERY_METHOD
@pytest.mark.parametrize("remembered", [True, False], ids=["fingerprints", "none"])
def test_a_network_that_did_not_make_its_predictions_is_refused(copied, small_study, method, remembered):
    """The checkpoint says it is fold 0 of trial 0, but holds another network."""
    path = folds_of(copied)[0] / "weights.safetensors"
    network, meta = load_fold(path)
    with torch.no_grad():
        network.head.bias += torch.tensor([3.0, -3.0])
    save_weights(path, network, dataclasses.replace(meta, encoder_id=digest(network)))
    if not remembered:
        forget_fingerprints(copied)
    saying = "is not the file that its training wrote" if remembered else "its network gives other logits.*refused"
    refused(copied, small_study, method, saying)


@EVERY_METHOD
@pytest.mark.parametrize("remembered", [True, False], ids=["fingerprints", "none"])
def test_perfect_predictions_that_no_network_made_are_refused(copied, small_study, method, remembered):
    plant_perfect_predictions(folds_of(copied, 1)[2] / "predictions.parquet")
    if not remembered:
        forget_fingerprints(copied)
    saying = (
        "is not the file that its training wrote" if remembered else "trial 1, fold 2: its network gives other logits"
    )
    refused(copied, small_study, method, saying)


def test_a_tenth_of_the_rows_edited_is_enough_to_be_refused(copied, small_study):
    plant_perfect_predictions(folds_of(copied, 1)[2] / "predictions.parquet", share=0.1)
    forget_fingerprints(copied)
    refused(copied, small_study, "mean", "trial 1, fold 2: its network gives other logits")


def test_predictions_edited_after_the_outputs_were_kept_are_refused(copied, small_study):
    """What the networks say is kept on disk from an earlier build, and not computed again."""
    forget_fingerprints(copied)
    build_every(copied, [small_study.record], ["mean"], 5, 0, "cpu")
    shutil.rmtree(copied.bundles("small"))
    plant_perfect_predictions(folds_of(copied)[1] / "predictions.parquet")
    refused(copied, small_study, "stacking", "trial 0, fold 1: its network gives other logits")


@EVERY_METHOD
def test_predictions_of_rows_that_a_fold_trained_on_are_refused(copied, small_study, method):
    first, second, _ = folds_of(copied)
    shutil.copyfile(second / "predictions.parquet", first / "predictions.parquet")
    forget_fingerprints(copied)
    refused(copied, small_study, method, r"trial 0, fold 0: .* would leak: refused")


def test_a_build_of_all_methods_stops_at_a_leak(copied, small_study):
    """A leak is no reason to leave one method out: what every method rests on is spoiled."""
    plant_perfect_predictions(folds_of(copied)[0] / "predictions.parquet")
    with pytest.raises(Leak):
        build(copied, [small_study.record], list(METHODS), 5, 0, "cpu")


@pytest.fixture(scope="module")
def gathered(small_study) -> Gathered:
    return gather(small_study.home, [small_study.record], 5, "cpu", silent)


@EVERY_METHOD
def test_nothing_is_chosen_by_the_test_split(gathered, small_study, method):
    """With the test split's labels turned over, everything fitted or chosen is the same to the last bit."""
    turned = dataclasses.replace(gathered, test=dataclasses.replace(gathered.test, y=1 - gathered.test.y))

    def made(found: Gathered):
        candidate = fit_method(method, METHODS[method], found, 0, silent)
        (result,) = score_candidates(small_study.home, found, [candidate], "cpu", 0, silent)
        return candidate, result

    (one, scored), (other, turned_scored) = made(gathered), made(turned)
    assert one.model.files() == other.model.files()
    for name in ("oof", "selection", "cross_fitted", "test"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    # as text, which is exact for floats: a value without an interval has NaN ends, and NaN is not equal to itself
    assert scored.members == turned_scored.members and str(scored.contributions) == str(turned_scored.contributions)
    assert [row.name for row in scored.rows] == [row.name for row in turned_scored.rows]
    chosen = [[row.cross_fitted is not None for row in result.rows] for result in (scored, turned_scored)]
    assert chosen[0] == chosen[1] and sum(chosen[0][:2]) == 1
    assert [str((row.oof, row.selection, row.cross_fitted)) for row in scored.rows] == [
        str((row.oof, row.selection, row.cross_fitted)) for row in turned_scored.rows
    ]
    assert scored.rows[-1].test["auroc"].value == pytest.approx(1 - turned_scored.rows[-1].test["auroc"].value)
