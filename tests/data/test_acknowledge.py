"""Findings that a study accepts in words: they do not block, and the words are never lost."""

from pathlib import Path

import pytest
from small_data import picture, quiet

from harness.config.data import Data
from harness.config.load import check_study, load_study
from harness.data.audit import Finding, acknowledge, way_out
from harness.data.prepare import findings, prepare
from harness.errors import RequestError
from harness.store.home import Home

WHY = "two readers disagreed, both are kept"
CONFLICT = Finding("conflicting_labels", "block", ("a", "b"), "a = b, labelled differently. ")
OVERLAP = Finding("group_overlap", "block", ("a",), "a group in two parts.")
SHIFT = Finding("prevalence_shift", "warn", (), "a class is rarer there.")


def test_an_acknowledged_finding_warns_and_carries_its_reason() -> None:
    said = acknowledge([CONFLICT, OVERLAP, SHIFT], {"conflicting_labels": WHY})
    assert [finding.kind for finding in said] == ["group_overlap", "conflicting_labels", "prevalence_shift"]
    assert said[0] == OVERLAP and said[2] == SHIFT
    assert said[1].severity == "warn" and said[1].images == ("a", "b")
    assert said[1].message == f"a = b, labelled differently. Acknowledged in the study: {WHY}"
    assert acknowledge([CONFLICT, SHIFT], None) == [CONFLICT, SHIFT]


def test_the_refusal_says_what_to_write() -> None:
    assert "--set data.acknowledge.conflicting_labels='" in way_out([CONFLICT.kind])
    assert way_out([CONFLICT.kind, OVERLAP.kind]) == way_out([]) == ""


@pytest.mark.parametrize(
    ("reasons", "said"),
    [
        ({"conflicting_labels": "yes"}, "conflicting_labels: say in words"),
        ({"group_overlap": WHY}, "data.acknowledge.*group_overlap"),
        ({"unreadable": WHY}, "data.acknowledge.*unreadable"),
        ({"conflicting_label": WHY}, "Did you mean conflicting_labels"),
    ],
)
def test_only_some_findings_and_only_in_words(reasons: dict[str, str], said: str) -> None:
    with pytest.raises(RequestError, match=said):
        check_study({"name": "s", "data": {"root": "x", "group": "none", "acknowledge": reasons}}, "s.yaml")


def test_from_the_command_line(tmp_path: Path) -> None:
    file = tmp_path / "s.yaml"
    file.write_text("data: {root: x, group: none}\nsearch: {trials: 1}\n")
    study = load_study(str(file), [f"data.acknowledge.shortcut={WHY}"])
    assert study.spec.data.acknowledge == {"shortcut": WHY}


def test_the_reason_is_in_what_a_study_is_told(tmp_path: Path) -> None:
    rows = ["file,label"]
    for number in range(40):
        picture(tmp_path / f"root/{number:02d}.png", value=5 * (number - (number == 1)))
        rows.append(f"{number:02d}.png,{'ab'[number % 2]}")
    (tmp_path / "root/labels.csv").write_text("\n".join(rows) + "\n")
    data = {"root": str(tmp_path / "root"), "group": "none", "folds": 2, "decode": {"size": 8}}
    home = Home(tmp_path / "home")
    asked = Data.model_validate(data)
    kinds = {finding.kind: finding.severity for finding in findings(asked, 0, home, quiet)}
    assert kinds["conflicting_labels"] == kinds["exact_duplicate"] == "block"
    with pytest.raises(RequestError, match=r"--set data.acknowledge.conflicting_labels='.*data.acknowledge.exact_dup"):
        prepare(asked, 0, home, quiet)
    reasons = {"conflicting_labels": WHY, "exact_duplicate": WHY}
    asked = Data.model_validate({**data, "acknowledge": reasons})
    for found in (findings(asked, 0, home, quiet), prepare(asked, 0, home, quiet).findings):
        (conflict,) = [finding for finding in found if finding.kind == "conflicting_labels"]
        assert set(conflict.images) == {"00.png", "01.png"}
        assert conflict.severity == "warn" and conflict.message.endswith(WHY)
