"""study show, live: who runs a study, where its trials are, and what it says once its driver is gone."""

import json

import pytest
from cli_program import Place

from harness.config.load import load_study
from harness.output.format import ago
from harness.search.status import beating
from harness.store.home import Home
from harness.store.records import LoggedEpoch, StudyRecord, append_epoch, write_study, write_trial
from harness.types import EpochReport, Interval, TrialRecord


@pytest.fixture
def half(place: Place) -> Place:
    """What a driver has written half-way: a trial complete, one in its second fold, one that has just begun."""
    home = Home(place.home)
    tree = {**load_study(str(place.study)).tree, "name": "tiny"}
    write_study(home, StudyRecord("tiny", "running", tree, "", "", "", 1e9))
    oof = {"auroc": Interval(0.81, 0.7, 0.9)}
    done = TrialRecord(0, "complete", {"optim.lr": 0.01}, "r0", {"auroc": 0.8}, {"auroc": 0.01}, oof, [0.8, 0.8])
    write_trial(home, "tiny", done)
    write_trial(home, "tiny", TrialRecord(1, "running", {"optim.lr": 0.02}, "r1", deaths=2, logged=False))
    write_trial(home, "tiny", TrialRecord(2, "running", {"optim.lr": 0.03}, "r2", logged=False))
    write_trial(home, "tiny", TrialRecord(3, "pruned", {"optim.lr": 0.04}, "r3", fold_values=[0.4], logged=False))
    for epoch in range(3):
        report = EpochReport(1, epoch, 5, 0.5, 0.5, {"auroc": 0.6 + epoch / 100}, 1e-3, 1.0, 10)
        append_epoch(home, "tiny", 1, LoggedEpoch(1e9, report))
    return place


@pytest.mark.parametrize("columns", ["80", "60"])
def test_a_running_study(half: Place, columns: str) -> None:
    with beating(Home(half.home), "tiny", 2):
        said = half.harness("study", "show", "tiny", COLUMNS=columns)
    assert said.returncode == 0, said.stderr
    text = " ".join(said.stdout.split())
    assert "study tiny: running, 2 of 2 trials (1 complete, 1 pruned)" in text
    assert "2 trials at a time" in text and "run by process" in text
    assert "2 workers died and had a successor (trials 1)" in text
    assert "MLflow lacks 1 ended trial" in text
    lines = said.stdout.splitlines()
    assert max(len(line) for line in lines if not line.startswith("  ")) <= int(columns)
    row = next(line.split() for line in lines if line.startswith("      1"))
    assert row[:4] == ["1", "2/2", "3/5", "0.620"] and "ago" in row
    assert any("no epoch yet" in line for line in lines)


def test_a_study_whose_driver_died(half: Place) -> None:
    said = half.harness("study", "show", "tiny")
    assert "study tiny: interrupted" in said.stdout and "running" not in said.stdout
    assert "Type: harness study resume tiny" in said.stdout and "cut off" in said.stdout
    assert "interrupted" in half.harness("study", "list").stdout
    shown = json.loads(half.harness("study", "show", "tiny", "--json").stdout)
    assert (shown["state"], shown["driver"]) == ("interrupted", None)
    first = shown["running"][0]
    assert (first["number"], first["fold"], first["epoch"], first["epochs"], first["deaths"]) == (1, 1, 2, 5, 2)
    assert first["value"] == 0.62 and first["seconds_ago"] >= 0
    assert [trial["logged"] for trial in shown["trials"]] == [True, False, False, False]


def test_only_the_best_unless_all_are_asked_for(half: Place) -> None:
    for number in range(4, 40):
        oof = {"auroc": Interval(0.5 + number / 1000, 0.4, 0.6)}
        record = TrialRecord(
            number, "complete", {"optim.lr": 0.1}, "r", {"auroc": 0.5}, {"auroc": 0.1}, oof, [0.5, 0.5]
        )
        write_trial(Home(half.home), "tiny", record)
    few = half.harness("study", "show", "tiny").stdout
    assert "... and 18 more: harness study show tiny --all" in few
    every = half.harness("study", "show", "tiny", "--all").stdout
    assert "more:" not in every and len(every.splitlines()) == len(few.splitlines()) + 17


def test_times_in_words() -> None:
    assert [ago(s) for s in (-1, 0.4, 12, 300, 10_000, 300_000)] == [
        "0 s ago",
        "0 s ago",
        "12 s ago",
        "5 min ago",
        "3 h ago",
        "3 days ago",
    ]
