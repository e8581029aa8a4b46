"""Importances against functions whose shares are known, and the page that shows them."""

import json
import subprocess
import sys

import numpy as np
import pytest

from harness.config.load import check_study
from harness.search.optuna_export import caution, importances
from harness.store.home import Home
from harness.store.records import StudyRecord, write_study, write_trial
from harness.types import TrialRecord

TREE = {
    "name": "known",
    "data": {"root": "phantom", "group": "patient"},
    "optim": {
        "name": {"choice": ["adamw", "sgd"]},
        "momentum": {"float": [0.5, 0.9], "when": {"optim.name": "sgd"}},
        "lr": {"float": [1e-4, 1e-1], "log": True},
    },
    "augment": {"noise": {"float": [0.0, 1.0]}, "hflip": {"float": [0.0, 1.0]}},
    "search": {"trials": 300},
}


def trials(count, seed=0):
    """3 a + 1 b + 0 c on independent uniform keys: shares of the variance 9/10, 1/10 and 0."""
    draw = np.random.default_rng(seed)
    for number in range(count):
        a, b = draw.random(2)
        params = {"optim.name": str(draw.choice(["adamw", "sgd"])), "optim.lr": 10 ** (-4 + 3 * a), "augment.noise": b}
        params["augment.hflip"] = draw.random()
        if params["optim.name"] == "sgd":
            params["optim.momentum"] = 0.5 + 0.4 * draw.random()
        value = 0.5 + 0.1 * (3 * a + b) + 0.001 * draw.standard_normal()
        yield TrialRecord(number, "complete", params, f"r{number}", cv={"auroc": value})


def shares(method, count=300):
    found = importances(check_study(TREE, "test"), list(trials(count)), method)
    return {one.name: one.value for one in found}, [one.name for one in found]


def test_fanova_finds_the_shares_of_the_variance():
    share, order = shares("fanova")
    assert share["optim.lr"] == pytest.approx(0.9, abs=0.05)
    assert share["augment.noise"] == pytest.approx(0.1, abs=0.05)
    assert share["augment.hflip"] < 0.02 and share["optim.name"] < 0.02
    assert (
        order[:2] == ["optim.lr", "augment.noise"] and share["optim.momentum"] is None and order[-1] == "optim.momentum"
    )


def test_ped_anova_ranks_what_tells_the_best_from_the_rest():
    share, order = shares("ped_anova")
    assert order[0] == "optim.lr" and share["optim.lr"] > 0.6
    assert max(share["augment.hflip"], share["optim.name"]) < 0.15
    assert sum(value for value in share.values() if value is not None) == pytest.approx(1.0)


def test_copies_and_failures_count_for_nothing_and_few_trials_are_called_few():
    study, few = check_study(TREE, "test"), list(trials(12))
    more = [
        *few,
        TrialRecord(12, "failed", {}, "r"),
        TrialRecord(13, "complete", few[0].params, "r", oof=few[0].oof, same_as=0),
    ]
    assert importances(study, more, "ped_anova") == importances(study, few, "ped_anova")
    assert caution(study, few).startswith("12 scored trials are too few to rank 5 keys: wait for 25")
    assert caution(study, list(trials(30))) == ""
    assert {one.value for one in importances(study, [], "fanova")} == {None}


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("HARNESS_HOME", str(tmp_path / "home"))
    home = Home(tmp_path / "home")
    write_study(home, StudyRecord("known", "running", check_study(TREE, "test").tree, "h", "d", "f", 0.0))
    for trial in trials(30):
        write_trial(home, "known", trial)
    return home


def harness(*words):
    return subprocess.run([sys.executable, "-m", "harness", "study", *words], capture_output=True, text=True)


def test_the_commands_read_a_running_study_and_write_nothing_into_it(home, tmp_path):
    before = {path: path.stat().st_mtime_ns for path in home.root.rglob("*")}
    out = tmp_path / "out"
    said, made = harness("importance", "known", "--json"), harness("plots", "known", "--out", str(out))
    assert (said.returncode, made.returncode) == (0, 0), said.stderr + made.stderr
    document = json.loads(said.stdout)
    assert document["keys"][0]["name"] == "optim.lr" and document["warning"] is None
    assert made.stdout.strip() == str(out / "known.html")
    assert {path: path.stat().st_mtime_ns for path in home.root.rglob("*")} == before
    text = (out / "known.html").read_text()
    assert text.count("plotly.js v") == 1 and "http-equiv" in text
    assert text.count("<script>draw({") == text.count('class="drawing"') >= 1 + 1 + 1 + 5 + 6


def test_what_cannot_be_asked_is_refused(home, tmp_path):
    refused = harness("importance", "known", "--method", "fanove")
    assert refused.returncode == 2 and "write ped_anova or fanova. Did you mean fanova" in refused.stderr
    (tmp_path / "file").write_text("")
    refused = harness("plots", "known", "--out", str(tmp_path / "file"))
    assert refused.returncode == 2 and "this is a file; name a folder" in refused.stderr
