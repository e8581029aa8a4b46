"""Bagging that trains: what is drawn, who was out of bag, and a build that was killed."""

import dataclasses
import shutil

import numpy as np
import pandas as pd
import pytest
from every_method import build_every
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.config.load import check_study
from harness.data.prepare import prepare
from harness.ensemble.bundle import load_bundle, predict_bundle
from harness.ensemble.inputs import gather
from harness.ensemble.new_networks import draw_groups, retrain
from harness.errors import RequestError
from harness.metrics import softmax
from harness.store.home import Home
from harness.store.records import best_trial, read_trials
from harness.train import cross_validation, loop
from harness.train.checkpoint import NO_FOLD, read_meta
from harness.types import silent


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 1000), groups=st.integers(2, 60), resamples=st.integers(2, 12))
def test_resamples_are_of_whole_groups_and_each_is_left_out_of_one(seed, groups, resamples) -> None:
    rng = np.random.default_rng(seed)
    group = np.repeat(np.arange(groups), rng.integers(1, 4, groups))
    y = (group % 2).astype(np.int64)
    counts = draw_groups(y, group.astype(str), resamples, seed)
    assert counts.shape == (resamples, len(y))
    for one in range(groups):
        assert (counts[:, group == one] == counts[:, [np.flatnonzero(group == one)[0]]]).all()
    of_groups = counts[:, np.unique(group, return_index=True)[1]]
    assert (of_groups[:-1].sum(axis=1) == groups).all() and of_groups[-1].sum() >= 1
    assert (counts == 0).any(axis=0).all()
    np.testing.assert_array_equal(counts, draw_groups(y, group.astype(str), resamples, seed))
    more = draw_groups(y, group.astype(str), resamples + 3, seed)
    np.testing.assert_array_equal(more[: resamples - 1], counts[:-1])  # so that those need no second training


def test_a_bootstrap_leaves_out_the_share_that_theory_says() -> None:
    groups = np.arange(4000).astype(str)
    counts = draw_groups(np.arange(4000) % 2, groups, 6, 0)
    assert abs((counts[:-1] == 0).mean() - np.exp(-1)) < 0.01


@pytest.mark.parametrize(("groups", "resamples"), [(1, 5), (30, 1)])
def test_too_few_to_leave_any_out(groups, resamples) -> None:
    y = np.arange(60) % 2
    with pytest.raises(RequestError, match="--resamples 10"):
        draw_groups(y, (np.arange(60) % groups).astype(str), resamples, 0)


@pytest.fixture(scope="module")
def home(small_study, tmp_path_factory) -> Home:
    root = tmp_path_factory.mktemp("retrain")
    ignored = shutil.ignore_patterns("bundles", "resamples")
    shutil.copytree(small_study.home.root, root, dirs_exist_ok=True, ignore=ignored)
    return Home(root)


@pytest.fixture(scope="module")
def watched(home, small_study):
    """A build of three resamples, and (training rows, out-of-bag rows) of each as the training was given them."""
    seen, original = [], loop.fit_fold

    def watching(spec, data, *rest):
        seen.append((data.x_train.rows, data.x_val.rows))
        return original(spec, data, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cross_validation, "fit_fold", watching)
        (result,) = build_every(home, [small_study.record], ["bagging-retrained"], 5, 0, "cpu", resamples=3)
    return result, seen


def resamples_of(home):
    return sorted(path for path in (home.work("small") / "resamples").iterdir() if path.name.startswith("resample_"))


