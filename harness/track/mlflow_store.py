"""MLflow's store: its runs, saved views, and homes that have moved.

MLflow: the only file that imports it. Experiment = study, one run per trial or ensemble, folds inside it.

Only a study's driver writes here (harness.track.mlflow_sync), so the store sees one writer per study. A run's artifacts
are written by the training straight into the run's folder (Home.run_artifacts); MLflow finds them there, and no second
copy exists.

A home can be moved: bring the places of artifacts in its own SQLite store up to where the home is now.

MLflow writes absolute places of artifacts into its store. Only the SQLite file in the home is mended; a store that
MLFLOW_TRACKING_URI names belongs to others. Knows no mlflow, so that it costs nothing where nothing has moved.

What MLflow's page of a study shows first: its trials and ablations as tables, its ensembles with their test scores.

A view is a value under an experiment's tag, in the form MLflow's page writes when somebody saves one: it stands by its
name in the menu Views, and a link names it by its key. What matters most stands left, as one column of text with its
interval (the page shows numbers with all of their digits); every other parameter (constants too) stays a column to be
chosen on the page. Plain data: knows no mlflow, no network.
"""

import json
import math
import os
import re
import sqlite3
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from harness.errors import HarnessError
from harness.metrics import METRICS
from harness.store.home import Home, lock
from harness.store.records import LoggedEpoch
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
        """Tags of the experiment, such as the views of its page (harness.track.mlflow_store)."""
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


DEFAULT_EXPERIMENT = 0
"""MLflow makes it by itself, with its artifacts in whatever folder the program was started in"""
PLACES = (
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)
"""what lies below an experiment's folder; all but the first are of registered models, which older stores lack"""


def relocate(home: Home) -> list[str]:
    """Names of the experiments whose artifacts are now looked for under this home.

    The caller holds the store's lock. An experiment is ours when its artifacts lay in a folder `artifacts/NAME`, and
    this home has that folder, or the old place is gone. All rows change in one transaction.
    """
    store = home.root / "mlflow.db"
    if home.mlflow_uri != f"sqlite:///{store}" or not store.exists():
        return []
    connection = sqlite3.connect(store, timeout=60, isolation_level=None)
    try:
        tables = _tables(connection)
        if not {"experiments", "runs"} <= tables or not _moved(connection, home):
            return []
        connection.execute("BEGIN IMMEDIATE")
        moved = _moved(connection, home)
        for number, _, old, new in moved:
            connection.execute(
                "UPDATE experiments SET artifact_location = ? WHERE experiment_id = ?",
                (new, number),
            )
            for table, column in PLACES:
                if table in tables:
                    connection.execute(
                        f"UPDATE {table} SET {column} = ? || substr({column}, ?) WHERE substr({column}, 1, ?) = ?",
                        (new, len(old) + 1, len(old) + 1, f"{old}/"),
                    )
        connection.execute("COMMIT")
        return [name for _, name, _, _ in moved]
    finally:
        connection.close()  # what was not committed is undone


def _tables(connection: sqlite3.Connection) -> set[str]:
    return {str(name) for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}


def _moved(connection: sqlite3.Connection, home: Home) -> list[tuple[int, str, str, str]]:
    """(id, name, old location, new location) of each experiment that this home should hold and that lies elsewhere."""
    rows = connection.execute("SELECT experiment_id, name, artifact_location FROM experiments").fetchall()
    found = []
    for number, name, location in rows:
        old = _local(location)
        if old is None:
            continue
        if number == DEFAULT_EXPERIMENT:
            here = home.artifacts / str(DEFAULT_EXPERIMENT)
            ours = not old.exists()
        else:
            here = home.artifacts / old.name
            ours = old.parent.name == home.artifacts.name and (here.exists() or not old.exists())
        if ours and old.resolve() != here.resolve():  # reached by a link, a home has not moved
            found.append((int(number), str(name), str(location), here.as_uri()))
    return found


def _local(location: str | None) -> Path | None:
    """The folder of a file URI or a plain path; None for anything else (s3://, mlflow-artifacts:/, ...)."""
    if not location:
        return None
    if location.startswith("/"):
        return Path(location)
    parts = urlsplit(location)
    return Path(unquote(parts.path)) if parts.scheme == "file" and not parts.netloc else None


WORDS = "harness."
"""runs' tags that say a score with its interval in words begin with this"""
TAG = "mlflow.sharedViewState."
"""the tag's name is this and the view's key"""


