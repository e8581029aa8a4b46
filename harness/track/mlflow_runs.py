"""MLflow: the only file that imports it. Experiment = study, one run per trial or ensemble, folds inside it.

Only a study's driver writes here, so the store sees one writer per study. A run's artifacts are written by the
training straight into the run's folder (Home.run_artifacts); MLflow finds them there, and no second copy exists.
"""

import math
import os
import re
import subprocess
import time
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import HarnessError
from harness.home import Home, lock
from harness.records import EpochReport, Interval, TrialResult
from harness.track.relocate import relocate

if TYPE_CHECKING:
    from mlflow import MlflowClient

FLUSH_SECONDS = 5.0
"""learning curves reach the store at the end of a fold, or after this time"""
LONGEST_PARAM = 6000
ILLEGAL = re.compile(r"[^\w/.\- :]")
"""what MLflow takes in no name; columns of a labels file, which data.where names, may hold anything"""
"""MLflow cuts longer values without a word"""


class Tracking:
    """One study's experiment, open for writing."""

    def __init__(self, home: Home, study: str, description: str = "") -> None:
        self._client = _client(home)
        self._experiment = _experiment(self._client, home, study, description)
        self._buffer: list[tuple[str, float, int]] = []
        self._flushed = time.monotonic()

    def tag_study(self, tags: dict[str, str]) -> None:
        """Tags of the experiment, such as the views of its page (harness.track.views)."""
        for name, value in tags.items():
            self._client.set_experiment_tag(self._experiment, name, value)

    def start_trial(self, number: int, tags: dict[str, str], params: dict[str, Any]) -> str:
        """A new run for a trial, its parameters written once. Returns the run's id."""
        name = f"trial-{number:04d}"
        tags = {"harness.kind": "trial", "harness.trial": str(number), **tags}
        run = self._client.create_run(self._experiment, run_name=name, tags=tags)
        run_id = str(run.info.run_id)
        self._log(run_id, params=params)
        return run_id

    def log_epoch(self, run_id: str, report: EpochReport, metric: str) -> None:
        """Learning curves of a fold, with step = epoch."""
        prefix = f"fold_{report.fold}"
        self._buffer += [
            (f"{prefix}/train_loss", report.train_loss, report.epoch),
            (f"{prefix}/val_loss", report.val_loss, report.epoch),
            (f"{prefix}/val_{metric}", report.val[metric], report.epoch),
            (f"{prefix}/lr", report.lr, report.epoch),
        ]
        if report.inner is not None and report.inner_loss is not None:
            self._buffer += [
                (f"{prefix}/inner_loss", report.inner_loss, report.epoch),
                (f"{prefix}/inner_{metric}", report.inner[metric], report.epoch),
            ]
        if report.parts > 1:
            self._buffer.append((f"{prefix}/parts", report.parts, report.epoch))
        if report.epoch + 1 == report.epochs or time.monotonic() - self._flushed > FLUSH_SECONDS:
            self.flush(run_id)

    def flush(self, run_id: str) -> None:
        if self._buffer:
            self._log(run_id, metrics=self._buffer)
        self._buffer, self._flushed = [], time.monotonic()

    def finish_trial(
        self, run_id: str, state: str, reason: str, result: TrialResult | None, costs: dict[str, float] | None = None
    ) -> None:
        """Scores, costs, state and end of a run. Harmless when repeated after a crash."""
        self.flush(run_id)
        scores = {f"cost/{name}": value for name, value in (costs or {}).items()}
        if result is not None:
            scores.update({f"cv/{name}": value for name, value in result.cv.items()})
            scores.update({f"cv/{name}_se": value for name, value in result.cv_se.items()})
            scores.update(interval_metrics("oof", result.oof))
            scores["cost/seconds"] = result.seconds
            scores["cost/images_per_second"] = result.images_per_second
        tags = {"harness.state": state} | ({"harness.reason": reason[:LONGEST_PARAM]} if reason else {})
        self._log(run_id, metrics=[(name, value, 0) for name, value in scores.items()], tags=tags)
        status = {"complete": "FINISHED", "pruned": "FINISHED", "failed": "FAILED"}[state]
        self._client.set_terminated(run_id, status)

    def unfinished(self) -> set[str]:
        """Ids of this experiment's runs that the store believes to be running."""
        found: set[str] = set()
        token = None
        while True:
            page = self._client.search_runs(
                [self._experiment], "attributes.status = 'RUNNING'", max_results=1000, page_token=token
            )
            found.update(str(run.info.run_id) for run in page)
            token = page.token
            if not token:
                return found

    def log_run(
        self, name: str, tags: dict[str, str], params: dict[str, Any], metrics: dict[str, float], note: str = ""
    ) -> str:
        """A whole run at once: an ensemble, an evaluation. Returns the run's id."""
        if note:
            tags = {**tags, "mlflow.note.content": note}
        run_id = str(self._client.create_run(self._experiment, run_name=name, tags=tags).info.run_id)
        self._log(run_id, params=params, metrics=[(key, value, 0) for key, value in metrics.items()])
        self._client.set_terminated(run_id, "FINISHED")
        return run_id

    def log_artifact(self, run_id: str, file: Path, folder: str = "") -> None:
        self._client.log_artifact(run_id, str(file), folder or None)

    def _log(
        self,
        run_id: str,
        metrics: list[tuple[str, float, int]] | None = None,
        params: dict[str, Any] | None = None,
        tags: dict[str, str] | None = None,
    ) -> None:
        """One batch. NaN and infinity are left out: the store would turn them into numbers."""
        from mlflow.entities import Metric, Param, RunTag

        now = int(time.time() * 1000)
        finite = [(name, value, step) for name, value, step in metrics or [] if math.isfinite(value)]
        self._client.log_batch(
            run_id,
            metrics=[Metric(name, value, now, step) for name, value, step in finite],
            params=[
                Param(ILLEGAL.sub("_", name), str(value)[:LONGEST_PARAM]) for name, value in (params or {}).items()
            ],
            tags=[RunTag(name, value) for name, value in (tags or {}).items()],
        )


