"""The Python API: the same stages and the same documents as the command line, drawn as tables in a notebook."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from harness import api
from harness.cli import app, streams
from harness.errors import RequestError
from harness.output.result import Document, Rows

TREE: dict[str, Any] = {
    "name": "by_hand",
    "data": {"root": "phantom", "group": "patient", "folds": 3, "decode": {"size": 32}},
    "model": {"backbone": "test_resnet"},
    "optim": {"lr": {"choice": [1e-3, 5e-3]}},
    "train": {"epochs": 1, "batch_size": 32},
    "search": {"trials": 2, "sampler": "grid", "pruner": "none"},
}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("api")
    api.run_study(TREE, {"seed": 1}, device="cpu", quiet=True, home=home)
    api.build_ensemble("mean", quiet=True, home=home, device="cpu", register=False)
    return home


def command(home: Path, monkeypatch: pytest.MonkeyPatch, *words: str) -> Any:
    """What the command prints with --json."""
    import io

    stream = io.StringIO()
    monkeypatch.setenv("HARNESS_HOME", str(home))
    monkeypatch.setattr(streams, "_claimed", stream)
    assert app.run([*words, "--json"]) == 0
    return json.loads(stream.getvalue())


def test_it_gives_what_the_commands_print(home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    study = tmp_path / "by_hand.json.yaml"
    study.write_text(json.dumps({**TREE, "seed": 1}))
    images = str(next((home / "pixels/phantom").rglob("*.png")))
    pairs = [
        (api.show(home=home), ("study", "show")),
        (api.studies(home=home), ("study", "list")),
        (api.compare("by_hand:0", "by_hand:1", home=home), ("study", "compare", "by_hand:0", "by_hand:1")),
        (api.show_ensemble("by_hand/mean-top5", home=home), ("ensemble", "show", "by_hand/mean-top5")),
        (api.ensembles(home=home), ("ensemble", "list")),
        (api.show_data(study, home=home, quiet=True), ("data", "show", str(study))),
        (api.audit(TREE, home=home, quiet=True), ("data", "audit", str(study))),
        (api.scan(TREE, {"seed": 1}, home=home, quiet=True), ("data", "scan", str(study))),
        (api.predict("by_hand/mean-top5", images, home=home, quiet=True), ("predict", "by_hand/mean-top5", images)),
        (api.importance(home=home), ("study", "importance")),
        (api.report(home=home, quiet=True, device="cpu"), ("study", "report", "--device", "cpu")),
        (api.backbone("test_resnet"), ("models", "show", "test_resnet")),
    ]
    for found, words in pairs:
        assert json.loads(json.dumps(found)) == command(home, monkeypatch, *words), words
        assert isinstance(found, Document | Rows)
        drawn = found._repr_html_()
        assert drawn.startswith("<p>") and drawn.count("<table") <= 1 and len(drawn) < 200_000


def test_tables_are_data_frames_with_a_column_a_number(home: Path) -> None:
    shown = api.show("by_hand", home=home)
    table = shown.table
    assert list(table["number"]) == [0, 1] and set(table["params.optim.lr"]) == {1e-3, 5e-3}
    best = table.loc[table["oof.auroc.value"].idxmax()]
    assert best["number"] == shown["best"]["number"]
    assert math.isclose(best["oof.auroc.lo"], shown["best"]["oof"]["auroc"]["lo"])
    value = shown["best"]["oof"]["auroc"]
    assert f"{value['value']:.3f} [{value['lo']:.3f}, {value['hi']:.3f}]" in shown._repr_html_()
    assert set(api.show_ensemble("by_hand/mean-top5", home=home).table["kind"]) >= {"single", "ensemble"}


def test_a_finished_study_is_not_run_again_and_a_larger_total_adds_trials(home: Path) -> None:
    before = api.show("by_hand", home=home)
    again = api.resume_study("by_hand", home=home, quiet=True, device="cpu")
    assert again["trials"] == before["trials"]
    with pytest.raises(RequestError, match=r"train\.epochs: 1 -> 2"):
        api.run_study(TREE, {"seed": 1, "train.epochs": 2}, home=home, quiet=True)


def test_wrong_requests_name_what_to_write(home: Path) -> None:
    with pytest.raises(RequestError, match=r"Did you mean optim\.lr"):
        api.run_study(TREE, {"optim.lrr": 1}, home=home)
    with pytest.raises(RequestError, match="Did you mean by_hand"):
        api.show("by_hnad", home=home)
    with pytest.raises(RequestError, match="Did you mean stacking"):
        api.build_ensemble("stackng", home=home)


def test_hostile_text_is_shown_as_text() -> None:
    drawn = Rows([{"<b>": "<script>alert(1)</script>", "x": None, "y": True, "z": 1e-9}], "a & b")._repr_html_()
    assert "<script>" not in drawn and "&lt;script&gt;" in drawn and "<b>" not in drawn
    assert "a &amp; b" in drawn and "1.0e-09" in drawn and "yes" in drawn
