"""What the page of a study is told to show: the form that MLflow's page itself writes when a view is shared."""

import json
import math
from typing import Any

import pytest

from harness.metrics import METRICS
from harness.track.mlflow_store import mean_tag, page, study_tags, words_tags


def view(tags: dict[str, str], key: str) -> dict[str, Any]:
    return dict(json.loads(json.loads(tags[f"mlflow.sharedViewState.{key}"])["state"]))


@pytest.mark.parametrize("metric", METRICS)
def test_views_sort_best_first(metric: str) -> None:
    tags = study_tags(metric, ["optim.lr", "augment.hflip"])
    trials = view(tags, "trials")
    assert trials["orderByKey"] == f"metrics.`cv/{metric}`"
    assert trials["orderByAsc"] is (metric in ("log_loss", "brier"))
    assert {f"metrics.`oof/{metric}{end}`" for end in ("", "_lo", "_hi")} <= set(trials["selectedColumns"])
    assert {"params.`optim.lr`", "params.`augment.hflip`"} <= set(trials["selectedColumns"])
    assert len(trials["selectedColumns"]) == len(set(trials["selectedColumns"]))
    ensembles = view(tags, "ensembles")
    assert ensembles["orderByKey"] == f"metrics.`oof/{metric}`", "sorting by test scores would be choosing by them"
    assert f"metrics.`test/{metric}`" in ensembles["selectedColumns"]


def test_trials_do_not_show_test_scores() -> None:
    trials = view(study_tags("auroc", ["optim.lr"]), "trials")
    assert not any("test/" in column for column in trials["selectedColumns"])
    assert "'trial'" in trials["searchFilter"]


def test_a_link_names_the_view() -> None:
    assert page("http://h:1", "7", "trials").startswith("http://h:1/#/experiments/7/runs?viewStateShareKey=trials&")


def test_a_view_of_many_parameters_fits_in_a_tag() -> None:
    names = [f"augment.a_rather_long_name_{number}" for number in range(60)]
    assert all(len(value) < 20_000 for value in study_tags("balanced_accuracy", names).values())


def test_scores_in_words_round_and_leave_out_what_is_not_defined() -> None:
    assert words_tags("oof", "auroc", 0.90821, 0.89684, 0.9184) == {"harness.oof/auroc": "0.908 [0.897, 0.918]"}
    assert words_tags("vs_mean", "brier", -0.0104, -0.02, 0.001, 0.0312) == {
        "harness.vs_mean/brier": "-0.010 [-0.020, +0.001] p=0.031"
    }
    assert words_tags("test", "auroc", 0.5, math.nan, math.nan) == {"harness.test/auroc": "0.500"}
    assert words_tags("test", "auroc", math.nan, 0.1, 0.2) == {}
    assert mean_tag("auroc", 0.9083, 0.0118) == {"harness.cv/auroc": "0.908 ± 0.012"}
    assert (
        mean_tag("auroc", 0.9083, math.nan) == {"harness.cv/auroc": "0.908"} and mean_tag("auroc", math.nan, 0.1) == {}
    )
