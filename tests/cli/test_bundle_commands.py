"""harness ensemble register, ensemble diagram and models diagram, as a person types them."""

import json
import subprocess

import pytest
from cli_program import Place
from drawn_text import read_drawing

Said = tuple[Place, dict[str, subprocess.CompletedProcess[str]]]


def test_a_build_registers_and_register_makes_the_next_version(finished: Said) -> None:
    place, _ = finished
    done = place.harness("ensemble", "register", "tiny/mean-top5", "--json")
    assert done.returncode == 0, done.stderr
    first = json.loads(done.stdout)
    assert first["name"] == "harness-tiny-mean" and int(first["version"]) >= 2  # 1: the build's own
    told = place.harness("ensemble", "register", "tiny/mean-top5", "--name", "mine").stdout
    assert "Registered as mine, version 1." in told and "had to be copied" not in told
    assert f"export MLFLOW_TRACKING_URI=sqlite:///{place.home}/mlflow.db" in told
    assert "mlflow models serve -m models:/mine/1 --env-manager local" in told


def test_register_says_what_is_wrong(finished: Said) -> None:
    place, _ = finished
    wrong = place.harness("ensemble", "register", "tiny/mean-top6")
    assert wrong.returncode == 2 and "tiny/mean-top5" in wrong.stderr
    wrong = place.harness("ensemble", "register", "tiny/mean-top5", "--name", "a/b")
    assert wrong.returncode == 2 and "is no name for a model" in wrong.stderr
    away = place.harness("ensemble", "register", "tiny/mean-top5", MLFLOW_TRACKING_URI="http://127.0.0.1:9")
    assert away.returncode == 1 and "does not answer" in away.stderr


@pytest.mark.parametrize("language", ["mermaid", "plantuml"])
def test_diagrams_are_printed_and_nothing_else(finished: Said, language: str) -> None:
    place, _ = finished
    for command in (("ensemble", "diagram", "tiny/mean-top5"), ("models", "diagram", "test_resnet", "--depth", "2")):
        done = place.harness(*command, "--format", language)
        assert done.returncode == 0, done.stderr
        boxes, arrows = read_drawing(done.stdout, language)
        assert len(boxes) > 5 and len(arrows) >= len(boxes) - 1


def test_a_diagram_of_what_is_not_there(finished: Said) -> None:
    place, _ = finished
    done = place.harness("models", "diagram", "resnet1")
    assert done.returncode == 2 and "no backbone named 'resnet1'" in done.stderr
    done = place.harness("models", "diagram", "test_resnet", "--depth", "0")
    assert done.returncode == 2 and "--depth 0" in done.stderr
    done = place.harness("ensemble", "diagram", "tiny/none")
    assert done.returncode == 2 and "no bundle" in done.stderr
