"""Networks trained again without each pair of folds, on a tiny real study: how many, on which rows, resumed and reused;
and what a study that holds nothing out is told with and without them."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest

from benchmarks._tiny_study import tiny
from harness.data.prepare import prepare
from harness.ensemble.inputs import gather
from harness.ensemble.methods import METHODS
from harness.ensemble.nested import nested_full
from harness.ensemble.nested_training import plan_pairs, train_pairs
from harness.ensemble.results import FULL, make
from harness.errors import RequestError
from harness.metrics import softmax
from harness.output.result import plain
from harness.search.run import run_study
from harness.store.home import Home
from harness.store.records import require_study
from harness.train import cross_validation, loop
from harness.train.checkpoint import NO_FOLD, read_meta
from harness.types import silent

PAIRS = ("0-1", "0-2", "1-2")


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Home:
    home = Home(tmp_path_factory.mktemp("pairs"))
    study = tiny(
        name="all", data__folds=3, data__test_fraction=0.0, search__trials=2, search__pruner="none", train__epochs=1
    )
    run_study(study, home, 1, "cpu", lambda event: None)
    return home


@pytest.fixture
def home(trained, tmp_path) -> Home:
    shutil.copytree(trained.root, tmp_path / "home", ignore=shutil.ignore_patterns("pairs", "bundles"))
    return Home(tmp_path / "home")


class Killed(BaseException):
    pass


def watch(monkeypatch, most: int = 99) -> list[tuple]:
    """(training rows, held-out rows) of every network that is trained; `most`: how many until the process dies."""
    seen, original = [], loop.fit_fold

    def watching(spec, data, *rest):
        if len(seen) == most:
            raise Killed
        seen.append((np.sort(data.x_train.rows), np.sort(data.x_val.rows)))
        return original(spec, data, *rest)

    monkeypatch.setattr(cross_validation, "fit_fold", watching)
    return seen


def build(home, method, nested=FULL):
    made = make(home, method, ["all"], 2, None, device="cpu", register=False, reference=False, nested=nested)
    return plain(made.document)


def test_each_pair_is_trained_once_without_its_rows_kept_over_a_kill_and_reused(home, monkeypatch, capsys):
    record = require_study(home, "all")
    with monkeypatch.context() as patch:
        first = watch(patch, most=4)
        with pytest.raises(Killed):
            build(home, "mean")
    assert len(first) == 4
    done = sorted(path.parent for path in home.study_artifacts("all").glob("*/artifacts/pairs/*/DONE"))
    stamps = {path: (path / "weights.safetensors").stat().st_mtime_ns for path in done}
    assert len(done) == 4

    with monkeypatch.context() as patch:
        rest = watch(patch)
        document = build(home, "mean")
    assert len(rest) == 2  # 2 members x 3 pairs, 4 of which were there
    assert {path: (path / "weights.safetensors").stat().st_mtime_ns for path in done} == stamps
    told = capsys.readouterr().err
    assert "6 network" in told and "4 of 6" in told

    found = gather(home, [record], 2, "cpu", silent)
    fold, development = found.data.folds.fold, found.data.folds.development_rows()
    wanted = [np.flatnonzero((fold == j) | (fold == k)) for j, k in ((0, 1), (0, 2), (1, 2))]
    for (train, held_out), expected in zip([*first, *rest], [*wanted, *wanted], strict=True):
        np.testing.assert_array_equal(held_out, expected)
        np.testing.assert_array_equal(train, np.setdiff1d(development, expected))
    for folder in home.study_artifacts("all").glob("*/artifacts/pairs/*"):
        assert folder.name in PAIRS and read_meta(folder / "weights.safetensors").fold == NO_FOLD

    with monkeypatch.context() as patch:
        again = watch(patch)
        other = build(home, "stacking")
    assert again == []
    for one in (document, other):
        assert one["judged_on"] == "nested_full" and one["members_chosen_from"] == 2
        own = one["scores"][-1]["nested_full"]["auroc"]
        assert own["lo"] < own["value"] < own["hi"]
    assert other["recommended"] in ("mean", "stacking") and 0 < other["delta_vs_mean"]["p_holm"] <= 1
    assert other["delta_vs_mean"]["verdict"] in ("better", "worse", "not distinguishable")

    # the mean, written out: each row by the two networks of each member that saw neither its fold nor one other
    pairs = train_pairs(home, found, plan_pairs(home, found), "cpu", silent)
    p = nested_full(METHODS["mean"].fit, pairs.table, None, 0)
    for row in (0, 100, 200):
        own = pairs.table.fold[row]
        said = [pairs.table.logits[row, j, m] for m in range(2) for j in range(3) if j != own]
        np.testing.assert_allclose(p[row], softmax(np.array(said)).mean(axis=0), atol=1e-6)
    assert np.isnan(pairs.table.logits[np.arange(len(p)), pairs.table.fold]).all()
    # embeddings are of the same networks
    for method in ("bagging", "boosting"):
        assert np.isfinite(nested_full(METHODS[method].fit, pairs.table, pairs.embed, 0)).all()


def test_without_it_a_study_that_holds_nothing_out_compares_nothing(home):
    document = build(home, "stacking", "cross-fitted")
    assert document["judged_on"] == "none" and document["recommended"] == "mean"
    for name in ("delta_vs_mean", "delta_vs_single"):
        delta = document[name]
        assert [delta[key] for key in ("value", "lo", "hi", "p", "p_holm", "verdict")] == [None] * 5 + [""]
        assert delta["reason"] == "nothing-held-out"
    own = document["scores"][-1]
    for part, reason in (("cross_fitted", "networks-shared"), ("oof", "networks-shared"), ("selection", "same-rows")):
        assert own[part]["auroc"]["value"] is not None
        assert (own[part]["auroc"]["lo"], own[part]["auroc"]["reason"]) == (None, reason)
    said = subprocess.run(
        [sys.executable, "-m", "harness", "ensemble", "show", "all/stacking-top2"],
        env={**os.environ, "HARNESS_HOME": str(home.root)}, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert "--nested full" in said and "better" not in said and "worse" not in said


def test_what_cannot_be_nested_is_refused_before_anything_is_trained(home, tmp_path, monkeypatch):
    trained = watch(monkeypatch)
    record = require_study(home, "all")
    weights = next(home.study_artifacts("all").glob("*/artifacts/fold_1/weights.safetensors"))
    weights.rename(tmp_path / "gone")
    done = subprocess.run(
        [sys.executable, "-m", "harness", "ensemble", "build", "--study", "all", "--nested", "full", "--json"],
        env={**os.environ, "HARNESS_HOME": str(home.root)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2 and "fold 1" in done.stderr and not done.stdout
    (tmp_path / "gone").rename(weights)
    with pytest.raises(RequestError, match="--nested full"):
        build(home, "mean", "fulll")
    assert trained == []
    spec = tiny(name="two", data__folds=2, search__trials=1, train__epochs=1).spec
    assert prepare(spec.data, spec.seed, home, silent).folds.k == 2
    two = tiny(name="two", data__folds=2, search__trials=1, search__pruner="none", train__epochs=1)
    run_study(two, home, 1, "cpu", lambda event: None)
    with pytest.raises(RequestError, match="three folds"):
        make(home, "mean", ["two"], 1, None, device="cpu", register=False, reference=False, nested=FULL)
    assert json.dumps(record.precision)
