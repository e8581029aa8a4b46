"""-q, -v and --color: wherever they stand, and what they and the environment come to."""

import os
import pty
import subprocess
import sys

import pytest
from cli_program import Place, environment

from harness.cli.streams import hoisted
from harness.output import terminal as output_terminal
from harness.output.terminal import in_color, set_manner


def test_options_of_the_program_are_found_wherever_they_stand() -> None:
    words = ["study", "run", "x", "-q", "--set", "a=1", "--color", "never", "--", "-v"]
    assert hoisted(words) == ["-q", "--color", "never", "study", "run", "x", "--set", "a=1", "--", "-v"]
    assert hoisted(["-v", "doctor", "--color=always"]) == ["-v", "--color=always", "doctor"]
    assert hoisted(["doctor", "--color"]) == ["doctor", "--color"]  # the program says that its value is missing


@pytest.mark.parametrize(
    ("option", "variables", "on_terminal", "piped"),
    [
        ("auto", {}, True, False),
        ("auto", {"NO_COLOR": "1"}, False, False),
        ("auto", {"FORCE_COLOR": "1"}, True, True),
        ("auto", {"FORCE_COLOR": "1", "NO_COLOR": "1"}, False, False),
        ("auto", {"TERM": "dumb"}, False, False),
        ("always", {"NO_COLOR": "1"}, True, True),
        ("never", {"FORCE_COLOR": "1"}, False, False),
    ],
)
def test_who_decides_on_colour(
    option: str, variables: dict[str, str], on_terminal: bool, piped: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"NO_COLOR": "", "FORCE_COLOR": "", "TERM": "xterm", **variables}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(output_terminal, "_manner", output_terminal.Manner())
    set_manner(color=option)
    leader, follower = pty.openpty()
    with os.fdopen(follower, "w") as terminal, open(os.devnull, "w") as pipe:
        assert (in_color(terminal), in_color(pipe)) == (on_terminal, piped)
    os.close(leader)


def test_nothing_is_coloured_when_piped_and_errors_are_said_even_quietly(place: Place) -> None:
    for more, escape in (([], False), (["--color", "always"], True)):
        done = subprocess.run(
            [sys.executable, "-m", "harness", "study", "run", "nowhere", "-q", *more],
            capture_output=True,
            text=True,
            env=environment(place.home, NO_COLOR="", FORCE_COLOR=""),
            cwd=place.cwd,
        )
        assert done.returncode == 2 and "nowhere" in done.stderr and done.stdout == ""
        assert ("\x1b[" in done.stderr) == escape
