"""MLflow: the only file that imports it. Experiment = study, one run per trial or ensemble, folds inside it.

Only a study's driver writes here (harness.track.mirror), so the store sees one writer per study. A run's artifacts are
written by the training straight into the run's folder (Home.run_artifacts); MLflow finds them there, and no second copy
exists.
"""

import math
import os
import re
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import HarnessError
from harness.store.home import Home, lock
from harness.store.records import LoggedEpoch
from harness.track.relocate import relocate
from harness.track.views import mean_tag, words_tags
from harness.types import Interval, TrialRecord

if TYPE_CHECKING:
    from mlflow import MlflowClient

Point = tuple[str, float, int, float]
"""a metric's name, its value, its step, and when: seconds since 1970"""
REQUEST_SECONDS = 10
"""how long a server may take to answer one request; the client's own two minutes, seven times, are no answer"""
MOST_POINTS, MOST_PARAMS = 1000, 100
"""what MLflow takes in one request"""
LONGEST_PARAM = 6000
"""MLflow cuts longer values without a word"""
ILLEGAL = re.compile(r"[^\w/.\- :]")
"""what MLflow takes in no name; columns of a labels file, which data.where names, may hold anything"""


class StoreAway(HarnessError):
    """The store does not answer."""


class Tracking:
    """One study's experiment, open for writing. Every call may be repeated: the store keeps one of each point."""

    def __init__(self, home: Home, study: str, description: str = "") -> None:
        self._client, self._experiment = open_store(home, study, description)

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
        self.log_params(run_id, params)
        return run_id

    def find_trial(self, number: int) -> str | None:
        """The id of a trial's run, where it has one: a crash may have come between making it and writing that down."""
        found = self._client.search_runs(
            [self._experiment],
            f"tags.`harness.kind` = 'trial' and tags.`harness.trial` = '{number}'",
            order_by=["attributes.start_time"],
            max_results=1,
        )
        return str(found[0].info.run_id) if found else None

    def find_kind(self, kind: str) -> str | None:
        """The id of the newest run of a kind of which a study has one, such as its report."""
        found = self._client.search_runs([self._experiment], f"tags.`harness.kind` = '{kind}'", max_results=1)
        return str(found[0].info.run_id) if found else None

    def log_params(self, run_id: str, params: dict[str, Any]) -> None:
        self._log(run_id, params=params)

    def log_epochs(self, run_id: str, epochs: Sequence[LoggedEpoch], metric: str) -> None:
        """Learning curves of folds, with step = epoch, at the time that each epoch's log has."""
        self._log(run_id, metrics=[point for epoch in epochs for point in curve_points(epoch, metric)])

    def finish_trial(self, run_id: str, record: TrialRecord, images: int) -> None:
        """Scores, state and end of a run, from the trial's record. `images`: training images seen over all epochs."""
        scores = {f"cost/{name}": value for name, value in record.costs.items()}
        if record.state == "complete":
            scores.update({f"cv/{name}": value for name, value in record.cv.items()})
            scores.update({f"cv/{name}_se": value for name, value in record.cv_se.items()})
            scores.update(interval_metrics("oof", record.oof))
            scores["cost/seconds"] = record.seconds
            scores["cost/images_per_second"] = images / max(record.seconds, 1e-9)
        tags = {"harness.state": record.state}
        for name, found in record.oof.items() if record.state == "complete" else ():
            tags |= words_tags("oof", name, found.value, found.lo, found.hi)
        for name, value in record.cv.items() if record.state == "complete" else ():
            tags |= mean_tag(name, value, record.cv_se.get(name, math.nan))
        tags |= {"harness.notes": ", ".join(record.notes)} if record.notes else {}
        tags |= {"harness.reason": record.reason[:LONGEST_PARAM]} if record.reason else {}
        self._log(run_id, metrics=[(name, value, 0, record.ended) for name, value in scores.items()], tags=tags)
        status = {"complete": "FINISHED", "pruned": "FINISHED", "failed": "FAILED"}[record.state]
        self._client.set_terminated(run_id, status, end_time=int(1000 * record.ended))

    def log_run(
        self, name: str, tags: dict[str, str], params: dict[str, Any], metrics: dict[str, float], note: str = ""
    ) -> str:
        """A whole run at once: an ensemble, an evaluation. Returns the run's id."""
        if note:
            tags = {**tags, "mlflow.note.content": note}
        run_id = str(self._client.create_run(self._experiment, run_name=name, tags=tags).info.run_id)
        now = time.time()
        self._log(run_id, params=params, metrics=[(key, value, 0, now) for key, value in metrics.items()])
        self._client.set_terminated(run_id, "FINISHED")
        return run_id

    def log_table(self, run_id: str, columns: dict[str, list[Any]], file: str) -> None:
        """A table as an artifact that MLflow's page of the run shows as one. `columns`: equally long lists by name."""
        self._client.log_table(run_id, columns, file)

    def log_text(self, run_id: str, text: str, file: str) -> None:
        self._client.log_text(run_id, text, file)

    def log_artifact(self, run_id: str, file: Path, folder: str = "") -> None:
        self._client.log_artifact(run_id, str(file), folder or None)

    def _log(
        self,
        run_id: str,
        metrics: Sequence[Point] = (),
        params: dict[str, Any] | None = None,
        tags: dict[str, str] | None = None,
    ) -> None:
        """As many batches as the store takes. NaN and infinity are left out: it would turn them into numbers."""
        from mlflow.entities import Metric, Param, RunTag

        points = [
            Metric(name, value, int(1000 * at), step) for name, value, step, at in metrics if math.isfinite(value)
        ]
        columns = [Param(ILLEGAL.sub("_", name), str(value)[:LONGEST_PARAM]) for name, value in (params or {}).items()]
        notes = [RunTag(name, value) for name, value in (tags or {}).items()]
        for start in range(0, len(columns), MOST_PARAMS):
            self._client.log_batch(run_id, params=columns[start : start + MOST_PARAMS])
        for start in range(0, len(points), MOST_POINTS):
            self._client.log_batch(run_id, metrics=points[start : start + MOST_POINTS])
        if notes:
            self._client.log_batch(run_id, tags=notes)


