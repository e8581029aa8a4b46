"""Ensembles over checkpoints that were really trained: scores, files, MLflow, and what is refused."""

import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from every_method import build_every

from harness import metrics
from harness.config.load import check_study
from harness.data.prepare import prepare
from harness.ensemble.build import build
from harness.ensemble.bundle import load_bundle, predict_bundle
from harness.ensemble.methods import METHODS
from harness.ensemble.names import GIVEN
from harness.errors import HarnessError, RequestError
from harness.stats.intervals import by_group
from harness.store.home import Home
from harness.store.records import best_trial, read_trials


def silent(what, done, total):
    pass


def stored(result):
    table = pd.read_parquet(result.bundle / "predictions.parquet")
    return {split: (part, np.stack(part["probabilities"])) for split, part in table.groupby("split")}


@pytest.fixture
def copied(small_study, tmp_path):
    """A copy of the home, to spoil."""
    home = Home(tmp_path / "home")
    shutil.copytree(small_study.home.root, home.root, ignore=shutil.ignore_patterns("bundles", "embeddings"))
    return home


@pytest.mark.parametrize("method", sorted(METHODS))
class TestEveryMethod:
    def test_the_table_holds_what_it_must_beat(self, built, method):
        result = built[method]
        assert [row.kind for row in result.rows] == ["single", "single", "mean", "ensemble"]
        assert [row.name for row in result.rows] == [
            "trial-0000 (test_resnet)",
            "trial-0001 (test_resnet)",
            "mean",
            method,
        ]
        assert (result.study, result.method, result.members, result.metric) == ("small", method, [0, 1], "auroc")
        best = max(result.rows[:2], key=lambda row: row.oof["auroc"].value)
        own = result.rows[3].test["auroc"].value
        assert result.delta_vs_single.value == pytest.approx(own - best.test["auroc"].value)
        assert result.delta_vs_mean.value == pytest.approx(own - result.rows[2].test["auroc"].value)

    def test_scores_are_those_of_the_stored_predictions(self, built, method, small_study):
        result, spec = built[method], check_study(small_study.record.tree, "small").spec
        data = prepare(spec.data, spec.seed, small_study.home, silent)
        for split, rows in (("oof", data.folds.development_rows()), ("test", data.folds.test_rows())):
            part, p = stored(result)[split]
            assert part["id"].tolist() == [f"r{row:06d}" for row in rows]
            assert part["y"].tolist() == data.dataset.y[rows].tolist()
            y = part["y"].to_numpy()
            per_group = by_group(y, p, data.dataset.groups[rows], "mean")
            scores = metrics.score(y, p)
            scores |= {f"group_{name}": value for name, value in metrics.score(*per_group[:2]).items()}
            found = getattr(result.rows[3], split)
            assert set(found) == set(scores)
            for name, interval in found.items():
                assert interval.value == pytest.approx(scores[name], abs=1e-12)
                if split == "oof" and method not in GIVEN:  # learned from out-of-fold predictions: no estimate
                    assert interval.reason in ("networks-shared", "out-of-bag") and np.isnan(interval.lo)
                else:
                    assert interval.lo <= interval.value <= interval.hi

    def test_a_bundle_predicts_by_itself_what_build_said(self, built, method, small_study):
        """From the checkpoints and the fitted method alone, for the images of the test split."""
        spec = check_study(small_study.record.tree, "small").spec
        data = prepare(spec.data, spec.seed, small_study.home, silent)
        bundle = load_bundle(built[method].bundle)
        assert (bundle.classes, bundle.decodes) == (("normal", "bleed"), (spec.data.decode,))
        _, expected = stored(built[method])["test"]
        pixels = np.array(data.pixels[data.folds.test_rows()])
        np.testing.assert_allclose(predict_bundle(bundle, [pixels]), expected, atol=1e-5)
        np.testing.assert_allclose(predict_bundle(bundle, [pixels[3:4]]), expected[3:4], atol=1e-5)

    def test_one_copy_of_a_checkpoint_and_nothing_executable(self, built, method, small_study):
        files = [path for path in built[method].bundle.rglob("*") if path.is_file()]
        weights = [path for path in files if path.suffix == ".safetensors"]
        assert len(weights) == 6
        for trial in read_trials(small_study.home, "small"):
            for fold in range(3):
                own = small_study.home.fold("small", trial.run_id, fold) / "weights.safetensors"
                linked = built[method].bundle / f"members/trial-{trial.number:04d}/fold_{fold}/weights.safetensors"
                assert linked.samefile(own)
        assert {path.suffix for path in files} <= {".json", ".safetensors", ".npz", ".ubj", ".parquet", ""}
        assert {path.name for path in files if path.suffix == ""} == {"DONE"}

    def test_mlflow_shows_it_as_one_run(self, built, method, small_study):
        from mlflow import MlflowClient

        client = MlflowClient(small_study.home.mlflow_uri)
        experiment = client.get_experiment_by_name("small")
        runs = client.search_runs([experiment.experiment_id], f"params.`ensemble.method` = '{method}'")
        assert len(runs) == 1
        found, result = runs[0], built[method]
        assert found.data.tags["harness.kind"] == "ensemble"
        assert len(found.data.tags["harness.audit_hash"]) == 32 and found.data.tags["harness.findings"] == "none"
        assert found.info.run_name == f"{method}-top5"
        assert found.data.metrics["test/auroc"] == pytest.approx(result.rows[3].test["auroc"].value)
        assert found.data.metrics["oof/auroc"] == pytest.approx(result.rows[3].oof["auroc"].value)
        assert ("oof/auroc_lo" in found.data.metrics) == (method in GIVEN)
        assert found.data.metrics["delta/test/auroc"] == pytest.approx(result.delta_vs_single.value)
        assert "delta_vs_mean/test/auroc_p" not in found.data.metrics
        if method != "mean":
            p_holm = found.data.metrics["delta_vs_mean/test/auroc_p_holm"]
            assert p_holm == pytest.approx(result.comparison.holm_mean)
        assert found.data.tags["harness.recommended"] == result.recommended
        assert {"single/test/auroc", "mean/test/auroc_hi", "delta/test/auroc_p_holm"} <= set(found.data.metrics)
        assert found.data.metrics["selection/auroc"] == pytest.approx(result.rows[3].selection["auroc"].value)
        assert int(found.data.tags["harness.test_reads"]) >= 1
        file = small_study.home.run_artifacts("small", found.info.run_id) / "scores.json"
        table = json.loads(file.read_text())  # columns and data, as MLflow's page of the run shows them
        assert [row[table["columns"].index("model")] for row in table["data"]] == [row.name for row in result.rows]
        tests = [row[table["columns"].index("auroc test")] for row in table["data"]]
        assert tests == pytest.approx([row.test["auroc"].value for row in result.rows])

    def test_bundle_json_is_plain_and_holds_no_patient(self, built, method, small_study):
        text = (built[method].bundle / "bundle.json").read_text()
        about = json.loads(text)
        assert about["scores"][3]["test"]["auroc"]["value"] == built[method].rows[3].test["auroc"].value
        assert about["folds_hash"] == small_study.record.folds_hash
        part, _ = stored(built[method])["oof"]
        raw = pd.read_csv(small_study.images / "labels.csv", dtype=str)["patient"]
        assert len(raw) and not set(part["group"]) & set(raw)

    def test_building_again_gives_the_same_without_running_networks(self, built, method, copied, small_study):
        first = build_every(copied, [small_study.record], [method], 5, 0, "cpu")[0]
        np.testing.assert_allclose(stored(first)["oof"][1], stored(built[method])["oof"][1], atol=1e-12)
        kept = {path: path.stat().st_mtime_ns for path in (copied.work("small") / "embeddings").iterdir()}
        # the test split, held-out rows asked again, and the held-out rows that usual images are told by
        assert len(kept) == 6 * {"none": 3, "held_out": 3, "all": 5}[METHODS[method].embeddings]
        again = build_every(copied, [small_study.record], [method], 5, 0, "cpu")[0]
        assert {path: path.stat().st_mtime_ns for path in kept} == kept
        assert again.rows == first.rows
        np.testing.assert_array_equal(stored(again)["test"][1], stored(first)["test"][1])


