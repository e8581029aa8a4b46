"""One study with failed, pruned, undefined, infeasible and copied trials: every part of the program names one best."""

import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from harness.config.load import check_study
from harness.data.prepare import Prepared
from harness.ensemble.members import best_first, choose_members, complete_members
from harness.metrics import METRICS, score, softmax
from harness.report.collect import collect
from harness.report.overview import question_section
from harness.search.ablation import plan_ablation
from harness.search.compare import find_side
from harness.search.status import study_document, study_rows
from harness.search.warm_start import find_start
from harness.store.home import Home
from harness.store.records import StudyRecord, front, read_study, read_trials, write_study, write_trial
from harness.train.cross_validation import summarize
from harness.types import Dataset, FoldResult, Folds, Interval, TrialRecord

BEST = 4
WHY = "auroc is not defined in fold 1: its rows have one class"
TREE = {
    "name": "mixed",
    "data": {"root": "phantom", "group": "patient", "folds": 2},
    "model": {"backbone": "test_resnet"},
    "optim": {"lr": {"float": [1e-4, 1e-1], "log": True}},
    "search": {"trials": 9},
}


def record(number: int, cv: float, pooled: float, **more) -> TrialRecord:
    given = {"state": "complete", "fold_values": [cv, cv], "costs": {"megabytes": 1.0 + number}} | more
    return TrialRecord(
        number, given.pop("state"), {"optim.lr": 10.0 ** -(1 + number % 4)}, f"run{number}", cv={"auroc": cv},
        cv_se={"auroc": 0.01}, oof={"auroc": Interval(pooled, pooled - 0.1, pooled + 0.1)}, **given,
    )  # fmt: skip


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """The pooled values, the failed, the stopped and the undefined would each name another trial."""
    home = Home(tmp_path)
    study = check_study(TREE, "test")
    write_study(home, StudyRecord("mixed", "complete", study.tree, "", "", "", 0.0, finished=1.0))
    trials = [
        record(0, 0.99, 0.99, state="failed", reason="RuntimeError: no memory"),
        record(1, 0.98, 0.98, state="pruned", fold_values=[0.98]),
        record(2, math.nan, 0.97, fold_values=[0.97, math.nan], reason=WHY),
        record(3, 0.96, 0.96, infeasible=True),
        record(BEST, 0.80, 0.70, notes=["fold-scale"]),
        record(5, 0.80, 0.80, same_as=BEST),
        record(6, 0.79, 0.85),
        record(7, 0.95, 0.95, state="running"),
        record(8, 0.80, 0.75),
    ]
    for trial in trials:
        write_trial(home, "mixed", trial)
        for fold in range(2):
            file = home.fold("mixed", trial.run_id, fold) / "weights.safetensors"
            file.parent.mkdir(parents=True)
            file.touch()
        (home.run_artifacts("mixed", trial.run_id) / "DONE").touch()
    return home


def test_every_part_of_the_program_names_the_same_best_trial(home: Home) -> None:
    study, trials = _study(home), read_trials(home, "mixed")
    document = study_document(study, trials)
    assert document["best"]["number"] == BEST
    row = next(row for row in study_rows(home) if row["study"] == "mixed")
    assert row["best"] == f"auroc 0.800 (trial {BEST})"
    assert [member.number for member in complete_members(home, study, "auroc")] == [BEST, 8, 6]
    assert best_first(choose_members(home, study, "auroc", 5), "auroc") == [0, 2, 1]
    assert find_start("study:mixed", "test_resnet", home).number == BEST
    assert find_side(home, "mixed").trial.number == BEST and find_side(home, "mixed").best_of == 3
    assert plan_ablation(home, "mixed", None, ["optim.lr=1e-3,1e-2"], 2).trial.number == BEST
    assert [trial.number for trial in front(trials, "auroc", ["megabytes"])] == [BEST]
    found = collect(home, study, None, lambda *_: None)
    assert found.chosen is not None and found.chosen.number == BEST
    assert [trial.number for trial in found.complete][:3] == [BEST, 8, 6]
    page = question_section(found)
    assert page.answer.startswith(f"Trial {BEST} is the best of")
    command = [sys.executable, "-m", "harness", "study", "show", "mixed"]
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "HARNESS_HOME": str(home.root), "COLUMNS": "200"}
    )
    assert done.returncode == 0, done.stderr
    text = " ".join(done.stdout.split())
    assert "not ranked: auroc is" in text and text.count("disagree on the scale") == 1
    assert f"Best of {len(trials)}: trial {BEST}, auroc 0.800 (mean over folds), pooled 0.700 [0.600, 0.800]" in text


