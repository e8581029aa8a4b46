"""Soups of a study that was really trained, against an independent one: torch's update_bn, numpy's mean, loops."""

import dataclasses
import itertools
import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from every_method import build_every
from fine_tunes import fine_tuned, start_file
from sklearn.metrics import log_loss

from harness.ensemble.bundle import load_bundle, predict_bundle
from harness.ensemble.inputs import Gathered, gather
from harness.ensemble.new_networks import make_soup
from harness.errors import RequestError
from harness.metrics import softmax
from harness.store.home import Home
from harness.store.records import StudyRecord
from harness.train.batches import to_input
from harness.train.checkpoint import NO_FOLD, SEVERAL, digest, load_fold, read_meta
from harness.types import silent


@dataclasses.dataclass
class Fine:
    home: Home
    record: StudyRecord
    found: Gathered

    def copy(self, place: Path) -> Home:
        """Of the home, to build in."""
        ignored = shutil.ignore_patterns("soups", "bundles")
        shutil.copytree(self.home.root, place, ignore=ignored, dirs_exist_ok=True)
        return Home(place)


@pytest.fixture(scope="module")
def fine(tmp_path_factory) -> Fine:
    folder = tmp_path_factory.mktemp("fine")
    home = Home(folder / "home")
    home.root.mkdir()
    record = fine_tuned(home, str(start_file(folder)))
    return Fine(home, record, gather(home, [record], 5, "cpu", silent))


@pytest.fixture(scope="module")
def built(fine):
    names = ["soup", "soup-greedy"]
    return dict(zip(names, build_every(fine.home, [fine.record], names, 5, 0, "cpu"), strict=True))


def reference(found: Gathered, members, parts, train, rows) -> np.ndarray:
    """(n, C) probabilities of `rows` by the mean of the members' networks `parts`; batch norm measured on `train`."""
    networks, metas = zip(*(load_fold(found.members[m].weights(k)) for m in members for k in parts), strict=True)
    network = networks[0]
    if len(networks) > 1:
        state = {}
        for name, tensor in network.state_dict().items():
            every = np.stack([one.state_dict()[name].numpy() for one in networks])
            state[name] = torch.from_numpy(every.mean(axis=0)).to(tensor.dtype) if every.dtype.kind == "f" else tensor
        network.load_state_dict(state)
    mean, std = (tuple(np.mean([getattr(meta, part) for meta in metas], axis=0)) for part in ("mean", "std"))
    pixels = torch.from_numpy(np.array(found.data.pixels)).permute(0, 3, 1, 2)
    if len(networks) > 1:  # update_bn gives each batch one say: here by its rows
        measured = {name: 0.0 for name in network.state_dict() if "running" in name}
        for part in torch.tensor(train).split(64):
            torch.optim.swa_utils.update_bn([to_input(pixels[part], mean, std, torch.channels_last)], network)
            for name in measured:
                measured[name] = measured[name] + network.state_dict()[name].clone() * len(part) / len(train)
        network.load_state_dict({**network.state_dict(), **measured})
    with torch.no_grad():
        return softmax(network.eval()(to_input(pixels[rows], mean, std, torch.channels_last)).numpy())


def stored(result, split):
    table = pd.read_parquet(result.bundle / "predictions.parquet")
    return np.stack(table.loc[table["split"] == split, "probabilities"])


def reference_oof(found: Gathered, choices) -> np.ndarray:
    """(N, C) of soup `choices[k]` of fold k, for each fold."""
    folds, development = found.data.folds, found.data.folds.development_rows()
    p = np.full((len(found.data.dataset.y), 2), np.nan)
    for k, members in enumerate(choices):
        p[folds.held_out_rows(k)] = reference(found, members, [k], folds.train_rows(k), folds.held_out_rows(k))
    return p[development]


def test_the_fixture_is_what_these_tests_need(fine):
    """Fine-tunes of two folds and two trials have one start; those of random weights share it within a fold only."""
    ids = {meta.start_id for row in fine.found.metas for meta in row}
    assert len(fine.found.members) == 3 and len(ids) == 1 and ids != {""}
    assert len({meta.encoder_id for row in fine.found.metas for meta in row}) == 9


def test_random_starts_are_shared_within_a_fold_and_a_backbone_only(small_study, tmp_path):
    found = gather(small_study.home, [small_study.record], 5, "cpu", silent)
    starts = [[meta.start_id for meta in row] for row in found.metas]
    assert starts[0] == starts[1] and len(set(starts[0])) == 3
    both = {"choice": ["test_resnet", "test_vit"]}
    record = fine_tuned(Home(tmp_path), "none", "two", optim__lr=1e-3, model__backbone=both, search__trials=2)
    other = gather(Home(tmp_path), [record], 5, "cpu", silent)
    by_backbone = {row[0].model["backbone"]: [meta.start_id for meta in row] for row in other.metas}
    assert by_backbone["test_resnet"] == starts[0]  # same seed, same start, in whatever study
    assert set(by_backbone["test_vit"]).isdisjoint(starts[0]) and len(set(by_backbone["test_vit"])) == 3
    with pytest.raises(RequestError, match=r"none of these 2 members \(test_resnet, test_vit\).*model\.weights"):
        build_every(Home(tmp_path), [record], ["soup"], 5, 0, "cpu")
    assert not list((Home(tmp_path).root / "bundles").glob("*/*"))