def log_run(
    home: Home,
    study: str,
    name: str,
    tags: dict[str, str],
    params: dict[str, Any],
    metrics: dict[str, float],
    artifacts: dict[str, Path] | None = None,
    note: str = "",
) -> str:
    """One finished run in a study's experiment, with small files by artifact folder name. Returns the run's id."""
    tracking = Tracking(home, study)
    run_id = tracking.log_run(name, tags, params, metrics, note)
    for folder, file in (artifacts or {}).items():
        tracking.log_artifact(run_id, file, folder)
    return run_id


def interval_metrics(prefix: str, scores: dict[str, Interval]) -> dict[str, float]:
    """{'oof/auroc': ..., 'oof/auroc_lo': ..., 'oof/auroc_hi': ...}"""
    flat: dict[str, float] = {}
    for name, interval in scores.items():
        flat |= {
            f"{prefix}/{name}": interval.value,
            f"{prefix}/{name}_lo": interval.lo,
            f"{prefix}/{name}_hi": interval.hi,
        }
    return flat


def commit() -> str:
    """The commit of this program's checkout, with '+' when files differ from it; 'unknown' outside a checkout."""
    here = Path(__file__).parent
    try:
        found = subprocess.run(
            ["git", "describe", "--always", "--abbrev=12", "--dirty=+"],
            cwd=here,
            capture_output=True,
            text=True,
            timeout=10,
        )
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    return found.stdout.strip() if found.returncode == 0 else "unknown"


def experiment_id(home: Home, study: str) -> str | None:
    """The experiment's id, for links into the UI."""
    experiment = _client(home).get_experiment_by_name(study)
    return str(experiment.experiment_id) if experiment else None


def store_lock(home: Home) -> AbstractContextManager[None]:
    """Held while the store is opened: its tables may be made, its places mended."""
    return lock(home.root / "mlflow.lock", "the MLflow store")


def _client(home: Home) -> "MlflowClient":
    """A client, with the store's schema made under a lock: several cold starts at once would break it.

    Where the home has been moved, its store learns the new place of the artifacts first.
    """
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
    import logging

    from mlflow import MlflowClient

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        with store_lock(home):
            client = MlflowClient(tracking_uri=home.mlflow_uri)
            client.search_experiments(max_results=1)
            relocate(home)
        return client
    except HarnessError:
        raise
    except Exception as error:
        raise HarnessError(
            f"the MLflow store at {home.mlflow_uri} does not answer: {error}. "
            "Start it, or unset MLFLOW_TRACKING_URI to use the store in this home."
        ) from error


def _experiment(client: "MlflowClient", home: Home, study: str, description: str) -> str:
    from mlflow.exceptions import MlflowException

    location = home.study_artifacts(study).as_uri()
    found = client.get_experiment_by_name(study)
    if found is not None and found.lifecycle_stage == "deleted":
        raise HarnessError(
            f"the MLflow experiment {study!r} was deleted in the UI. Restore it there, or run the study --as NEWNAME."
        )
    if found is not None:
        return str(found.experiment_id)
    try:
        # MLflow's page would else show the tools of its language models instead of runs
        tags = {"mlflow.experimentKind": "custom_model_development"}
        tags |= {"mlflow.note.content": description} if description else {}
        return str(client.create_experiment(study, artifact_location=location, tags=tags))
    except MlflowException:  # another process made it just now
        again = client.get_experiment_by_name(study)
        if again is None:
            raise
        return str(again.experiment_id)