def curve_points(epoch: LoggedEpoch, metric: str) -> list[Point]:
    """What one epoch adds to the curves of its fold."""
    report = epoch.report
    found = {"train_loss": report.train_loss, "val_loss": report.val_loss, f"val_{metric}": report.val[metric]}
    found["lr"] = report.lr
    if report.inner is not None and report.inner_loss is not None:
        found |= {"inner_loss": report.inner_loss, f"inner_{metric}": report.inner[metric]}
    if report.parts > 1:
        found["parts"] = report.parts
    return [(f"fold_{report.fold}/{name}", value, report.epoch, epoch.at) for name, value in found.items()]


def is_refusal(error: Exception) -> bool:
    """Whether the store answered, and the answer was no: asking again would not help."""
    from mlflow.exceptions import MlflowException

    status = int(error.get_http_status_code()) if isinstance(error, MlflowException) else 500  # type: ignore[no-untyped-call]
    return 400 <= status < 500 and status not in (408, 429)


def log_run(
    home: Home,
    study: str,
    name: str,
    tags: dict[str, str],
    params: dict[str, Any],
    metrics: dict[str, float],
    artifacts: dict[str, Path] | None = None,
    note: str = "",
    tables: dict[str, dict[str, list[Any]]] | None = None,
) -> str:
    """One finished run in a study's experiment, with small files by artifact folder name and tables (equally long
    columns) by file name. Returns the run's id."""
    tracking = Tracking(home, study)
    run_id = tracking.log_run(name, tags, params, metrics, note)
    for file_name, columns in (tables or {}).items():
        tracking.log_table(run_id, columns, file_name)
    for folder, file in (artifacts or {}).items():
        tracking.log_artifact(run_id, file, folder)
    return run_id


def publish_page(home: Home, study: str, run_id: str | None, page: Path, title: str) -> None:
    """A page as `report.html` of a run, in the place of an earlier one; of the study's own run where none is named.
    Raises StoreAway."""
    tracking = Tracking(home, study)
    try:
        if run_id is None:
            tags = {"harness.kind": "report", "harness.state": "complete"}
            note = f"{title}: open report.html under Artifacts."
            run_id = tracking.find_kind("report") or tracking.log_run("report", tags, {}, {}, note)
        tracking.log_text(run_id, page.read_text(), "report.html")
    except Exception as error:
        raise _away(home, error) from error


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


def open_store(home: Home, study: str, description: str = "") -> tuple["MlflowClient", str]:
    """A client, and the id of the study's experiment, which is made where there is none. Raises StoreAway."""
    client = _client(home)
    try:
        return client, _experiment(client, home, study, description)
    except HarnessError:
        raise
    except Exception as error:
        raise _away(home, error) from error


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
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # else two lines for each trial
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", str(REQUEST_SECONDS))
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
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
        raise _away(home, error) from error


def _away(home: Home, error: Exception) -> StoreAway:
    return StoreAway(
        f"the MLflow store at {home.mlflow_uri} does not answer: {error}. "
        "Start it, or unset MLFLOW_TRACKING_URI to use the store in this home."
    )


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
