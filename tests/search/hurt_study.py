"""A small study in a process of its own that keeps a state after every epoch, and what is left when it is hurt."""

import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mlflow import MlflowClient

from harness.epochs import read_all_epochs
from harness.home import Home
from harness.ledger import read_trials
from harness.study.load import Study, check_study, dump_yaml
from harness.study.space import fill

FOLDS = 2
TREE: dict[str, Any] = {
    "name": "tiny",
    "data": {
        "root": "phantom",
        "classes": ["normal", "bleed"],
        "group": "patient",
        "folds": FOLDS,
        "decode": {"size": 32, "channels": 1},
    },
    "model": {"backbone": "test_resnet"},
    "optim": {"lr": {"float": [1e-4, 1e-2], "log": True}},
    "train": {"epochs": 4, "precision": "fp32"},
    "search": {"trials": 2, "sampler": "random", "pruner": "none"},
}
RUN = """
import sys
from harness.train import checkpoint
checkpoint.WRITE_SHARE = 1e9  # a state after every epoch: these epochs are shorter than writing one
from harness.cli.app import run
if __name__ == "__main__":
    sys.exit(run(["study", "run", *sys.argv[1:]]))
"""
"""a script of its own, because spawned workers import it again, and with it the setting"""


def tiny(**values: Any) -> Study:
    return check_study(fill(TREE, {name.replace("__", "."): value for name, value in values.items()}), "test")


def start(home: Home, study: Study, jobs: int = 1, **variables: str) -> "subprocess.Popen[str]":
    """The real program on that study; its words go to the file `said` beside the home."""
    home.root.mkdir(parents=True, exist_ok=True)
    beside = home.root.parent
    (beside / "tiny.yaml").write_text(dump_yaml(study.tree))
    (beside / "run_it.py").write_text(RUN)
    environment = {**os.environ, "HARNESS_HOME": str(home.root), "OMP_NUM_THREADS": "1", **variables}
    command = [sys.executable, str(beside / "run_it.py"), str(beside / "tiny.yaml"), "--jobs", str(jobs)]
    with open(beside / "said", "a") as said:
        return subprocess.Popen(command, env=environment, stdout=said, stderr=said, text=True, start_new_session=True)


def said(home: Home) -> str:
    return (home.root.parent / "said").read_text()


def finish(home: Home, study: Study, jobs: int = 1, **variables: str) -> None:
    code = start(home, study, jobs, **variables).wait(timeout=300)
    assert code == 0, said(home)


def wait_for(condition: Callable[[], object], process: "subprocess.Popen[str]", seconds: float = 200) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, "the study ended before it could be hurt"
        assert time.monotonic() < end, "what was waited for did not come"
        time.sleep(0.005)


def workers(driver: int) -> list[int]:
    """The processes that train for a driver."""
    found = []
    for thread in Path(f"/proc/{driver}/task").iterdir():
        for child in map(int, (thread / "children").read_text().split()):
            try:
                if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes():
                    found.append(child)
            except FileNotFoundError:
                continue
    return found


def epochs_of(home: Home, number: int) -> int:
    return len(read_all_epochs(home, "tiny", number))


def results(home: Home) -> list[tuple[object, ...]]:
    """What must be equal in two homes: states, points, and scores to the last bit."""
    return [(t.number, t.state, t.params, t.oof, t.cv, t.fold_values) for t in read_trials(home, "tiny")]


def weights(home: Home) -> dict[tuple[int, int], bytes]:
    return {
        (trial.number, fold): (home.fold("tiny", trial.run_id, fold) / "weights.safetensors").read_bytes()
        for trial in read_trials(home, "tiny")
        for fold in range(FOLDS)
    }


def check_everything_is_settled(home: Home, trials: int, uri: str | None = None, most_retrained: int = 0) -> None:
    """No trial is left running or is there twice, in the ledger, in Optuna and in MLflow, which has all curves."""
    import optuna

    from harness.search.storage import open_optuna

    study = tiny()
    records = read_trials(home, "tiny")
    assert [record.number for record in records] == list(range(trials))
    assert all(record.state == "complete" and record.logged for record in records)
    known = open_optuna(home, "tiny", study.spec.search).get_trials()
    assert [trial.state for trial in known] == [optuna.trial.TrialState.COMPLETE] * trials
    client = MlflowClient(uri or home.mlflow_uri)
    runs = client.search_runs([client.get_experiment_by_name("tiny").experiment_id], max_results=1000)
    assert len(runs) == trials
    by_id = {run.info.run_id: run for run in runs}
    retrained = 0
    for record in records:
        run = by_id[record.run_id]
        assert run.info.status == "FINISHED" and run.data.tags["harness.trial"] == str(record.number)
        assert run.info.artifact_uri == home.run_artifacts("tiny", record.run_id).as_uri()
        assert (home.run_artifacts("tiny", record.run_id) / "DONE").exists()
        assert run.data.metrics["oof/auroc"] == record.oof["auroc"].value
        epochs = Counter((one.report.fold, one.report.epoch) for one in read_all_epochs(home, "tiny", record.number))
        for fold in range(FOLDS):
            curve = client.get_metric_history(record.run_id, f"fold_{fold}/val_auroc")
            assert [point.step for point in curve] == list(range(len(curve))) and len(curve) >= 4
            assert {epoch for f, epoch in epochs if f == fold} == set(range(len(curve)))
        retrained += sum(count - 1 for count in epochs.values())
    assert retrained <= most_retrained, f"{retrained} epochs were trained again, at most {most_retrained} may be"
    assert not list(home.work("tiny").glob("running/*")) and not list(home.work("tiny").glob("pending/*"))
    assert not list(home.study_artifacts("tiny").glob("pending-*"))
    assert not (home.work("tiny") / "driver.json").exists()
