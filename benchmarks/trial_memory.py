"""Memory of a process that trains many trials: after the last it holds no more than after the fifth.

Runs real studies on the built-in data set, tiny trials in a process of its own: once with --jobs 1, where the driver
trains, and once with --jobs 2, where each worker trains about as many. `ratio` is the resident memory after a process's
fifth trial over that after its last, the smallest of the processes; on a card also of the memory held there.

    python -m benchmarks.trial_memory [--trials 50] [--json]
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from benchmarks._report import arguments, publish
from harness.config.load import load_study
from harness.search.run import run_study
from harness.store.home import Home
from harness.types import Event, TrialEnded

EARLY = 5
SETS = (
    "search.pruner=none",
    "search.sampler=random",
    "train.epochs=1",
    "train.precision=fp32",
    "data.folds=2",
    "data.decode.size=32",
    "model.backbone=test_resnet",
)


def resident(process: int) -> int:
    """MiB of a process's memory that is in RAM."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:")) // 1024


def children(process: int) -> list[int]:
    threads = Path(f"/proc/{process}/task").iterdir()
    return [int(child) for thread in threads for child in (thread / "children").read_text().split()]


def run_inside(trials: int, jobs: int, device: str, folder: str) -> None:
    """In a process of its own: one JSON object after each trial, MiB by process, and of the card."""

    def listen(event: Event) -> None:
        if not isinstance(event, TrialEnded):
            return
        workers = [child for child in children(os.getpid()) if is_worker(child)]
        found = {f"worker {worker}": resident(worker) for worker in workers} | {"driver": resident(os.getpid())}
        if device.startswith("cuda") and jobs == 1:
            found["card, in tensors"] = torch.cuda.memory_allocated(device) >> 20
            found["card, reserved"] = torch.cuda.memory_reserved(device) >> 20
        print(json.dumps(found), flush=True)

    study = load_study("lr_aug_sweep", [f"search.trials={trials}", *SETS])
    run_study(study, Home(Path(folder)), jobs, device, listen)


def is_worker(process: int) -> bool:
    return "spawn_main" in Path(f"/proc/{process}/cmdline").read_text()


def measure(trials: int, jobs: int, device: str) -> list[dict[str, int]]:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "benchmarks.trial_memory", "--inside", folder]
        command += ["--trials", str(trials), "--jobs", str(jobs), "--device", device]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def main() -> None:
    parser = arguments(__doc__ or "")
    parser.add_argument("--trials", type=int, default=50, help="for each process that trains")
    parser.add_argument("--jobs", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--inside", help="for its own use")
    options = parser.parse_args()
    if options.inside:
        run_inside(options.trials, options.jobs[0], options.device, options.inside)
        return
    ratios: dict[str, float] = {}
    mebibytes: dict[str, dict[str, int]] = {}
    for jobs in options.jobs:
        found = measure(options.trials * jobs, jobs, options.device)
        for name in sorted({name for row in found for name in row}):
            series = [row[name] for row in found if name in row]
            # a trial of each process ends about every `jobs` trials
            early, last = series[min(EARLY * jobs, len(series)) - 1], series[-1]
            label = f"{jobs} jobs, {name}"
            ratios[label] = early / last if last else 1.0
            mebibytes[label] = {"after 5 trials": early, "after all": last, "most": max(series)}
    publish(
        "trial_memory",
        min(ratios.values()),
        0.95,
        options,
        trials=options.trials,
        ratios={name: round(value, 3) for name, value in ratios.items()},
        mebibytes=mebibytes,
        device=options.device,
    )


if __name__ == "__main__":
    main()
