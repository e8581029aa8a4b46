"""The README: its commands are run, its links lead somewhere, its results table is made by a program."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from cli_program import Place, environment

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
SCRIPT = ROOT / "benchmarks/results_table.py"


def commands() -> list[list[str]]:
    """The lines of the README's shell blocks."""
    blocks = re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
    return [shlex.split(line) for block in blocks for line in block.splitlines() if line.strip()]


def test_there_are_commands_and_links() -> None:
    assert len(commands()) >= 3
    assert all(command[0] == "harness" for command in commands())
    links = re.findall(r"\]\(([^)#]+)\)", README)
    assert len(links) >= 4
    for link in links:
        assert (ROOT / link).is_file(), link


def test_the_command_for_own_images_works(place: Place) -> None:
    own = next(command for command in commands() if "--as" in command)
    arguments = [part.replace("FOLDER", place.data.name) for part in own[1:]]
    small = ["train.epochs=1", "data.folds=2", "search.trials=1", "data.decode.size=32", "train.precision=fp32"]
    done = place.harness(*arguments, *(part for key in small for part in ("--set", key)), "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["study"] == "mine"


@pytest.mark.slow
def test_the_two_commands_run_as_they_stand(place: Place) -> None:
    for command in commands()[:2]:
        done = subprocess.run(
            [sys.executable, "-m", *command],
            cwd=place.cwd,
            env=environment(place.home),
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
    assert "stacking minus the others" in done.stdout


def run_script(place: Place, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment(place.home), cwd=ROOT)


def test_the_results_table_is_what_the_bundles_say(
    finished: tuple[Place, dict[str, subprocess.CompletedProcess[str]]],
) -> None:
    place, said = finished
    built = json.loads(said["ensemble"].stdout)
    done = run_script(place, "--json")
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)
    assert [row["model"] for row in rows] == ["best single", "simple mean"]
    mean = next(row for row in built["scores"] if row["kind"] == "ensemble")
    assert rows[1]["test"] == mean["test"]["auroc"] and rows[1]["oof"] == mean["oof"]["auroc"]
    assert rows[1]["delta"] == built["delta_vs_single"]
    best = max(row["oof"]["auroc"]["value"] for row in built["scores"] if row["kind"] == "single")
    assert rows[0]["oof"]["value"] == best
    assert rows[0]["development"] + rows[0]["test_images"] == 32 and rows[0]["groups"] == 16


def test_each_study_is_taken_from_the_first_home_that_has_it(
    finished: tuple[Place, dict[str, subprocess.CompletedProcess[str]]], tmp_path: Path
) -> None:
    place, _ = finished
    alone = run_script(place, "--json")
    study = json.loads(alone.stdout)[0]["study"]
    homes = ("--home", str(tmp_path / "empty"), "--home", str(place.home))
    assert run_script(place, study, *homes, "--json").stdout == alone.stdout
    done = run_script(place, study, "--home", str(tmp_path / "empty"))
    assert done.returncode != 0 and f"no study {study!r}" in done.stderr


def test_the_table_goes_between_its_markers_and_nowhere_else() -> None:
    sys.path.insert(0, str(SCRIPT.parent))
    from results_table import BEGIN, END, put_between_markers

    assert README.count(BEGIN) == README.count(END) == 1
    new = put_between_markers(README, "| a |")
    assert f"{BEGIN}\n| a |\n{END}" in new
    assert new.partition(BEGIN)[0] == README.partition(BEGIN)[0]
    assert new.partition(END)[2] == README.partition(END)[2]
    with pytest.raises(ValueError, match="lacks"):
        put_between_markers("no markers", "| a |")


def test_without_ensembles_it_says_what_to_type(place: Place) -> None:
    done = run_script(place)
    assert done.returncode != 0
    assert "harness ensemble build" in done.stderr
