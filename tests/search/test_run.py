"""The driver of a study on the built-in data set: real files, real training, a real MLflow store."""

import os
import shutil
import signal
import subprocess
import sys
import time

import pandas as pd
import pytest
from mlflow import MlflowClient

from benchmarks._tiny_study import tiny as tiny_study
from harness.config.load import dump_yaml
from harness.data.phantom import ensure_phantom
from harness.errors import HarnessError, RequestError
from harness.search.run import run_study
from harness.store.files import read_json
from harness.store.home import Home, lock
from harness.store.records import read_study, read_trials, require_study
from harness.types import StudyEnded, StudyStarted, TrialEnded

HFLIP = {"choice": [0.0, 0.5]}


def tiny(**values):
    return tiny_study(**{"augment__hflip": HFLIP, **values})


def run(home, study, jobs=1):
    events = []
    record = run_study(study, home, jobs, "cpu", events.append)
    return record, events


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    home = Home(tmp_path_factory.mktemp("home"))
    record, events = run(home, tiny())
    return home, record, events


def test_a_study_leaves_its_trials_in_the_ledger_on_disk_and_in_mlflow(finished):
    home, record, events = finished
    assert record.state == "complete"
    trials = read_trials(home, "tiny")
    assert [trial.state for trial in trials] == ["complete", "complete"]
    assert sum(isinstance(event, TrialEnded) for event in events) == 2
    client = MlflowClient(home.mlflow_uri)
    runs = client.search_runs([client.get_experiment_by_name("tiny").experiment_id], order_by=["tags.harness.trial"])
    assert [run.info.run_name for run in runs] == ["trial-0000", "trial-0001"]
    for trial, run_ in zip(trials, runs, strict=True):
        folder = home.run_artifacts("tiny", trial.run_id)
        assert run_.info.artifact_uri == folder.as_uri()
        assert run_.info.status == "FINISHED"
        assert run_.data.tags["harness.kind"] == "trial"
        assert run_.data.tags["harness.state"] == "complete"
        assert run_.data.tags["harness.folds_hash"] == record.folds_hash
        assert run_.data.tags["harness.audit_hash"] == record.audit_hash and len(record.audit_hash) == 32
        assert run_.data.tags["harness.findings"] == "none" and record.findings == []
        assert float(run_.data.params["optim.lr"]) == trial.params["optim.lr"]
        assert float(run_.data.params["augment.hflip"]) == trial.params["augment.hflip"]
        assert run_.data.params["train.epochs"] == "2"
        assert run_.data.metrics["cv/auroc"] == pytest.approx(sum(trial.fold_values) / 3)
        low, value, high = (run_.data.metrics[f"oof/auroc{end}"] for end in ("_lo", "", "_hi"))
        assert low < value < high
        assert len(client.get_metric_history(trial.run_id, "fold_2/train_loss")) == 2
        assert {path.name for path in folder.iterdir()} == {"spec.yaml", "fold_0", "fold_1", "fold_2", "DONE"}
        assert {path.name for path in (folder / "fold_1").iterdir()} == {
            "weights.safetensors", "predictions.parquet", "history.json", "DONE",
        }  # fmt: skip
    assert not list(home.work("tiny").glob("running/*"))
    assert len(list(home.root.rglob("*.safetensors"))) == 6
    assert record.corrected["lo"] < record.corrected["value"] < record.corrected["hi"]
    assert record.corrected["value"] <= max(trial.oof["auroc"].value for trial in trials) + 0.01


def test_out_of_fold_predictions_cover_the_development_rows_once(finished):
    home, _, _ = finished
    trial = read_trials(home, "tiny")[0]
    tables = [pd.read_parquet(home.fold("tiny", trial.run_id, k) / "predictions.parquet") for k in range(3)]
    table = pd.concat(tables)
    assert list(table.columns) == ["id", "group", "y", "logits"]
    assert table["id"].is_unique
    groups = [set(part["group"]) for part in tables]
    assert not (groups[0] & groups[1] or groups[0] & groups[2] or groups[1] & groups[2])


