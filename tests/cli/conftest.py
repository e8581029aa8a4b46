"""A place to run the program in, and one study that was really run there."""

import subprocess
from pathlib import Path

import pytest
from cli_program import Place, make_place


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return make_place(tmp_path)


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Place, dict[str, subprocess.CompletedProcess[str]]]:
    """One study and one ensemble, really run, with what the program said."""
    place = make_place(tmp_path_factory.mktemp("finished"))
    said = {
        "study": place.harness("study", "run", "tiny", "--json"),
        "ensemble": place.harness("ensemble", "build", "--method", "mean", "--json"),
    }
    for name, done in said.items():
        assert done.returncode == 0, f"{name}: {done.stderr}"
    return place, said
