"""Folds that start from an earlier study's: which checkpoint, and every way to have seen what is scored."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import PIL.Image
import pytest
import safetensors.torch
import torch

from harness.config.data import Data
from harness.config.load import check_study
from harness.config.spec import Model
from harness.data.people import FILE, write_people
from harness.data.prepare import prepare
from harness.errors import RequestError
from harness.models.network import build_network
from harness.search.corrected import competition, corrected_best
from harness.search.run import run_study
from harness.search.warm_start import find_start, pin_starts, pinned, refuse_own_checkpoint, resolve_start, start_file
from harness.stats.optimism import best_corrected
from harness.store.home import Home
from harness.store.records import best_trial, read_study, read_trials, write_study, write_trial
from harness.train.checkpoint import NO_FOLD, SEVERAL, load_fold, save_weights

CLASSES = ("normal", "bleed")
BACKBONE = "test_resnet"
NETWORK = Model(backbone=BACKBONE, weights="study:small")


@pytest.fixture
def home(small_study, tmp_path):
    """A copy of a home in which study `small` ran: two trials, three folds."""
    shutil.copytree(small_study.home.root, tmp_path / "home")
    return Home(tmp_path / "home")


def phantom(home, seed=0, **keys):
    return ready(home, seed, root="phantom", classes=list(CLASSES), group="patient", **keys)


def ready(home, seed=0, **keys):
    data = {"folds": 3, "decode": {"size": 32, "channels": 1}, **keys}
    return prepare(Data.model_validate(data), seed, home, lambda what, done, total: None)


def other_data(folder, patient="other-{}", copies=()):
    """24 pictures of 12 patients that no other data set has, with copies of given files in place of the first."""
    rng = np.random.default_rng(1)
    folder.mkdir()
    lines = ["file,label,patient"]
    for number in range(24):
        PIL.Image.fromarray(rng.integers(0, 255, (32, 32), dtype=np.uint8)).save(folder / f"{number}.png")
        lines.append(f"{number}.png,{CLASSES[number // 2 % 2]},{patient.format(number // 2)}")
    for number, file in enumerate(copies):
        shutil.copy(file, folder / f"{number}.png")
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")
    return {"root": str(folder), "group": "patient", "classes": list(CLASSES)}


def test_fold_k_starts_from_fold_k_of_the_best_trial(home):
    folder = resolve_start("study:small", BACKBONE, home, phantom(home))
    best = best_trial(read_trials(home, "small"), "auroc")
    assert folder == home.run_artifacts("small", best.run_id)
    for fold in range(3):
        path = start_file(folder, fold)
        assert path == home.fold("small", best.run_id, fold) / "weights.safetensors"
        stored = safetensors.torch.load_file(path)
        network = build_network(NETWORK, 2, 1, 32, seed=9, start=path, class_names=CLASSES)
        assert stored.keys() == network.state_dict().keys()
        assert all(torch.equal(tensor, stored[name]) for name, tensor in network.state_dict().items())


def test_a_head_for_other_classes_starts_anew(home):
    path = start_file(find_start("study:small", BACKBONE, home).folder, 0)
    stored = safetensors.torch.load_file(path)
    for names, classes in ((("normal", "tumour"), 2), (("a", "b", "c"), 3), ((), 2)):
        state = build_network(NETWORK, classes, 1, 32, seed=9, start=path, class_names=names).state_dict()
        fresh = build_network(Model(backbone="test_resnet"), classes, 1, 32, seed=9).state_dict()
        assert all(torch.equal(state[n], stored[n]) for n in state if n.startswith("backbone."))
        assert torch.equal(state["head.weight"], fresh["head.weight"])


def test_a_pooling_and_a_head_may_be_new(home):
    path = start_file(find_start("study:small", BACKBONE, home).folder, 1)
    model = NETWORK.model_copy(update={"pooling": "gem", "head": "mlp"})
    network = build_network(model, 2, 1, 32, seed=9, start=path, class_names=CLASSES)
    stored = safetensors.torch.load_file(path)
    shared = [name for name in network.state_dict() if name in stored and name.startswith("backbone.")]
    assert len(shared) == len([name for name in stored if name.startswith("backbone.")])
    assert all(torch.equal(network.state_dict()[name], stored[name]) for name in shared)


def test_another_architecture_is_refused_with_what_does_not_fit(home):
    path = start_file(find_start("study:small", BACKBONE, home).folder, 0)
    with pytest.raises(RequestError, match=r"(?s)holds test_resnet, and \d+ .*backbone\..*model.backbone=test_resnet"):
        build_network(NETWORK.model_copy(update={"backbone": "resnet10t"}), 2, 1, 32, 0, start=path)
    with pytest.raises(RequestError, match=r"(?s)1 of its tensors.* 16x1x3x3 there, 16x3x3x3 here.*channels \(1\)"):
        build_network(NETWORK, 2, 3, 32, 0, start=path)
    with pytest.raises(RequestError, match=r"gone.safetensors is not there"):
        build_network(NETWORK, 2, 1, 32, 0, start=path.with_name("gone.safetensors"))


@pytest.mark.parametrize("asked", ["study:small/0", "study:small/1"])
def test_a_trial_by_its_number(home, asked):
    record = read_trials(home, "small")[int(asked[-1])]
    assert resolve_start(asked, BACKBONE, home, phantom(home)) == home.run_artifacts("small", record.run_id)


def test_a_study_of_several_backbones_means_its_best_trial_of_the_same_one(home):
    """The other trial is made the better one, of another backbone: the choice must not fall on it."""
    record, trials = read_study(home, "small"), read_trials(home, "small")
    best = best_trial(trials, record.tree["search"]["metric"])
    other = next(trial for trial in trials if trial is not best)
    write_trial(home, "small", replace(best, params={**best.params, "model.backbone": "resnet10t"}))
    assert find_start("study:small", BACKBONE, home).number == other.number
    assert find_start("study:small", f"timm/{BACKBONE}", home).number == other.number
    assert find_start("study:small", "resnet10t", home).number == best.number
    with pytest.raises(
        RequestError, match=r"(?s)no complete trial of study 'small' has a resnet18 \(there: .*resnet10t"
    ):
        find_start("study:small", "resnet18", home)
    pins = pin_starts(["none", "study:small", "study:small/0"], [BACKBONE, "resnet10t"], home)
    assert pins == {
        f"study:small {BACKBONE}": f"study:small/{other.number}",
        "study:small resnet10t": f"study:small/{best.number}",
    }
    began = replace(record, starts=pins)
    assert pinned("study:small", "resnet10t", began) == f"study:small/{best.number}"
    assert pinned("none", "resnet10t", began) == "none"


def test_what_a_trial_started_from_is_what_that_meant_then(home):
    """Trials that came later may be better ones; the network began with another."""
    record, best = read_study(home, "small"), best_trial(read_trials(home, "small"), "auroc")
    tree = {**record.tree, "model": {**record.tree["model"], "weights": "study:older"}}
    write_study(home, replace(record, tree=tree, starts={f"study:older {BACKBONE}": "study:older/5"}))
    start = find_start("study:small", BACKBONE, home)
    assert (start.number, start.weights) == (best.number, "study:older/5")


@pytest.mark.parametrize(
    ("asked", "saying"),
    [
        ("study:smal", "has not run.*small"),
        ("study:small/7", r"no complete trial 7 \(complete: 0, 1\)"),
        ("study:", "write study:NAME"),
        ("study:small/best", "write study:NAME"),
    ],
)
def test_a_trial_that_is_not_there(home, asked, saying):
    with pytest.raises(RequestError, match=saying):
        find_start(asked, BACKBONE, home)


def test_a_trial_without_its_files(home):
    shutil.rmtree(start_file(find_start("study:small/1", BACKBONE, home).folder, 2).parent)
    with pytest.raises(RequestError, match=r"trial 1 has lost its files \(1 of 3"):
        find_start("study:small/1", BACKBONE, home)


@pytest.mark.parametrize("keys", [{"seed": 1}, {"folds": 4}, {"test_fraction": 0.4}])
def test_the_same_images_in_other_folds_are_refused_with_numbers(home, keys):
    seen = len(
        pd.concat([pd.read_parquet(p) for p in find_start("study:small", BACKBONE, home).folder.glob("*/*.parquet")])
    )
    with pytest.raises(RequestError, match=rf"trained on {seen} of this study's \d+ images .*test split.*seed \(0\)"):
        resolve_start("study:small", BACKBONE, home, phantom(home, **keys))


def test_other_images_of_other_patients_are_welcome(home, tmp_path):
    data = ready(home, folds=4, **other_data(tmp_path / "other"))
    folder = resolve_start("study:small", BACKBONE, home, data)
    assert [start_file(folder, fold).parent.name for fold in range(4)] == ["fold_0", "fold_1", "fold_2", "fold_0"]


def test_copies_of_its_images_are_found_by_their_content(home, tmp_path, small_study):
    seen = pd.read_parquet(find_start("study:small", BACKBONE, home).folder / "fold_1" / "predictions.parquet")["id"]
    data = other_data(tmp_path / "other", copies=[small_study.images / name for name in seen[:3]])
    with pytest.raises(RequestError, match=r"trained on 3 of this study's 24 images and on 0 of its 12 groups"):
        resolve_start("study:small", BACKBONE, home, ready(home, **data))


def test_other_images_of_its_patients_are_refused(home, tmp_path, small_study):
    known = pd.read_csv(small_study.images / "labels.csv", dtype=str)
    seen = pd.read_parquet(find_start("study:small", BACKBONE, home).folder / "fold_1" / "predictions.parquet")["id"]
    patient = known.set_index("file").loc[seen[0], "patient"]
    data = other_data(tmp_path / "other")
    labels = tmp_path / "other" / "labels.csv"
    labels.write_text(labels.read_text().replace("other-3", patient))
    with pytest.raises(
        RequestError, match=r"trained on 0 of this study's 24 images and on 1 of its 12 groups: 2 images"
    ):
        resolve_start("study:small", BACKBONE, home, ready(home, **data))


def test_equal_file_names_are_no_people_where_there_are_no_groups(home, tmp_path):
    """Both data sets call their files 0.png to 23.png and keep copies together; no picture is in both."""
    first, second = (other_data(tmp_path / name) for name in ("first", "second"))
    for number in range(24):
        place, shade = tmp_path / "second" / f"{number}.png", np.random.default_rng(100 + number)
        PIL.Image.fromarray(shade.integers(0, 255, (32, 32), dtype=np.uint8)).save(place)
    for name in ("first", "second"):
        shutil.copy(tmp_path / name / "0.png", tmp_path / name / "1.png")
    keys = {"group": "none", "copies": "together", "acknowledge": {"exact_duplicate": "made so on purpose"}}
    small = read_study(home, "small").tree
    tree = {**small, "name": "first", "data": {**small["data"], **first, **keys}}
    tree["search"] = {**tree["search"], "trials": 1}
    assert run_study(check_study(tree, "first"), home, 1, "cpu", lambda event: None).state == "complete"
    groups = ready(home, **{**first, **keys}).dataset.groups
    assert len(set(groups)) == 23  # the copies are one group, by the name of a file
    assert resolve_start("study:first", BACKBONE, home, ready(home, **{**second, **keys}))
    with pytest.raises(RequestError, match="trained on"):
        resolve_start("study:first", BACKBONE, home, ready(home, seed=3, **{**first, **keys}))


def test_what_it_started_from_itself_counts_too(home, tmp_path):
    """small (phantom) -> middle (other data) -> phantom in other folds: the grandparent has seen the images."""
    other = ready(home, **other_data(tmp_path / "other"))
    record, trial = read_study(home, "small"), read_trials(home, "small")[0]
    shutil.copytree(home.run_artifacts("small", trial.run_id), home.run_artifacts("middle", trial.run_id))
    for fold in range(3):
        rows = other.folds.held_out_rows(fold)
        table = pd.DataFrame({"id": other.dataset.ids[rows], "group": other.dataset.groups[rows]})
        table.to_parquet(home.fold("middle", trial.run_id, fold) / "predictions.parquet")

    def middle(weights):
        tree = {**record.tree, "name": "middle", "model": {**record.tree["model"], "weights": weights}}
        hashes = {"data_hash": other.dataset.data_hash, "folds_hash": other.folds.folds_hash}
        write_study(home, replace(record, name="middle", tree=tree, caches=list(other.caches), **hashes))
        write_trial(home, "middle", trial)
        write_people(home, "middle", other.dataset)

    def with_four_folds():
        copied = home.run_artifacts("middle", trial.run_id)
        shutil.copytree(copied / "fold_0", copied / "fold_3")
        record = read_study(home, "middle")
        write_study(home, replace(record, tree={**record.tree, "data": {**record.tree["data"], "folds": 4}}))

    middle("none")
    assert resolve_start("study:middle", BACKBONE, home, phantom(home, seed=1))
    middle("study:small")
    assert resolve_start("study:middle", BACKBONE, home, phantom(home))  # fold k comes from fold k of the same folds
    with pytest.raises(RequestError, match=r"study:middle: trial \d of study 'small' was trained on"):
        resolve_start("study:middle", BACKBONE, home, phantom(home, seed=1))
    with_four_folds()  # now fold k does not come from fold k all the way
    with pytest.raises(RequestError, match=r"trial \d of study 'small' was trained on"):
        resolve_start("study:middle", BACKBONE, home, phantom(home))


def test_epochs_chosen_on_the_scored_fold_are_no_honest_start(home):
    record = read_study(home, "small")
    write_study(home, replace(record, tree={**record.tree, "train": {**record.tree["train"], "select": "scored_fold"}}))
    with pytest.raises(RequestError, match=r"chose its epochs on the folds that it is scored on"):
        resolve_start("study:small", BACKBONE, home, phantom(home))


def test_a_store_that_was_cleared_away_is_asked_for(home):
    for cache in read_study(home, "small").caches:
        shutil.rmtree(home.pixels / cache)
    with pytest.raises(RequestError, match=r"no longer known.*harness study run small"):
        resolve_start("study:small", BACKBONE, home, phantom(home, seed=1, decode={"size": 16, "channels": 1}))


def test_a_fold_checkpoint_by_its_path_is_refused(home):
    path = start_file(find_start("study:small/1", BACKBONE, home).folder, 2)
    with pytest.raises(RequestError, match=r"fold 2 of trial 1 of study 'small'.*Write model.weights=study:small/1"):
        refuse_own_checkpoint(path, home)


def test_a_fold_checkpoint_of_another_home_is_refused_whatever_data_it_names(home, tmp_path):
    """Nearly the same data have another hash: what such a network has seen stands nowhere in its file."""
    network, meta = load_fold(start_file(find_start("study:small/1", BACKBONE, home).folder, 2))
    path = tmp_path / "foreign.safetensors"
    save_weights(path, network, replace(meta, study="elsewhere", data_hash="of one image more"))
    with pytest.raises(RequestError, match=r"study 'elsewhere', which this home .*HARNESS_HOME=.*study:elsewhere"):
        refuse_own_checkpoint(path, home)
    tree = read_study(home, "small").tree
    tree = {**tree, "name": "flattered", "model": {**tree["model"], "weights": str(path)}}
    with pytest.raises(RequestError, match=r"study 'elsewhere', which this home"):
        run_study(check_study(tree, "flattered"), home, 1, "cpu", lambda event: None)
    with pytest.raises(RequestError, match=r"is a fold checkpoint"):
        build_network(Model(backbone=BACKBONE, weights=str(path)), 2, 1, 32, seed=0)


def test_a_home_that_has_forgotten_its_patients_takes_nobody_for_a_stranger(home):
    (home.work("small") / FILE).unlink()
    with pytest.raises(RequestError, match=r"no longer known.*harness study run small"):
        resolve_start("study:small", BACKBONE, home, phantom(home, seed=1))


def test_a_soup_of_all_folds_is_no_start_for_any_fold(home, tmp_path):
    """It has seen what each of them holds out; the soup of one fold is refused like any fold model."""
    network, meta = load_fold(start_file(find_start("study:small/1", BACKBONE, home).folder, 2))
    save_weights(tmp_path / "soup.safetensors", network, replace(meta, trial=SEVERAL, fold=NO_FOLD))
    with pytest.raises(RequestError, match=r"made over all folds of study 'small'.*or study:small, where"):
        refuse_own_checkpoint(tmp_path / "soup.safetensors", home)
    save_weights(tmp_path / "soup.safetensors", network, replace(meta, trial=SEVERAL))
    with pytest.raises(RequestError, match=r"Write model.weights=study:small:"):
        refuse_own_checkpoint(tmp_path / "soup.safetensors", home)


def test_a_study_that_was_really_run_starts_each_fold_from_its_own(home):
    """All stages but the head frozen: after training the backbone of fold k is still that of the earlier fold k."""
    record = read_study(home, "small")
    tree = {**record.tree, "name": "second", "optim": {"lr": 1e-3}, "search": {**record.tree["search"], "trials": 1}}
    tree["model"] = {**tree["model"], "weights": "study:small/1"}
    tree["train"] = {**tree["train"], "freeze": 5}
    assert run_study(check_study(tree, "second"), home, 1, "cpu", lambda event: None).state == "complete"
    old, new = find_start("study:small/1", BACKBONE, home).folder, find_start("study:second", BACKBONE, home).folder
    for fold in range(3):
        before, after = (safetensors.torch.load_file(start_file(folder, fold)) for folder in (old, new))
        assert all(torch.equal(before[name], after[name]) for name in before if name.startswith("backbone."))
        assert not torch.equal(before["head.weight"], after["head.weight"])
        assert not torch.equal(after["backbone.conv1.0.weight"], safetensors.torch.load_file(
            start_file(new, fold + 1))["backbone.conv1.0.weight"])  # fmt: skip


def test_a_chain_of_starts_is_corrected_for_the_choice_at_its_beginning(home):
    """Study B, one tiny fine-tune of the best of A, was chosen among A's trials too: never shown as one lucky trial."""
    record = read_study(home, "small")
    tree = {**record.tree, "name": "second", "optim": {"lr": 1e-5}, "search": {**record.tree["search"], "trials": 1}}
    tree["model"] = {**tree["model"], "weights": "study:small"}
    run_study(check_study(tree, "second"), home, 1, "cpu", lambda event: None)
    second = read_study(home, "second")
    assert second.corrected["studies"] == ["small", "second"] and second.corrected["among"] == 3
    whole, alone = competition(home, second), competition(home, read_study(home, "small"))
    best = find_start("study:small", BACKBONE, home).number
    assert whole.search.parents.tolist() == [-1, -1, best] and whole.search.candidates.tolist() == [False, False, True]
    assert np.array_equal(whole.search.p[:2], alone.search.p)
    expected = best_corrected("auroc", whole.y, whole.fold, whole.groups, whole.search)
    assert second.corrected["value"] == expected.value != read_trials(home, "second")[0].cv["auroc"]
    said = program(home, "study", "show", "second")
    assert f"{expected.value:.3f} [{expected.lo:.3f}, {expected.hi:.3f}]" in said
    # what cannot be known is null with its reason, never a number
    write_study(home, replace(record, folds_hash="else"))
    assert corrected_best(home, second)["reason"] == "start-folds-differ"
    write_study(home, replace(record, data_hash="else"))  # other patients: then choosing there looked at nobody here
    assert corrected_best(home, second)["studies"] == ["second"]
    write_study(home, record)
    shutil.rmtree(home.study_artifacts("small"))
    assert corrected_best(home, second)["reason"] == "start-predictions-gone"
    shutil.rmtree(home.work("small"))
    gone = corrected_best(home, second)
    assert gone["reason"] == "start-study-gone" and np.isnan(gone["value"])
    write_study(home, replace(second, corrected=gone))
    shown = json.loads(program(home, "study", "show", "second", "--json"))["best_corrected"]
    assert shown["value"] is None and shown["reason"] == "start-study-gone"
    assert "no value corrected for that" in program(home, "study", "show", "second")


def program(home, *arguments):
    environment = {**os.environ, "HARNESS_HOME": str(home.root), "OMP_NUM_THREADS": "1", "COLUMNS": "500"}
    done = subprocess.run(
        [sys.executable, "-m", "harness", *arguments], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