def study_tags(metric: str, varied: Sequence[str], optimistic: bool = False) -> dict[str, str]:
    """Tags of a study's experiment: one per view. `varied`: the parameters that the study varies, by dotted name;
    `optimistic`: whether its folds pick their epoch on the rows they are scored on, which is then a column."""
    interval = ["", "_lo", "_hi"]
    in_words = {
        name: _column("tags", f"{WORDS}{name}/{metric}")
        for name in ("oof", "nested_full", "test", "vs_single", "vs_mean")
    }
    # A table sorted by test scores would invite a choice by them: trials are sorted by what ranks them, the mean over
    # folds, ensembles by out-of-fold scores.
    marks = [_column("tags", "harness.optimistic")] if optimistic else []
    trials = [
        _column("tags", f"{WORDS}cv/{metric}"),
        in_words["oof"],
        *marks,
        *(_column("params", name) for name in sorted(varied, key=_augmentation_last)),
        *(_column("tags", f"harness.{name}") for name in ("state", "reason", "notes")),
        *(_column("metrics", f"cv/{metric}{end}") for end in ("", "_se")),
        *(_column("metrics", f"oof/{metric}{end}") for end in interval),
        _column("metrics", "cost/seconds"),
    ]
    ensembles = [
        *in_words.values(),
        *marks,
        _column("params", "ensemble.members"),
        *(_column("metrics", f"{score}/{metric}") for score in ("selection", "cross_fitted", "oof")),
        *(_column("metrics", f"{score}/{metric}{end}") for score in ("nested_full", "test") for end in interval),
        *(
            _column("metrics", f"{delta}/{on}/{metric}{end}")
            for on in ("test", "nested_full")
            for delta in ("delta", "delta_vs_mean")
            for end in (*interval, "_p_holm")
        ),
        *(_column("tags", f"harness.{name}") for name in ("judged_on", "verdict", "recommended")),
    ]
    ablations = [
        *(_column("tags", f"{WORDS}ablation/{name}") for name in varied),
        *marks,
        *(_column("params", f"ablation.{name}") for name in ("trial", "seeds")),
        *(_column("metrics", name) for name in (f"cv/{metric}", "ablation/noise_floor")),
    ]
    ascending = not METRICS[metric].higher_is_better
    return {
        "mlflow.experimentKind": "custom_model_development",
        f"{TAG}trials": _view("Trials", 3, "trial", f"cv/{metric}", ascending, trials),
        f"{TAG}ensembles": _view("Ensembles", 2, "ensemble", f"oof/{metric}", ascending, ensembles),
        f"{TAG}ablations": _view("Ablations", 1, "ablation", f"cv/{metric}", ascending, ablations),
    }


def words_tags(name: str, metric: str, value: float, lo: float, hi: float, p: float = math.nan) -> dict[str, str]:
    """One column of a view: {'harness.oof/auroc': '0.908 [0.897, 0.918]'}; nothing of what is not defined. A
    difference, which has a p-value, shows its sign."""
    if not math.isfinite(value):
        return {}
    form = ".3f" if math.isnan(p) else "+.3f"
    text = f"{value:{form}}"
    text += f" [{lo:{form}}, {hi:{form}}]" if math.isfinite(lo) and math.isfinite(hi) else ""
    text += f" p={p:.2g}" if math.isfinite(p) else ""
    return {f"{WORDS}{name}/{metric}": text}


def mean_tag(metric: str, value: float, error: float) -> dict[str, str]:
    """{'harness.cv/auroc': '0.908 ± 0.012'}: the mean over folds with its standard error; nothing where it is not
    defined."""
    if not math.isfinite(value):
        return {}
    return {f"{WORDS}cv/{metric}": f"{value:.3f}" + (f" ± {error:.3f}" if math.isfinite(error) else "")}


def page(server: str, experiment: str, view: str) -> str:
    """The address of one view. `server` without a slash at its end."""
    return f"{server}/#/experiments/{experiment}/runs?viewStateShareKey={view}&workflowType=machine_learning"


def _augmentation_last(name: str) -> tuple[bool, str]:
    return name.startswith("augment."), name


def _width(column: str) -> int:
    name = column.split("`")[1]
    in_words = column.startswith("tags.") and "/" in name
    return max(220 if in_words else 96, 28 + 7 * len(name))


def _column(kind: str, name: str) -> str:
    return f"{kind}.`{name}`"


def _view(name: str, place: int, kind: str, sort_by: str, ascending: bool, columns: list[str]) -> str:
    # Wide enough for the name, and for the arrow of the sorted column; MLflow's own widths cut most names.
    widths = {column: _width(column) for column in columns}
    state = json.dumps(
        {
            "searchFilter": f"tags.`harness.kind` = '{kind}'",
            "orderByKey": _column("metrics", sort_by),
            "orderByAsc": ascending,
            "startTime": "ALL",
            "lifecycleFilter": "Active",
            "modelVersionFilter": "All Runs",
            "datasetsFilter": [],
            "selectedColumns": columns,
            "columnOrder": columns,
            "columnWidths": widths,
        }
    )
    # The menu sorts by time, newest first.
    return json.dumps({"name": name, "createdAt": place, "updatedAt": place, "state": state})
