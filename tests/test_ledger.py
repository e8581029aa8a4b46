"""What the ledger says when its files were damaged or written by another version."""

from pathlib import Path

import pytest

from harness.errors import HarnessError
from harness.home import Home, write_json, write_text
from harness.ledger import StudyRecord, audit_tags, list_studies, read_study, read_trials, write_study


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
