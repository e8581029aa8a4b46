"""What MLflow's page of a study shows first: its trials and ablations as tables, its ensembles with their test scores.

A view is a value under an experiment's tag, in the form MLflow's page writes when somebody shares one; a link names
it by its key. Every other parameter (constants too) stays a column to be chosen on the page. Plain data: knows no
mlflow, no network.
"""

import json
from collections.abc import Sequence

from harness.metrics import METRICS

TAG = "mlflow.sharedViewState."
"""the tag's name is this and the view's key"""


def study_tags(metric: str, varied: Sequence[str], optimistic: bool = False) -> dict[str, str]:
    """Tags of a study's experiment: one per view. `varied`: the parameters that the study varies, by dotted name;
    `optimistic`: whether its folds pick their epoch on the rows they are scored on, which is then a column."""
    interval = ["", "_lo", "_hi"]
    # A table sorted by test scores would invite a choice by them: both views are sorted by out-of-fold scores.
    marks = [_column("tags", "harness.optimistic")] if optimistic else []
    trials = [
        _column("tags", "harness.state"),
        *marks,
        *(_column("metrics", f"oof/{metric}{end}") for end in interval),
        *(_column("metrics", f"cv/{metric}{end}") for end in ("", "_se")),
        *(_column("params", name) for name in sorted(varied, key=_augmentation_last)),
        _column("metrics", "cost/seconds"),
    ]
    ensembles = [
        *marks,
        *(_column("params", f"ensemble.{name}") for name in ("method", "members")),
        *(_column("metrics", f"{score}/{metric}") for score in ("selection", "nested", "oof")),
        *(_column("metrics", f"test/{metric}{end}") for end in interval),
        *(_column("metrics", f"delta/test/{metric}{end}") for end in (*interval, "_p", "_p_holm")),
        *(_column("metrics", f"delta_vs_mean/test/{metric}{end}") for end in (*interval, "_p", "_p_holm")),
    ]
    ablations = [
        *marks,
        *(_column("params", f"ablation.{name}") for name in ("trial", "seeds")),
        *(_column("metrics", name) for name in (f"oof/{metric}", "ablation/noise_floor")),
        *(_column("metrics", f"ablation/{name}") for name in varied),
    ]
    ascending = not METRICS[metric].higher_is_better
    return {
        "mlflow.experimentKind": "custom_model_development",
        f"{TAG}trials": _view("trial", f"oof/{metric}", ascending, trials),
        f"{TAG}ensembles": _view("ensemble", f"oof/{metric}", ascending, ensembles),
        f"{TAG}ablations": _view("ablation", f"oof/{metric}", ascending, ablations),
    }


def page(server: str, experiment: str, view: str) -> str:
    """The address of one view. `server` without a slash at its end."""
    return f"{server}/#/experiments/{experiment}/runs?viewStateShareKey={view}&workflowType=machine_learning"


def _augmentation_last(name: str) -> tuple[bool, str]:
    return name.startswith("augment."), name


def _column(kind: str, name: str) -> str:
    return f"{kind}.`{name}`"


def _view(kind: str, sort_by: str, ascending: bool, columns: list[str]) -> str:
    # Wide enough for the name, and for the arrow of the sorted column; MLflow's own widths cut most names.
    widths = {column: max(96, 28 + 7 * len(column.split("`")[1])) for column in columns}
    return json.dumps(
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
