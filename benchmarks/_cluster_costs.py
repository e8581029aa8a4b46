"""What each call of a study's driver costs, measured one by one on real servers."""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from benchmarks._servers import Postgres
from harness.config.load import check_study
from harness.config.space import flatten
from harness.search.proposals import Proposals
from harness.store.home import Home
from harness.store.records import LoggedEpoch, append_epoch, write_trial
from harness.track.mlflow_store import Tracking
from harness.track.mlflow_sync import FLUSH_SECONDS
from harness.types import EpochReport, Interval, TrialRecord

EPOCHS_OF_A_BATCH = 10


@dataclass(frozen=True)
class Costs:
    """Seconds of one call, unless said otherwise. Medians."""

    ask: float
    report: float
    tell: float
    epoch_log: float
    ledger: float
    start_run: float
    log_batch: float
    """the points of ten epochs"""
    finish_run: float
    event: float = 0.0
    """from a worker to the driver and back over Ray, with nothing done in between"""
    optuna_bytes: float = 0.0
    """of a trial in PostgreSQL"""
    mlflow_bytes: float = 0.0
    """of a trial in PostgreSQL, with thirty epochs"""

    @property
    def of_epoch(self) -> float:
        """What an epoch takes of the driver."""
        return self.event + self.epoch_log

    @property
    def of_fold(self) -> float:
        return self.event + self.report

    @property
    def of_trial(self) -> float:
        """The end of a trial and the begin of the next."""
        return self.event + 2 * self.ledger + self.tell + self.ask

    def of_mirror(self, epochs: float, seconds: float) -> float:
        """What a trial of so many epochs and seconds takes of the thread that tells MLflow: at most a batch for each
        epoch, at most one every FLUSH_SECONDS. A batch of one epoch is taken to cost what one of ten costs."""
        return self.start_run + self.finish_run + min(epochs, seconds / FLUSH_SECONDS) * self.log_batch

    def in_ms(self) -> dict[str, float]:
        times = {name: 1000 * value for name, value in asdict(self).items() if not name.endswith("_bytes")}
        return {name: round(value, 2) for name, value in times.items()}


def measure(home: Home, database: Postgres, trials: int) -> Costs:
    """All but the event; HARNESS_STORAGE and MLFLOW_TRACKING_URI name the servers. tpe proposes among `trials`."""
    study = check_study(
        {
            "name": "costs",
            "data": {"root": "phantom", "group": "patient"},
            "optim": {"lr": {"float": [1e-5, 1e-1], "log": True}, "weight_decay": {"float": [0.0, 0.3]}},
            "augment": {"hflip": {"choice": [0.0, 0.5]}, "rotate": {"float": [0.0, 30.0]}},
            "search": {"trials": 10 * trials, "sampler": "tpe", "pruner": "none"},
        },
        "costs",
    )
    source, tracking = Proposals(study, home), Tracking(home, "costs")
    sizes = [database.bytes(name) for name in ("optuna", "mlflow")]
    taken: dict[str, list[float]] = {}

    def timed(name: str, call: Callable[..., Any], *arguments: Any) -> Any:
        began = time.perf_counter()
        result = call(*arguments)
        taken.setdefault(name, []).append(time.perf_counter() - began)
        return result

    for number in range(trials):
        point = timed("ask", source.next)
        assert point is not None
        columns = flatten(point.tree)
        run_id = timed("start_run", tracking.start_trial, number, {"harness.state": "running"}, columns)
        for fold in range(3):
            epochs = [LoggedEpoch(time.time(), report_of(fold, epoch)) for epoch in range(EPOCHS_OF_A_BATCH)]
            for one in epochs:
                timed("epoch_log", append_epoch, home, "costs", number, one)
            timed("report", source.fold, number, fold, 0.5)
            timed("log_batch", tracking.log_epochs, run_id, epochs, "auroc")
        score = {"auroc": Interval(0.5, 0.4, 0.6)}
        record = TrialRecord(number, "complete", point.params, run_id, {"auroc": 0.5}, {"auroc": 0.1}, score)
        timed("ledger", write_trial, home, "costs", record)
        timed("tell", source.ended, record)
        timed("finish_run", tracking.finish_trial, run_id, record, 100)
    grown = [(database.bytes(name) - size) / trials for name, size in zip(("optuna", "mlflow"), sizes, strict=True)]
    return Costs(**{name: median(times) for name, times in taken.items()}, optuna_bytes=grown[0], mlflow_bytes=grown[1])


def report_of(fold: int, epoch: int, epochs: int = EPOCHS_OF_A_BATCH) -> EpochReport:
    return EpochReport(fold, epoch, epochs, 0.5, 0.5, {"auroc": 0.5}, 1e-3, 1.0, 100)
