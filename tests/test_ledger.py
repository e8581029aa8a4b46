"""What the ledger says when its files were damaged or written by another version."""

from pathlib import Path

import pytest

from harness.errors import HarnessError
from harness.home import Home, write_json, write_text
from harness.ledger import list_studies, read_study, read_trials


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
