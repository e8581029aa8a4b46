"""Full cross-validation of one grid of configurations, over several seeds: the table that pruners are replayed on.

Each seed is a study of its own (folds, weights, order of trials; everything that `seed` decides), run by the driver
without pruning. What a pruner could have seen is kept in benchmarks/results: every fold's curve over epochs, its final
score, and the trial's pooled out-of-fold score. A folder given by --home keeps what is trained, so that a run that was
cut off goes on. 6,500 s on two cores for five seeds of BreastMNIST.

    python -m benchmarks.racing_table --data PATH/breastmnist.npz [--seeds 5] [--home FOLDER]
    python -m benchmarks.racing_table --data phantom
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from benchmarks._report import RESULTS
from harness.config.load import Study, check_study
from harness.search.run import run_study
from harness.store.files import read_json
from harness.store.home import Home
from harness.store.records import read_trials
from harness.types import Event, TrialEnded

METRICS = ("auroc", "log_loss")
DECIMALS = 6
GRID: dict[str, dict[str, Any]] = {
    "model": {"backbone": {"choice": ["test_resnet", "test_efficientnet"]}},
    "optim": {"lr": {"choice": [3.0e-4, 1.5e-3, 8.0e-3, 4.0e-2]}, "warmup": {"choice": [0.1, 0.5]}},
    "train": {"epochs": {"choice": [6, 12]}, "precision": "fp32", "batch_size": 32},
}
"""good and hopeless rates, two networks, schedules of two lengths, and warm-ups that learn late"""
SETS: dict[str, dict[str, Any]] = {
    "phantom": {"root": "phantom", "classes": ["normal", "bleed"], "group": "patient"},
    "breastmnist": {
        "label": "label",
        "classes": ["1", "0"],
        "group": "none",
        "split": "official",
        "acknowledge": {"conflicting_labels": "two of 780 images are equal", "exact_duplicate": "as it is published"},
    },
}


def study_of(name: str, root: str, seed: int, **search: Any) -> Study:
    """The study of one seed; `search` adds to its block."""
    data = {**SETS[name], "root": root, "folds": 5, "decode": {"size": 32, "channels": 1}}
    block = {"trials": 32, "sampler": "grid", "metric": "auroc", "pruner": "none", **search}
    tree = {"name": f"racing_{name}_{seed}", "seed": seed, "data": data, **GRID, "search": block}
    return check_study(tree, "benchmarks/racing_table.py")


def set_name(data: str) -> str:
    return "phantom" if data == "phantom" else Path(data).stem


def table_of(home: Home, study: str) -> list[dict[str, Any]]:
    """One row per trial: parameters, and for each metric out-of-fold score, fold scores and curves [fold][epoch]."""
    rows = []
    for trial in read_trials(home, study):
        histories = [read_json(home.fold(study, trial.run_id, k) / "history.json") for k in range(5)]
        row: dict[str, Any] = {"params": trial.params}
        for metric in METRICS:
            row[metric] = {
                "oof": round(trial.oof[metric].value, DECIMALS),
                "folds": [round(history["metrics"][metric], DECIMALS) for history in histories],
                "curves": [[round(e["val"][metric], DECIMALS) for e in history["epochs"]] for history in histories],
            }
        rows.append(row)
    return rows


def table_path(name: str) -> Path:
    return RESULTS / f"racing_table_{name}.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="phantom")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--home", type=Path)
    options = parser.parse_args()
    name = set_name(options.data)

    def listen(event: Event) -> None:
        if isinstance(event, TrialEnded):
            print(f"seed {seed}, trial {event.record.number}: {event.record.cv['auroc']:.4f}", flush=True)

    with tempfile.TemporaryDirectory() as folder:
        home = Home(options.home or Path(folder))
        home.root.mkdir(parents=True, exist_ok=True)
        seeds = []
        for seed in range(options.seeds):
            study = study_of(name, options.data, seed)
            run_study(study, home, 1, "cpu", listen)
            seeds.append({"seed": seed, "trials": table_of(home, study.name)})
            text = json.dumps({"set": name, "seeds": seeds}, separators=(",", ":"))
            table_path(name).write_text(text.replace('{"params"', '\n{"params"') + "\n")


if __name__ == "__main__":
    main()