def test_running_a_finished_study_again_does_nothing_and_more_trials_go_on(finished):
    home, record, _ = finished
    before = {path: path.stat().st_mtime_ns for path in home.artifacts.rglob("*") if path.is_file()}
    again, events = run(home, tiny())
    assert [event for event in events if isinstance(event, StudyEnded)] == [StudyEnded("tiny", "complete", 0)]
    assert again == record
    assert {path: path.stat().st_mtime_ns for path in home.artifacts.rglob("*") if path.is_file()} == before
    more, events = run(home, tiny(search__trials=3))
    assert more.state == "complete"
    assert [trial.number for trial in read_trials(home, "tiny")] == [0, 1, 2]
    assert next(event for event in events if isinstance(event, StudyStarted)).trials_done == 2


def test_the_same_name_with_another_spec_is_refused_with_the_difference(finished):
    home, _, _ = finished
    with pytest.raises(RequestError, match=r"train.epochs: 2 -> 3") as error:
        run(home, tiny(train__epochs=3))
    assert "--as NEWNAME" in str(error.value)
    assert require_study(home, None).name == "tiny"
    with pytest.raises(RequestError, match="studies that ran: tiny"):
        require_study(home, "tny")


def test_the_same_study_elsewhere_gives_the_same_numbers(finished, tmp_path):
    home, _, _ = finished
    other = Home(tmp_path)
    run(other, tiny())
    for a, b in zip(read_trials(home, "tiny"), read_trials(other, "tiny"), strict=False):
        assert (a.params, a.oof, a.cv, a.fold_values) == (b.params, b.oof, b.cv, b.fold_values)
    assert read_study(home, "tiny").data_hash == read_study(other, "tiny").data_hash
    assert read_study(home, "tiny").folds_hash == read_study(other, "tiny").folds_hash


def weights(home, study):
    return {
        (trial.number, fold): (home.fold(study, trial.run_id, fold) / "weights.safetensors").read_bytes()
        for trial in read_trials(home, study)
        for fold in range(3)
    }


def start(home, study, path, jobs=1):
    path.write_text(dump_yaml(study.tree))
    code = (
        "import sys; from harness.config.load import load_study; from harness.store.home import open_home;"
        "from harness.search.run import run_study; from harness.train import checkpoint\n"
        "checkpoint.WRITE_SHARE = 10.0\n"  # a state after every epoch: these epochs are shorter than writing one
        "study = load_study(sys.argv[1])\n"
        "if __name__ == '__main__': run_study(study, open_home(), int(sys.argv[2]), 'cpu', lambda e: None)"
    )
    environment = {**os.environ, "HARNESS_HOME": str(home.root)}
    return subprocess.Popen([sys.executable, "-c", code, str(path), str(jobs)], env=environment, start_new_session=True)


def test_what_the_audit_found_goes_to_every_run_and_into_the_ledger(tmp_path):
    home = Home(tmp_path / "home")
    root = tmp_path / "images"
    shutil.copytree(ensure_phantom(home, lambda what, done, total: None), root)
    labels = pd.read_csv(root / "labels.csv", dtype=str)
    copy = labels.iloc[[0]].assign(file="copy.png", patient="somebody else")
    shutil.copy(root / labels["file"].iloc[0], root / "copy.png")
    pd.concat([labels, copy]).to_csv(root / "labels.csv", index=False)
    study = tiny(data__root=str(root), data__folds=2, train__epochs=1, search__trials=1)
    with pytest.raises(RequestError, match=r"exact_duplicate: 2 images of different groups"):
        run(home, study)
    assert not read_trials(home, "tiny")
    why = {"exact_duplicate": "the copy is here on purpose"}
    study = tiny(data__root=str(root), data__folds=2, data__acknowledge=why, train__epochs=1, search__trials=1)
    record, _ = run(home, study)
    assert [finding["kind"] for finding in record.findings] == ["exact_duplicate"]
    assert read_study(home, "tiny").findings == record.findings
    client = MlflowClient(home.mlflow_uri)
    (run_,) = client.search_runs([client.get_experiment_by_name("tiny").experiment_id])
    assert run_.data.tags["harness.audit_hash"] == record.audit_hash
    assert run_.data.tags["harness.findings"].startswith("warn exact_duplicate: 2 images of different groups")


