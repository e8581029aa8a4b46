"""A study over all that a cluster has, on this machine: PostgreSQL, MLflow's server, a Ray cluster of three nodes.

Half-way one node is killed (kill -9 of its raylet and its workers) and MLflow's server is stopped for a while. Then it
is checked that nothing was lost: every trial ended, none twice, every result as on one machine alone, MLflow knows all
of it and lists the files. The log goes to benchmarks/results/cluster.log. `ratio` is the share of checks that hold.

    python -m benchmarks.cluster [--trials 12] [--away 60] [--json]
"""

import argparse
import os
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from benchmarks._report import RESULTS, arguments, publish
from benchmarks._servers import Mlflow, Postgres, RayCluster, mlflow_server, postgres, ray_cluster
from benchmarks._tiny_study import tiny
from harness.config.load import Study
from harness.search.ray_workers import Cluster
from harness.search.run import run_study
from harness.store.home import Home
from harness.store.records import read_trials
from harness.types import EpochDone, Event, FoldDone, Notice, StudyStarted, TrialEnded, TrialRecord, TrialStarted

NODES = {"node-a": 1, "node-b": 1, "node-c": 1}


class Log:
    """Lines with the seconds since the start, on the screen's error stream and in the end in a file."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.began = time.monotonic()
        self.checks: list[bool] = []

    def say(self, line: str) -> None:
        self.lines.append(f"{time.monotonic() - self.began:7.1f} s  {line}")
        print(self.lines[-1], file=sys.stderr, flush=True)

    def check(self, holds: bool, what: str) -> None:
        self.checks.append(holds)
        self.say(f"{'ok   ' if holds else 'FAILS'}  {what}")


def main() -> None:
    parser = arguments(__doc__ or "")
    parser.add_argument("--trials", type=int, default=12)
    parser.add_argument("--away", type=float, default=60.0, help="seconds that MLflow's server is away")
    options = parser.parse_args()
    log = Log()
    torch.set_num_threads(1)  # as many as a trial has on the cluster
    study = tiny(
        name="cluster",
        train__epochs=4,
        augment__hflip={"choice": [0.0, 0.5]},
        search__trials=options.trials,
        search__sampler="random",
    )
    with tempfile.TemporaryDirectory() as folder:
        alone, home = Home(Path(folder) / "alone"), Home(Path(folder) / "shared")
        run_study(study, alone, 1, "cpu", lambda event: None)
        log.say(f"{options.trials} trials on this machine alone: what the cluster must give, too")
        with (
            postgres() as database,
            mlflow_server(database.url("mlflow"), home.artifacts, Path(folder) / "mlflow.log") as mlflow,
        ):
            log.say(f"PostgreSQL {database.query('postgres', 'SHOW server_version')} and MLflow's server on it are up")
            with ray_cluster(NODES) as cluster, stores(database, mlflow):
                log.say(f"Ray cluster of {len(NODES)} nodes and a head at {cluster.address}")
                events = run(study, home, cluster, mlflow, options, log)
            examine(study, home, alone, database, mlflow, events, log)
    if options.save:
        (RESULTS / "cluster.log").write_text("\n".join(log.lines) + "\n")
    publish(
        "cluster",
        sum(log.checks) / len(log.checks),
        1.0,
        options,
        checks=len(log.checks),
        trials=options.trials,
        deaths=sum(trial_deaths(events).values()),
        server_away_seconds=options.away,
    )


@contextmanager
def stores(database: Postgres, mlflow: Mlflow) -> Iterator[None]:
    """Inside, the driver keeps its trials in the database and tells MLflow's server."""
    given = {"HARNESS_STORAGE": database.url("optuna"), "MLFLOW_TRACKING_URI": mlflow.address}
    os.environ.update(given)
    try:
        yield
    finally:
        for name in given:
            del os.environ[name]


