"""A study killed again and again (kill -9) and continued with the same command, beside one left alone.

Both run the real command line in homes of their own, with everything switched on that has a state: averaged weights,
gradual unfreezing, a schedule that looks back, a choice of epoch, balanced sampling, mixup, dropout, accumulation.
`ratio` is the share of trials whose state, parameters, scores and every byte of checkpoints and out-of-fold predictions
are equal; the goal is all of them.

    python -m benchmarks.kill_resume [--kills 20] [--trials 4] [--json]
"""

import hashlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pyarrow.parquet as pq

from benchmarks._report import arguments, publish
from harness.store.home import Home
from harness.store.records import read_trials
from harness.types import TrialRecord

STATEFUL = {
    "train.precision": "fp32",
    "train.ema": 0.95,
    "train.freeze": 2,
    "train.unfreeze_every": 2,
    "train.select": "inner",
    "train.sampling": "balanced",
    "train.accumulate": 2,
    "optim.schedule": "plateau",
    "optim.plateau_epochs": 1,
    "optim.layer_decay": 0.8,
    "augment.mixup": 0.2,
    "augment.cutmix": 1.0,
    "model.dropout": 0.2,
}
START_SECONDS = 8.0
"""a process spends about this long on imports before it trains on; killed earlier, it would never get anywhere"""


def command(options: list[str]) -> list[str]:
    return [sys.executable, "-m", "harness", "study", "run", "lr_aug_sweep", "--quiet", *options]


def start(home: Path, options: list[str]) -> "subprocess.Popen[bytes]":
    environment = {**os.environ, "HARNESS_HOME": str(home)}
    quiet = subprocess.DEVNULL
    return subprocess.Popen(command(options), env=environment, start_new_session=True, stdout=quiet, stderr=quiet)


def digests(home: Home, trial: TrialRecord) -> list[str]:
    folder = home.run_artifacts("lr_aug_sweep", trial.run_id)
    weights = [
        hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(folder.glob("fold_*/weights.safetensors"))
    ]
    # without the groups, whose names each home hides in its own way
    tables = [
        pq.read_table(file, columns=["id", "y", "logits"]) for file in sorted(folder.glob("fold_*/predictions.parquet"))
    ]
    return [*weights, *(hashlib.sha256(repr(table.to_pydict()).encode()).hexdigest() for table in tables)]


def told(trial: TrialRecord) -> str:
    score = trial.oof.get("auroc")
    value = f"{score.value:.6f} [{score.lo:.4f}, {score.hi:.4f}]" if score else f"after {len(trial.fold_values)} folds"
    return f"{trial.state:<9} lr {trial.params['optim.lr']:.3e}  {value}"


def main() -> None:
    parser = arguments(__doc__ or "")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--trials", type=int, default=4)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    sets = ["--set", f"search.trials={options.trials}", "--set", f"train.epochs={options.epochs}"]
    sets += [part for key, value in STATEFUL.items() for part in ("--set", f"{key}={value}")]
    draw = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as folder:
        calm, hurt = Path(folder) / "calm", Path(folder) / "hurt"
        began = time.perf_counter()
        if start(calm, sets).wait() != 0:
            raise SystemExit("the undisturbed study failed; run it by hand to see why")
        whole = time.perf_counter() - began
        moments = []
        while len(moments) < options.kills:
            process = start(hurt, sets)
            wait = draw.uniform(0.7, 1.3) * whole / (options.kills + 1) + START_SECONDS
            try:
                process.wait(timeout=wait)
                break
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                moments.append(round(wait, 1))
        code = start(hurt, sets).wait()
        a, b = read_trials(Home(calm), "lr_aug_sweep"), read_trials(Home(hurt), "lr_aug_sweep")
        equal = [
            (x.state, x.params, x.cv, x.oof, x.fold_values) == (y.state, y.params, y.cv, y.oof, y.fold_values)
            and digests(Home(calm), x) == digests(Home(hurt), y)
            for x, y in zip(a, b, strict=False)
        ]
        if not options.json:
            for name, trials in (("undisturbed", a), (f"killed {len(moments)} times", b)):
                print(name)
                for trial in trials:
                    print(f"  trial {trial.number}  {told(trial)}")
        publish(
            "kill_resume",
            sum(equal) / max(len(a), len(b)),
            1.0,
            options,
            kills=len(moments),
            killed_after_seconds=moments,
            undisturbed_seconds=round(whole, 1),
            trials=len(a),
            last_exit_code=code,
            undisturbed=[told(trial) for trial in a],
            killed=[told(trial) for trial in b],
        )


if __name__ == "__main__":
    main()
