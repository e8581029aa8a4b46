"""What MLflow's page of a study shows first: its trials and ablations as tables, its ensembles with their test scores.

A view is a value under an experiment's tag, in the form MLflow's page writes when somebody saves one: it stands by its
name in the menu Views, and a link names it by its key. What matters most stands left, as one column of text with its
interval (the page shows numbers with all of their digits); every other parameter (constants too) stays a column to be
chosen on the page. Plain data: knows no mlflow, no network.
"""

import json
import math
from collections.abc import Sequence

from harness.metrics import METRICS

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