def test_what_is_not_ranked_says_why_and_scales_that_disagree_are_one_line(home: Home) -> None:
    trials = read_trials(home, "mixed")
    document = study_document(collect(home, _study(home), None, lambda *_: None).record, trials)
    assert document["trials"][2]["reason"] == WHY and document["trials"][2]["state"] == "complete"
    (note,) = document["notes"]
    assert note["code"] == "fold-scale" and note["trials"] == [BEST] and "\n" not in note["message"]
    assert "0.800" in note["message"] and "0.700" in note["message"]
    by_loss = {**_study(home).tree, "search": {**_study(home).tree["search"], "metric": "brier"}}
    assert study_document(replace(_study(home), tree=by_loss), trials)["notes"] == []


def _study(home: Home) -> StudyRecord:
    found = read_study(home, "mixed")
    assert found is not None
    return found


def of_folds(y: np.ndarray, logit: np.ndarray, fold: np.ndarray) -> tuple[list[FoldResult], Prepared]:
    """What training leaves of binary logits."""
    names = np.array([f"{i:03d}" for i in range(len(y))])
    dataset = Dataset(names, tuple(names.tolist()), y, names, ("no", "yes"), "data")
    logits = np.column_stack([np.zeros(len(y)), logit]).astype(np.float32)
    results = []
    for k in range(int(fold.max()) + 1):
        rows = np.flatnonzero(fold == k)
        scores = score(y[rows], softmax(logits[rows]))
        results.append(FoldResult(k, rows, logits[rows], scores, [], 1.0, 10))
    return results, Prepared(dataset, Folds(fold, int(fold.max()) + 1, "f"), np.zeros((len(y), 1, 1, 1)), [], {})


def test_an_undefined_fold_leaves_no_mean_over_folds_and_the_reason() -> None:
    rng = np.random.default_rng(0)
    y, fold = rng.integers(0, 2, 60), np.arange(60) % 3
    y[fold == 1] = 0
    made = summarize(*of_folds(y, rng.normal(size=60), fold), 0, "none")
    assert math.isnan(made.cv["auroc"]) and math.isnan(made.cv_se["auroc"])
    assert made.undefined["auroc"] == WHY and set(made.undefined) == {"auroc", "auprc", "balanced_accuracy"}
    assert math.isfinite(made.oof["auroc"].value) and math.isfinite(made.cv["log_loss"])
    assert set(made.cv) == set(METRICS) and made.notes == []


@pytest.mark.parametrize("seed", range(3))
def test_a_constant_that_a_fold_model_adds_changes_no_ranking(seed: int) -> None:
    """Neither mean over folds nor order of trials moves; the pooled values do, and that is noted."""
    rng = np.random.default_rng(seed)
    y, fold = np.arange(300) % 2, np.arange(300) // 2 % 3
    logits = [signal * y + rng.normal(size=300) for signal in (1.0, 1.6, 2.2)]
    plain = [summarize(*of_folds(y, one, fold), 0, "none") for one in logits]
    offsets = np.array([-2.0, 0.0, 2.0])
    moved = [summarize(*of_folds(y, one + offsets[fold], fold), 0, "none") for one in logits]
    for before, after in zip(plain, moved, strict=True):
        assert after.cv["auroc"] == pytest.approx(before.cv["auroc"], abs=1e-12)
        assert after.oof["auroc"].value < before.oof["auroc"].value - 0.03
        assert after.notes == ["fold-scale"]
    assert np.argsort([one.cv["auroc"] for one in moved]).tolist() == [0, 1, 2]
