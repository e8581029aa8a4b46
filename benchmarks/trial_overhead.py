"""Seconds of a trial that are not epochs: ask, checkpoints, out-of-fold predictions and intervals, MLflow, ledger.

Runs a real study on the built-in data set; the first trial warms up. `ratio` is 1 s over the seconds used.

    python -m benchmarks.trial_overhead [--trials 6] [--json]
"""

import tempfile
import time
from pathlib import Path
from statistics import median

from benchmarks._report import arguments, publish
from harness.config.load import load_study
from harness.search.run import run_study
from harness.store.home import Home
from harness.types import EpochDone, Event, TrialEnded


def main() -> None:
    parser = arguments(__doc__ or "")
    parser.add_argument("--trials", type=int, default=6)
    parser.add_argument("--backbone", default="resnet10t")
    options = parser.parse_args()
    overheads: list[float] = []
    began, training = time.perf_counter(), 0.0

    def listen(event: Event) -> None:
        nonlocal began, training
        if isinstance(event, EpochDone):
            training += event.report.seconds
        elif isinstance(event, TrialEnded):
            overheads.append(time.perf_counter() - began - training)
            began, training = time.perf_counter(), 0.0

    study = load_study(
        "lr_aug_sweep",
        [
            f"search.trials={options.trials}",
            "search.pruner=none",
            "train.epochs=2",
            f"model.backbone={options.backbone}",
        ],
    )
    with tempfile.TemporaryDirectory() as folder:
        run_study(study, Home(Path(folder)), 1, "cpu", listen)
    seconds = median(overheads[1:])
    publish(
        "trial_overhead",
        1.0 / seconds,
        1.0,
        options,
        seconds_per_trial=round(seconds, 3),
        folds=study.spec.data.folds,
        backbone=options.backbone,
        each=[round(value, 3) for value in overheads[1:]],
    )


if __name__ == "__main__":
    main()