def test_out_of_bag_is_the_mean_over_networks_that_never_saw_the_group(watched, home, small_study):
    result, seen = watched
    spec = check_study(small_study.record.tree, "small").spec
    data = prepare(spec.data, spec.seed, home, silent)
    groups, development = data.dataset.groups, data.folds.development_rows()
    assert len(seen) == 3
    sums, counts = np.zeros((len(groups), 2)), np.zeros(len(groups))
    for (train, left_out), folder in zip(seen, resamples_of(home), strict=True):
        assert set(train) | set(left_out) == set(development)  # and so no row of the test split
        assert not set(groups[train]) & set(groups[left_out])
        table = pd.read_parquet(folder / "predictions.parquet")
        assert set(table["id"]) == set(data.dataset.ids[left_out])
        position = {name: row for row, name in enumerate(data.dataset.ids.tolist())}
        for name, logits in zip(table["id"], table["logits"], strict=True):
            sums[position[name]] += softmax(np.asarray(logits)[None])[0]
            counts[position[name]] += 1
    assert counts[development].min() >= 1 and counts[development].max() > 1
    stored = pd.read_parquet(result.bundle / "predictions.parquet")
    oof = stored[stored["split"] == "oof"]
    assert oof["y"].tolist() == data.dataset.y[development].tolist()
    np.testing.assert_allclose(np.stack(oof["probabilities"]), sums[development] / counts[development, None], atol=1e-6)


def test_its_bundle_has_the_new_networks_and_predicts_by_itself(watched, home, small_study):
    result, _ = watched
    bundle = load_bundle(result.bundle)
    best = best_trial(read_trials(home, "small"), "auroc")
    assert bundle.members == (f"trial-{best.number:04d}-resampled",) and len(bundle.weights[0]) == 3
    metas = [read_meta(path) for path in bundle.weights[0]]
    assert {meta.fold for meta in metas} == {NO_FOLD} and len({meta.encoder_id for meta in metas}) == 3
    spec = check_study(small_study.record.tree, "small").spec
    data = prepare(spec.data, spec.seed, home, silent)
    stored = pd.read_parquet(result.bundle / "predictions.parquet")
    test = np.stack(stored.loc[stored["split"] == "test", "probabilities"])
    pixels = np.array(data.pixels[data.folds.test_rows()])
    np.testing.assert_allclose(predict_bundle(bundle, [pixels]), test, atol=1e-5)


class Killed(BaseException):
    pass


def test_a_killed_build_goes_on_where_it_was_and_ends_the_same(watched, home, small_study, tmp_path):
    result, _ = watched
    ignored = shutil.ignore_patterns("bundles", "resamples")
    shutil.copytree(home.root, tmp_path, dirs_exist_ok=True, ignore=ignored)
    other, said = Home(tmp_path), []

    def kill(what, done, total):
        if what == "epochs of the resamples" and done == 2:
            raise Killed

    with pytest.raises(Killed):
        build_every(other, [small_study.record], ["bagging-retrained"], 5, 0, "cpu", kill, resamples=3)
    assert len(resamples_of(other)) == 1 and not list(other.bundles("small").glob("*"))

    def listen(what, done, total):
        if what == "epochs of the resamples":
            said.append((done, total))

    (again,) = build_every(other, [small_study.record], ["bagging-retrained"], 5, 0, "cpu", listen, resamples=3)
    assert said == [(2, 3), (3, 3)]
    for a, b in zip(resamples_of(home), resamples_of(other), strict=True):
        assert a.name == b.name
        assert (a / "weights.safetensors").read_bytes() == (b / "weights.safetensors").read_bytes()
    assert again.rows == result.rows
    build_every(other, [small_study.record], ["bagging-retrained"], 5, 0, "cpu", listen, resamples=3)
    assert len(said) == 2  # all of it was kept


def test_a_start_that_has_seen_the_out_of_bag_rows_is_refused(home, small_study):
    found = gather(home, [small_study.record], 5, "cpu", silent)
    tree = {**small_study.record.tree, "model": {"backbone": "test_resnet", "weights": "study:other/3"}}
    started = dataclasses.replace(found, studies=(dataclasses.replace(small_study.record, tree=tree),))
    with pytest.raises(RequestError, match=r"study:other/3.*would have seen its out-of-bag rows.*--method bagging"):
        retrain(home, started, 3, 0, "cpu", silent)
