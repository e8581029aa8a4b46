"""harness evaluate as a program: a folder in, tables or one JSON document out, exit codes; `show` on trust."""

import dataclasses
import json
import shutil

import pytest


@pytest.fixture(scope="module")
def here(finished, tmp_path_factory):
    """A copy of the finished place, to log into."""
    place, _ = finished
    cwd = shutil.copytree(place.cwd, tmp_path_factory.mktemp("evaluate") / "here")
    return dataclasses.replace(place, cwd=cwd, home=cwd / "home", data=cwd / "my data")


def test_one_document_on_stdout(here):
    done = here.harness("evaluate", "tiny/mean-top5", "--data", "my data", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["n"], found["groups"], found["classes"]) == (32, 16, ["well", "sick"])
    assert found["guessed"][:2] == ["labels: labels.csv", "image: {file}"]
    assert found["seen"]["development"] + found["seen"]["test"] == 32
    assert {"metric", "here", "home", "difference"} <= set(found["scores"][0])
    assert "logged as an evaluation of study tiny" in done.stderr
    assert "pat-" not in done.stdout + done.stderr and ".png" not in done.stdout


def test_tables_for_people_fit_a_window(here):
    done = here.harness("evaluate", "tiny/mean-top5", "--data", "my data", "--set", "data.group=patient", COLUMNS="80")
    assert done.returncode == 0, done.stderr
    assert "A LEAK:" in done.stdout and "No subgroups" in done.stdout
    for part in ("Calibration.", "Prevalence;", "Operating points chosen at home, sick, per image", "here - home"):
        assert part in done.stdout
    assert max(len(line) for line in done.stdout.splitlines()) <= 80


def test_a_label_of_another_name_is_a_wrong_request_until_it_is_mapped(here):
    other = here.cwd / "elsewhere"
    shutil.copytree(here.data, other)
    table = (other / "labels.csv").read_text().replace(",sick,", ",ill,")
    (other / "labels.csv").write_text(table)
    refused = here.harness("evaluate", "tiny/mean-top5", "--data", "elsewhere")
    assert refused.returncode == 2 and "--map ill=CLASS" in refused.stderr and not refused.stdout
    done = here.harness("evaluate", "tiny/mean-top5", "--data", "elsewhere", "--map", "ill=sick")
    assert done.returncode == 0 and "ill -> sick" in done.stdout, done.stderr


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--data", "nowhere"], "there is no such folder"),
        ([], "--data"),
        (["--data", "my data", "--by", "patient"], "says who somebody is"),
    ],
)
def test_wrong_requests_end_with_two(here, arguments, says):
    done = here.harness("evaluate", "tiny/mean-top5", *arguments)
    assert done.returncode == 2 and says in done.stderr, done.stderr


def test_a_rule_of_ones_own_decides_and_is_shown(here):
    done = here.harness("ensemble", "build", "--method", "mean", "--top", "1", "--decide", "sensitivity=.8")
    assert done.returncode == 0, done.stderr
    assert "Decides by sensitivity=0.8" in done.stdout and "Probabilities: " in done.stdout
    shown = here.harness("ensemble", "show", "tiny/mean-top1", "--json")
    document = json.loads(shown.stdout)
    assert document["decisions"]["default"] == "sensitivity=0.8"
    assert document["calibration"]["maps"][0]["method"] in ("none", "temperature", "platt", "isotonic")
    wrong = here.harness("ensemble", "build", "--method", "mean", "--decide", "sensitivty=.8")
    assert wrong.returncode == 2 and "Did you mean sensitivity" in wrong.stderr