def run(
    study: Study, home: Home, cluster: RayCluster, mlflow: Mlflow, options: argparse.Namespace, log: Log
) -> list[Event]:
    """The study, with its mishaps. Returns what the driver said."""
    events: list[Event] = []
    mishaps: list[threading.Thread] = []

    def server_away() -> None:
        mlflow.stop()
        log.say("MLflow's server is stopped")
        time.sleep(options.away)
        mlflow.start()
        log.say(f"MLflow's server is back after {options.away:.0f} s")

    def listen(event: Event) -> None:
        events.append(event)
        if isinstance(event, StudyStarted):
            log.say(f"study begins: {event.trials_total} trials, {event.jobs} at a time")
        elif isinstance(event, TrialEnded):
            log.say(f"trial {event.record.number} {event.record.state} {event.record.reason}".rstrip())
        elif isinstance(event, Notice):
            log.say(event.line)
        ended = sum(isinstance(event, TrialEnded) for event in events)
        begun = isinstance(event, EpochDone) and event.report.fold == 1
        if ended >= options.trials // 3 and not mishaps:
            mishaps.append(threading.Thread(target=server_away))
            mishaps[0].start()
        if ended >= options.trials // 2 and begun and "node-b" in cluster.nodes:
            cluster.kill("node-b")
            log.say("kill -9 of node-b: its raylet and its worker, in the middle of a trial")

    run_study(study, home, len(NODES), "auto", listen, Cluster(cluster.address))
    log.say("the driver has ended")
    for mishap in mishaps:
        mishap.join()
    return events


def examine(
    study: Study, home: Home, alone: Home, database: Postgres, mlflow: Mlflow, events: list[Event], log: Log
) -> None:
    from mlflow import MlflowClient

    from harness.track.mlflow_sync import send_missing

    os.environ["MLFLOW_TRACKING_URI"] = mlflow.address
    send_missing(home, study, lambda event: None, 60.0)  # what `harness study resume` does first
    del os.environ["MLFLOW_TRACKING_URI"]
    trials, expected = read_trials(home, study.name), read_trials(alone, study.name)
    total = study.spec.search.trials
    log.check([trial.number for trial in trials] == list(range(total)), f"the ledger has trials 0 to {total - 1}")
    log.check(all(trial.state == "complete" for trial in trials), "every trial is complete")
    log.check(sum(trial_deaths(events).values()) >= 1, "a trial's machine was lost in the middle of it")
    ended = Counter(event.record.number for event in events if isinstance(event, TrialEnded))
    log.check(max(ended.values()) == 1, "none ended twice")
    folds = Counter((event.trial, event.fold) for event in events if isinstance(event, FoldDone))
    again = {key: count for key, count in folds.items() if count > 1}
    deaths = trial_deaths(events)
    log.check(
        all(key[0] in deaths for key in again), "no fold was scored twice but a lost trial's, passed on from disk"
    )
    log.check([scores(trial) for trial in trials] == [scores(trial) for trial in expected], "scores as on one machine")
    log.check(weights(home, trials) == weights(alone, expected), "weights as on one machine, bit for bit")
    states = database.query("optuna", "SELECT state, count(*) FROM trials GROUP BY state")
    log.check(states == f"COMPLETE|{total}", f"PostgreSQL has them: {states}")
    client = MlflowClient(mlflow.address)
    experiment = client.get_experiment_by_name(study.name)
    assert experiment is not None
    runs = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    names = [f"trial-{trial.number:04d}" for trial in trials]
    log.check(sorted(runs) == names, f"MLflow has one run for each: {len(runs)}")
    log.check(all(run.info.status == "FINISHED" for run in runs.values()), "every run is FINISHED")
    same = [
        runs[name].data.metrics.get("oof/auroc") == trial.oof["auroc"].value
        for name, trial in zip(names, trials, strict=len(runs) == len(trials))
        if name in runs
    ]
    log.check(all(same), "with the ledger's scores")
    wanted = study.spec.train.epochs
    curves = [len(client.get_metric_history(trial.run_id, f"fold_{k}/val_auroc")) for trial in trials for k in range(3)]
    log.check(set(curves) == {wanted}, f"every learning curve has its {wanted} epochs once")
    files = {"spec.yaml", "DONE", "fold_0", "fold_1", "fold_2"}
    log.check(all(mlflow.artifact_names(trial.run_id) == files for trial in trials), "MLflow's server lists the files")
    left = list(home.work(study.name).glob("running/*/*"))
    log.check(not left, "no state of a running trial is left over")


def trial_deaths(events: list[Event]) -> Counter[int]:
    """How often each trial was begun again."""
    begun = Counter(event.number for event in events if isinstance(event, TrialStarted))
    return Counter({number: count - 1 for number, count in begun.items() if count > 1})


def scores(trial: TrialRecord) -> tuple[object, ...]:
    return trial.state, trial.params, trial.cv, trial.oof, trial.fold_values


def weights(home: Home, trials: list[TrialRecord]) -> list[bytes]:
    return [
        (home.fold("cluster", trial.run_id, fold) / "weights.safetensors").read_bytes()
        for trial in trials
        for fold in range(3)
    ]


if __name__ == "__main__":
    main()
