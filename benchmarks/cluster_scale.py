"""What breaks first at 10, 100 and 1,000 workers: measured costs of the driver's calls, and a model of its queue.

PostgreSQL, MLflow's server and a Ray cluster really run. First every call is timed; then a study of trivial trials
(workers that sleep instead of training) runs over all of it, and its length is compared with the model's prediction:
`ratio` is the smaller of the two over the larger. Then the model is asked about sizes that this machine has not.

    python -m benchmarks.cluster_scale [--trials 60] [--workers 4] [--json]
"""

import os
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from benchmarks._cluster_costs import Costs, measure
from benchmarks._driver_model import Load, Seen, simulate
from benchmarks._report import arguments, publish
from benchmarks._servers import mlflow_server, postgres, ray_cluster
from benchmarks._sleeper import EPOCHS, SECONDS, event_seconds, run_sleepers
from harness.store.home import Home

WORKERS = (10, 100, 1000)
LENGTHS = (1.0, 5.0, 20.0, 60.0)
MEGABYTES = {"resnet18": 44.8, "vit_base_patch16_224": 343.3}
"""of one fold's checkpoint in fp32"""
FOLDS, EPOCHS_OF_A_FOLD = 5, 10


def main() -> None:
    parser = arguments(__doc__ or "")
    parser.add_argument("--trials", type=int, default=60, help="trials that the calls are timed on")
    parser.add_argument("--workers", type=int, default=4, help="actors of the real study")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, postgres() as database:
        home = Home(Path(folder) / "home")
        home.root.mkdir()
        with mlflow_server(database.url("mlflow"), home.artifacts, Path(folder) / "mlflow.log") as mlflow:
            os.environ["HARNESS_STORAGE"] = database.url("optuna")
            os.environ["MLFLOW_TRACKING_URI"] = mlflow.address
            costs = measure(home, database, options.trials)
            print(f"milliseconds of a call: {costs.in_ms()}", file=sys.stderr, flush=True)
            with ray_cluster({"a": options.workers}) as cluster:
                costs = replace(costs, event=event_seconds(cluster.address))
                real = run_sleepers(home, cluster.address, options.workers, 3 * options.workers)
    model = simulate(Load(options.workers, SECONDS, EPOCHS, 0, 3 * options.workers), costs)
    ratio = min(real.seconds, model.seconds) / max(real.seconds, model.seconds)
    publish(
        "cluster_scale",
        ratio,
        0.8,
        options,
        real_seconds=round(real.seconds, 2),
        predicted_seconds=round(model.seconds, 2),
        real_events_per_second=round(real.events / real.seconds, 1),
        cost_ms=costs.in_ms(),
        bytes_per_trial={"optuna": round(costs.optuna_bytes), "mlflow": round(costs.mlflow_bytes)},
        driver_events_per_second=round(1 / costs.of_epoch),
        predictions=predictions(costs),
    )


def predictions(costs: Costs) -> list[dict[str, float]]:
    """One row for each number of workers and length of an epoch."""
    rows = []
    for workers in WORKERS:
        for seconds in LENGTHS:
            seen = simulate(Load(workers, seconds, EPOCHS_OF_A_FOLD, FOLDS, 3 * workers), costs)
            rows.append(row(workers, seconds, seen, costs))
    return rows


def row(workers: int, seconds: float, seen: Seen, costs: Costs) -> dict[str, float]:
    epochs = FOLDS * EPOCHS_OF_A_FOLD
    trial = epochs * (seconds + seen.wait)
    per_second = workers / trial
    return {
        "workers": workers,
        "epoch_seconds": seconds,
        "driver_busy": round(seen.busy, 3),
        "event_waits_ms": round(1000 * seen.wait, 1),
        "time_lost": round(seen.lost, 4),
        "mlflow_busy": round(per_second * costs.of_mirror(epochs, trial), 3),
        "resnet18_MB_per_second": round(per_second * FOLDS * MEGABYTES["resnet18"], 1),
        "vit_base_MB_per_second": round(per_second * FOLDS * MEGABYTES["vit_base_patch16_224"], 1),
    }


if __name__ == "__main__":
    main()
