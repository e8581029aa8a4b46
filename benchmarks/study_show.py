"""`harness study show` on a study of 2,000 trials while four of them run, in seconds after imports.

The records are written as a driver writes them, each with all metrics and their intervals; the command is the real one
in a process of its own, its imports timed apart. `ratio` is 1 s over the median seconds of the command.

    python -m benchmarks.study_show [--trials 2000] [--json]
"""

import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from benchmarks._report import arguments, publish
from harness.config.load import load_study
from harness.metrics import METRICS
from harness.store.home import Home
from harness.store.records import LoggedEpoch, StudyRecord, append_epoch, write_study, write_trial
from harness.types import EpochReport, Interval, TrialRecord

RUNNING = 4
SHOW = """
import sys, time
began = time.perf_counter()
import json, math, rich.console, rich.table, rich.text, textwrap, typer
import harness.cli.app, harness.output.tables, harness.search.status, harness.store.records
imported = time.perf_counter()
code = harness.cli.app.run(["study", "show", "many", *sys.argv[1:]])
sys.stderr.write(f"{imported - began} {time.perf_counter() - imported} {code}")
"""


def trial(number: int, folds: int, draw: random.Random) -> TrialRecord:
    names = list(METRICS)
    scores = {name: draw.uniform(0.4, 0.9) for name in names}
    oof = {name: Interval(value, value - 0.05, value + 0.05) for name, value in scores.items()}
    params = {"optim.lr": 10 ** draw.uniform(-5, -2), "augment.hflip": draw.choice([0.0, 0.5]), "optim.name": "adamw"}
    values = [scores["auroc"] + draw.gauss(0, 0.02) for _ in range(folds)]
    if draw.random() < 0.3:
        return TrialRecord(number, "pruned", params, f"{number:032x}", fold_values=values[:2], seconds=30.0)
    cv_se = dict.fromkeys(names, 0.01)
    return TrialRecord(number, "complete", params, f"{number:032x}", scores, cv_se, oof, values, "", 100.0, ended=1e9)


def write(home: Home, trials: int) -> None:
    study, draw = load_study("lr_aug_sweep", [f"search.trials={trials}"]), random.Random(0)
    write_study(home, StudyRecord("many", "running", {**study.tree, "name": "many"}, "", "", "", time.time()))
    for number in range(trials - RUNNING):
        write_trial(home, "many", trial(number, study.spec.data.folds, draw))
    for number in range(trials - RUNNING, trials):
        write_trial(home, "many", TrialRecord(number, "running", {}, f"{number:032x}"))
        for epoch in range(20):
            report = EpochReport(0, epoch, 20, 0.5, 0.5, dict.fromkeys(METRICS, 0.5), 1e-3, 1.0, 1000)
            append_epoch(home, "many", number, LoggedEpoch(time.time(), report))


def measure(home: Home, options: list[str]) -> tuple[float, float]:
    """Seconds of the imports, and of the command after them."""
    environment = {**os.environ, "HARNESS_HOME": str(home.root), "COLUMNS": "80"}
    command = [sys.executable, "-c", SHOW, *options]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    imports, seconds, code = done.stderr.split()
    assert (code == "0" and "many: interrupted" in done.stdout) or json.loads(done.stdout)["state"] == "interrupted"
    return float(imports), float(seconds)


def main() -> None:
    parser = arguments(__doc__ or "")
    parser.add_argument("--trials", type=int, default=2000)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        home = Home(Path(folder))
        write(home, options.trials)
        found = {name: [measure(home, sets) for _ in range(options.repeats)] for name, sets in VARIANTS.items()}
    seconds = {name: round(median(pair[1] for pair in pairs), 3) for name, pairs in found.items()}
    publish(
        "study_show",
        1.0 / seconds["best 20"],
        1.0,
        options,
        trials=options.trials,
        seconds_after_imports=seconds,
        seconds_of_imports=round(median(pair[0] for pairs in found.values() for pair in pairs), 3),
    )


VARIANTS = {"best 20": [], "all": ["--all"], "json": ["--json"]}

if __name__ == "__main__":
    main()
