"""A small study in a process of its own that keeps a state after every epoch, and what is left when it is hurt."""

import contextlib
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mlflow import MlflowClient

from benchmarks._tiny_study import tiny as tiny_study
from harness.config.load import Study, dump_yaml
from harness.store.home import Home
from harness.store.records import read_all_epochs, read_trials
from harness.types import TrialRecord

FOLDS = 2
SETTINGS = {"data__folds": FOLDS, "train__epochs": 4, "search__sampler": "random"}
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
    return tiny_study(**{**SETTINGS, **values})


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
    children: list[int] = []
    for thread in Path(f"/proc/{driver}/task").iterdir():
        with contextlib.suppress(FileNotFoundError):  # a thread that has ended meanwhile
            children += map(int, (thread / "children").read_text().split())
    found = []
    for child in children:
        with contextlib.suppress(FileNotFoundError):
            if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes():
                found.append(child)
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


def problems(home: Home, trials: int, uri: str | None = None, most_retrained: int = 0) -> list[str]:
    """What was lost, is there twice or is left running: in the ledger, in Optuna, in MLflow, on disk. [] is the goal.

    `most_retrained`: finished epochs that may have been trained again, because nobody had time to keep their weights.
    """
    from harness.search.storage import open_optuna

    records = read_trials(home, "tiny")
    if [record.number for record in records] != list(range(trials)):
        return [f"trials {[record.number for record in records]} in the ledger"]
    found = [f"trial {r.number}: {r.state} {r.reason}" for r in records if r.state != "complete" or not r.logged]
    known = open_optuna(home, "tiny", tiny().spec.search).get_trials()
    if [trial.state.name for trial in known] != ["COMPLETE"] * trials:
        found.append(f"Optuna: {[trial.state.name for trial in known]}")
    client = MlflowClient(uri or home.mlflow_uri)
    runs = client.search_runs([client.get_experiment_by_name("tiny").experiment_id], max_results=1000)
    by_id = {run.info.run_id: run for run in runs}
    if sorted(by_id) != sorted(record.run_id for record in records):
        found.append(f"MLflow has {len(runs)} runs, or others than the ledger")
    retrained = 0
    for record in records:
        epochs = Counter((one.report.fold, one.report.epoch) for one in read_all_epochs(home, "tiny", record.number))
        retrained += sum(count - 1 for count in epochs.values())
        if record.run_id in by_id:
            found += _run_problems(home, client, by_id[record.run_id], record, set(epochs))
    if retrained > most_retrained:
        found.append(f"{retrained} epochs were trained again, at most {most_retrained} may be")
    left = [*home.work("tiny").glob("running/*"), *home.work("tiny").glob("pending/*")]
    left += [*home.study_artifacts("tiny").glob("pending-*"), *home.work("tiny").glob("driver.json")]
    return found + [f"{path} is left" for path in left]


def _run_problems(
    home: Home, client: MlflowClient, run: Any, record: TrialRecord, epochs: set[tuple[int, int]]
) -> list[str]:
    """What MLflow's run of a trial lacks, or what lies elsewhere than it says."""
    folder = home.run_artifacts("tiny", record.run_id)
    wrong = {
        "status": run.info.status != "FINISHED",
        "number": run.data.tags["harness.trial"] != str(record.number),
        "place": run.info.artifact_uri != folder.as_uri(),
        "DONE": not (folder / "DONE").exists(),
        "scores": run.data.metrics.get("oof/auroc") != record.oof["auroc"].value,
        "parameters": run.data.params.get("optim.lr") != str(record.params["optim.lr"]),
    }
    for fold in range(FOLDS):
        steps = [point.step for point in client.get_metric_history(record.run_id, f"fold_{fold}/val_auroc")]
        trained = sorted(epoch for f, epoch in epochs if f == fold)
        wrong[f"curve of fold {fold}"] = steps != list(range(len(steps))) or steps != trained or not steps
    return [f"trial {record.number}: {name}" for name, is_wrong in wrong.items() if is_wrong]