def test_the_mean_is_a_row_of_its_own_even_when_it_is_the_method(built):
    rows = built["mean"].rows
    assert rows[2].test == rows[3].test and rows[2].oof == rows[3].oof
    assert (built["mean"].delta_vs_mean.value, built["mean"].delta_vs_mean.p) == (0.0, 1.0)


def test_a_single_member_makes_a_bundle_too(copied, small_study):
    result = build_every(copied, [small_study.record], ["mean"], 1, 0, "cpu")[0]
    best = best_trial(read_trials(copied, "small"), "auroc")
    assert result.members == [best.number] and result.bundle.name == "mean-top1"
    single, mean, ensemble = result.rows
    assert single.test == mean.test == ensemble.test
    # stage 1 and stage 2 agree on what this trial's out-of-fold predictions are worth
    for name, interval in single.oof.items():
        assert interval.value == pytest.approx(mean.oof[name].value, abs=1e-9)


def folds_of(home, number=0):
    record = next(trial for trial in read_trials(home, "small") if trial.number == number)
    return [home.fold("small", record.run_id, fold) for fold in range(3)]


def nothing_left(home):
    folder = home.bundles("small")
    return not folder.exists() or not list(folder.iterdir())


def test_other_data_than_the_study_had_is_refused(copied, small_study):
    for key in ("data_hash", "folds_hash"):
        record = dataclasses.replace(small_study.record, **{key: "another"})
        with pytest.raises(RequestError, match=r"have changed since it ran.*--as NEWNAME"):
            build_every(copied, [record], ["mean"], 5, 0, "cpu")[0]