def wait_for(condition, process, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, "the study ended before it could be killed"
        assert time.monotonic() < end, "what was waited for did not come"
        time.sleep(0.005)


def test_a_killed_study_goes_on_and_equals_an_undisturbed_one(tmp_path):
    study = tiny(train__epochs=4)
    calm, hurt = Home(tmp_path / "calm"), Home(tmp_path / "hurt")
    calm.root.mkdir()
    hurt.root.mkdir()
    run(calm, study)
    # cut off in the first trial's first fold, and in a later fold of a later trial
    for how, trial, fold in ((signal.SIGKILL, 0, 0), (signal.SIGINT, 1, 2)):
        process = start(hurt, study, tmp_path / "tiny.yaml")
        state = hurt.trial_state("tiny", trial) / f"fold_{fold}.pt"
        wait_for(state.exists, process)
        os.killpg(process.pid, how)
        process.wait(timeout=60)
        assert any(trial.state == "running" for trial in read_trials(hurt, "tiny"))
    run(hurt, study)
    assert [(t.state, t.params, t.oof) for t in read_trials(hurt, "tiny")] == [
        (t.state, t.params, t.oof) for t in read_trials(calm, "tiny")
    ]
    assert weights(hurt, "tiny") == weights(calm, "tiny")
    client = MlflowClient(hurt.mlflow_uri)
    runs = client.search_runs([client.get_experiment_by_name("tiny").experiment_id])
    assert sorted((run_.info.run_name, run_.info.status) for run_ in runs) == [
        ("trial-0000", "FINISHED"),
        ("trial-0001", "FINISHED"),
    ]


def test_two_workers_compute_what_one_computes_without_a_model_of_the_past(tmp_path):
    study = tiny(search__sampler="random", search__trials=3)
    one, two = Home(tmp_path / "one"), Home(tmp_path / "two")
    one.root.mkdir()
    two.root.mkdir()
    run(one, study)
    process = start(two, study, tmp_path / "tiny.yaml", jobs=2)
    assert process.wait(timeout=240) == 0
    for a, b in zip(read_trials(one, "tiny"), read_trials(two, "tiny"), strict=True):
        assert (a.state, a.params) == (b.state, b.params)
        # another number of threads adds in another order
        assert a.oof["auroc"].value == pytest.approx(b.oof["auroc"].value, abs=0.02)


def test_a_second_driver_of_the_same_study_is_refused(tmp_path):
    home = Home(tmp_path)
    held = lock(home.work("tiny") / "driver.lock", "held by the test")
    with held, pytest.raises(HarnessError, match="study tiny is in use by another process"):
        run(home, tiny())
    assert not read_trials(home, "tiny")


def test_failing_trials_are_recorded_with_their_reason_and_stop_the_study(tmp_path):
    study = tiny(optim__lr={"float": [1e30, 1e32]}, optim__name="sgd", optim__clip=0.0, search__max_failures=2)
    with pytest.raises(HarnessError, match=r"(?s)2 trials in a row failed.*training loss became"):
        run(Home(tmp_path), study)
    trials = read_trials(Home(tmp_path), "tiny")
    assert [trial.state for trial in trials] == ["failed", "failed"]
    assert "optim.lr" in trials[0].reason
    client = MlflowClient(Home(tmp_path).mlflow_uri)
    runs = client.search_runs([client.get_experiment_by_name("tiny").experiment_id])
    assert {run_.data.tags["harness.state"] for run_ in runs} == {"failed"}


def test_an_epoch_picked_on_the_scored_fold_is_marked_wherever_its_score_stands(tmp_path):
    from every_method import build_every

    from harness.search.status import study_document

    with pytest.raises(RequestError, match=r"train.select: scored_fold cannot be searched"):
        tiny(train__select={"choice": ["last", "scored_fold"]})
    home, study = Home(tmp_path), tiny(train__select="scored_fold", train__monitor="auroc", search__trials=1)
    record, _ = run(home, study)
    (trial,) = read_trials(home, "tiny")
    assert trial.optimistic and study_document(record, [trial])["best"]["optimistic"] is True
    histories = [read_json(home.fold("tiny", trial.run_id, k) / "history.json") for k in range(3)]
    for history in histories:
        values = [epoch["val"]["auroc"] for epoch in history["epochs"]]
        assert values[history["epoch"]] == max(values)
    result = build_every(home, [record], ["mean"], 1, 0, "cpu")[0]
    assert all(row.optimistic for row in result.rows)
    client = MlflowClient(home.mlflow_uri)
    experiment = client.get_experiment_by_name("tiny")
    runs = client.search_runs([experiment.experiment_id])
    assert {run_.data.tags["harness.kind"]: run_.data.tags["harness.optimistic"] for run_ in runs} == {
        "trial": "true",
        "ensemble": "true",
    }
    assert "harness.optimistic" in experiment.tags["mlflow.sharedViewState.trials"]
