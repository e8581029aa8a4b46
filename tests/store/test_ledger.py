"""Records on disk, what is said when they are damaged, and which trial of a study is the best one."""

import math
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.errors import HarnessError
from harness.store.files import write_json, write_text
from harness.store.home import Home
from harness.store.records import (
    StudyRecord,
    audit_tags,
    best_trial,
    list_studies,
    ranked,
    read_study,
    read_trials,
    write_study,
    write_trial,
)
from harness.types import Interval, TrialRecord, rank_value


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    home = Home(tmp_path)
    write_text(home.work("s") / "study.json", "{")
    write_text(home.trial_record("s", 0), "")
    with pytest.raises(HarnessError, match=r"study\.json is damaged"):
        read_study(home, "s")
    with pytest.raises(HarnessError, match=r"0000\.json is damaged"):
        read_trials(home, "s")


def test_a_record_of_another_version_is_named(tmp_path: Path) -> None:
    home = Home(tmp_path)
    write_json(home.work("s") / "study.json", {"name": "s", "colour": "blue"})
    with pytest.raises(HarnessError, match="another version"):
        list_studies(home)


def test_what_an_audit_found_is_kept_and_fits_into_a_tag(tmp_path: Path) -> None:
    home = Home(tmp_path)
    findings = [
        {"kind": "shortcut", "severity": "warn", "images": [], "message": f"number {i}. " + "x" * 90}
        for i in range(100)
    ]
    record = StudyRecord("s", "complete", {}, "spec", "data", "folds", 0.0, audit_hash="ab", findings=findings[:2])
    write_study(home, record)
    read = read_study(home, "s")
    assert read == record and read is not None
    tags = audit_tags(read)
    assert tags["harness.audit_hash"] == "ab"
    assert [line[:23] for line in tags["harness.findings"].splitlines()] == [
        "warn shortcut: number 0",
        "warn shortcut: number 1",
    ]
    many = audit_tags(StudyRecord("s", "complete", {}, "", "", "", 0.0, audit_hash="ab", findings=findings))
    assert len(many["harness.findings"]) < 5000 and many["harness.findings"].endswith("... 100 findings in all")
    assert audit_tags(StudyRecord("s", "complete", {}, "", "", "", 0.0, audit_hash="ab"))["harness.findings"] == "none"
    assert audit_tags(StudyRecord("s", "complete", {}, "", "", "", 0.0)) == {}


def trial(number: int, cv: float, **more) -> TrialRecord:
    """Its pooled value is the opposite of its mean over folds: nothing may be ranked by that."""
    pooled = {"auroc": Interval(1 - cv, 0.0, 1.0)}
    return TrialRecord(number, more.pop("state", "complete"), {}, "run", cv={"auroc": cv}, oof=pooled, **more)


def test_trials_are_read_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    home = Home(tmp_path)
    for number in (2, 10_000, 9_999, 100_000, 11):
        write_trial(home, "s", trial(number, 0.5))
    assert [one.number for one in read_trials(home, "s")] == [2, 11, 9_999, 10_000, 100_000]


def test_the_best_trial_has_the_best_mean_over_folds() -> None:
    trials = [
        trial(0, 0.7),
        trial(1, 0.99, state="failed"),
        trial(2, 0.98, state="pruned"),
        trial(3, 0.97, infeasible=True),
        trial(4, math.nan),
        trial(5, 0.8, same_as=6),
        trial(6, 0.8),
        trial(7, 0.8),
        trial(8, 0.99, state="running"),
    ]
    assert [one.number for one in ranked(trials, "auroc")] == [6, 7, 0]
    assert best_trial(trials, "auroc") == trials[6]
    assert best_trial([trials[1], trials[4]], "auroc") is None
    assert [math.isnan(rank_value(one, "auroc")) for one in trials] == [
        False, True, True, False, True, False, False, False, True
    ]  # fmt: skip
    assert math.isnan(rank_value(trials[0], "brier"))


def test_losses_are_ranked_from_small_to_large() -> None:
    trials = [TrialRecord(n, "complete", {}, "", cv={"log_loss": loss}) for n, loss in enumerate((0.5, 0.4, 0.6))]
    assert [one.number for one in ranked(trials, "log_loss")] == [1, 0, 2]


def test_a_mean_over_some_folds_of_an_earlier_version_is_not_ranked() -> None:
    assert math.isnan(rank_value(trial(0, 0.75, fold_values=[0.8, math.nan, 0.7]), "auroc"))
    assert rank_value(trial(0, 0.76, fold_values=[0.8, math.nan, 0.7]), "auroc") == 0.76  # those of another metric


@settings(deadline=None, max_examples=30)
@given(st.lists(st.one_of(st.floats(0, 1), st.just(math.nan)), max_size=8), st.randoms())
def test_the_order_of_records_does_not_matter(values, random) -> None:
    trials = [trial(number, value) for number, value in enumerate(values)]
    shuffled = random.sample(trials, len(trials))
    assert ranked(shuffled, "auroc") == ranked(trials, "auroc")
    assert len(ranked(trials, "auroc")) == sum(not math.isnan(value) for value in values)