def test_a_damaged_checkpoint_is_named_and_leaves_nothing(copied, small_study):
    path = folds_of(copied)[2] / "weights.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(HarnessError, match=r"fold_2/weights\.safetensors"):
        build_every(copied, [small_study.record], ["mean"], 5, 0, "cpu")[0]
    assert nothing_left(copied)


def test_a_damaged_cache_is_computed_again(copied, small_study, built):
    build_every(copied, [small_study.record], ["mean"], 5, 0, "cpu")[0]
    for path in (copied.work("small") / "embeddings").iterdir():
        path.write_bytes(path.read_bytes()[:200])
    again = build_every(copied, [small_study.record], ["mean"], 5, 0, "cpu")[0]
    np.testing.assert_allclose(stored(again)["test"][1], stored(built["mean"])["test"][1], atol=1e-12)


@pytest.mark.parametrize("store", ["nosuchstore://here", "http://127.0.0.1:9"])
def test_a_store_that_is_away_costs_no_bundle_and_is_told(copied, small_study, monkeypatch, store):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    built = build(copied, [small_study.record], ["mean", "greedy"], 5, 0, "cpu")
    assert "MLflow store" in built.untracked and "does not answer" in built.untracked
    assert [load_bundle(result.bundle).method for result in built.results] == ["mean", "greedy"]
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert build(copied, [small_study.record], ["mean"], 5, 0, "cpu").untracked == ""


def test_what_a_killed_build_left_is_cleared_away(copied, small_study):
    left = copied.bundles("small") / ".mean-top5.abcdef"
    left.mkdir(parents=True)
    (left / "bundle.json").touch()
    build_every(copied, [small_study.record], ["mean"], 5, 0, "cpu")[0]
    assert [path.name for path in copied.bundles("small").iterdir()] == ["mean-top5"]


def test_wrong_requests(small_study):
    home, record = small_study.home, small_study.record
    with pytest.raises(RequestError, match=r"--method bosting.*boosting"):
        build_every(home, [record], ["bosting"], 5, 0, "cpu")[0]
    with pytest.raises(RequestError, match="--top 0"):
        build_every(home, [record], ["mean"], 0, 0, "cpu")[0]
    with pytest.raises(RequestError, match="--device gpu"):
        build_every(home, [record], ["mean"], 5, 0, "gpu")[0]


def test_torch_stays_out_of_the_fitting_half():
    modules = "members, methods, scores, averaging, bagging, boosting, stacking"
    code = f"import sys; from harness.ensemble import {modules}; sys.exit('torch' in sys.modules)"
    root = Path(__file__).parents[2]
    assert subprocess.run([sys.executable, "-c", code], cwd=root).returncode == 0