def test_uniform_soup_is_the_reference(fine, built):
    every = (0, 1, 2)
    np.testing.assert_allclose(stored(built["soup"], "oof"), reference_oof(fine.found, [every] * 3), atol=2e-5)
    folds = fine.found.data.folds
    development, test = folds.development_rows(), folds.test_rows()
    np.testing.assert_allclose(
        stored(built["soup"], "test"), reference(fine.found, every, range(3), development, test), atol=2e-5
    )


def test_greedy_soup_is_the_recipe_by_brute_force(fine, built):
    """Every soup of every fold is made; then the paper's recipe is followed on a table of them."""
    found, table = fine.found, fine.found.table
    sets = [s for size in (1, 2, 3) for s in itertools.combinations(range(3), size)]
    p = {members: reference_oof(found, [members] * 3) for members in sets}

    def recipe(rows) -> tuple[int, ...]:
        losses = {members: log_loss(table.y[rows], p[members][rows]) for members in sets}
        ranked = sorted(range(3), key=lambda m: losses[(m,)])
        taken = [ranked[0]]
        for m in ranked[1:]:
            if losses[tuple(sorted([*taken, m]))] <= losses[tuple(sorted(taken))]:
                taken.append(m)
        return tuple(sorted(taken))

    nested = [recipe(table.fold != k) for k in range(3)]
    final = recipe(np.ones(len(table.y), dtype=bool))
    expected = np.full((len(table.y), 2), np.nan)
    for k, members in enumerate(nested):
        expected[table.fold == k] = p[members][table.fold == k]
    np.testing.assert_allclose(stored(built["soup-greedy"], "oof"), expected, atol=2e-5)
    about = json.loads((built["soup-greedy"].bundle / "bundle.json").read_text())
    assert about["members"][0]["params"]["soup"] == [found.names[m] for m in final]
    made = make_soup(fine.home, found, True, "cpu", silent)
    np.testing.assert_allclose(made.selection, p[final], atol=2e-5)


def test_what_is_chosen_for_a_fold_does_not_depend_on_its_labels(fine, tmp_path):
    home, found = fine.copy(tmp_path), fine.found
    honest = make_soup(home, found, True, "cpu", silent)
    for k in range(3):
        y = found.table.y.copy()
        y[found.table.fold == k] = 1 - y[found.table.fold == k]
        turned = dataclasses.replace(found, table=dataclasses.replace(found.table, y=y))
        other = make_soup(home, turned, True, "cpu", silent)
        rows = found.table.fold == k
        np.testing.assert_array_equal(other.oof[rows], honest.oof[rows])


@pytest.mark.parametrize("method", ["soup", "soup-greedy"])
def test_a_soup_is_one_checkpoint_that_predicts_by_itself(fine, built, method):
    result = built[method]
    (path,) = result.bundle.rglob("*.safetensors")
    meta = read_meta(path)
    assert (meta.trial, meta.fold) == (SEVERAL, NO_FOLD)
    assert meta.start_id == fine.found.metas[0][0].start_id
    assert meta.encoder_id == digest(load_fold(path)[0])
    pixels = np.array(fine.found.data.pixels[fine.found.data.folds.test_rows()])
    bundle = load_bundle(result.bundle)
    np.testing.assert_allclose(predict_bundle(bundle, [pixels]), stored(result, "test"), atol=1e-5)
    assert [row.kind for row in result.rows] == ["single"] * 3 + ["mean", "ensemble"]


def test_soups_of_random_starts_are_one_for_each_fold(small_study, tmp_path):
    home = Home(tmp_path)
    shutil.copytree(small_study.home.root, tmp_path, dirs_exist_ok=True, ignore=shutil.ignore_patterns("bundles"))
    (result,) = build_every(home, [small_study.record], ["soup"], 5, 0, "cpu")
    metas = [read_meta(path) for path in sorted(result.bundle.rglob("*.safetensors"))]
    assert [(meta.trial, meta.fold) for meta in metas] == [(SEVERAL, fold) for fold in range(3)]
    found = gather(home, [small_study.record], 5, "cpu", silent)
    assert [meta.start_id for meta in metas] == [meta.start_id for meta in found.metas[0]]
    test = found.data.folds.test_rows()
    pixels = np.array(found.data.pixels[test])
    np.testing.assert_allclose(predict_bundle(load_bundle(result.bundle), [pixels]), stored(result, "test"), atol=1e-5)


def test_building_again_gives_the_same_bytes_and_runs_nothing_that_is_kept(fine, built, tmp_path):
    home = fine.copy(tmp_path)
    (first,) = build_every(home, [fine.record], ["soup-greedy"], 5, 0, "cpu")
    kept = {path: path.stat().st_mtime_ns for path in (home.work("fine") / "soups" / "fold_logits").iterdir()}
    assert kept
    (again,) = build_every(home, [fine.record], ["soup-greedy"], 5, 0, "cpu")
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert again.rows == first.rows == built["soup-greedy"].rows
    for path in kept:
        path.write_bytes(path.read_bytes()[:50])  # damaged: computed anew
    (mended,) = build_every(home, [fine.record], ["soup-greedy"], 5, 0, "cpu")
    assert mended.rows == first.rows
