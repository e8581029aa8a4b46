"""The program in a real terminal of 50 columns: what is drawn, what is kept on Ctrl-C, what a resume shows."""

import fcntl
import json
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest
from cli_program import Place, environment, make_place

COLUMNS = 50
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
LONGER = ("--set", "train.epochs=3", "--set", "search.trials=3")


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return make_place(tmp_path_factory.mktemp("terminal"))


def in_terminal(place: Place, *arguments: str, interrupt_at: str = "") -> tuple[int, str]:
    """Exit code, and all that was written to the terminal; Ctrl-C once that pattern has appeared."""
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 24, COLUMNS, 0, 0))
    variables = environment(place.home, TERM="xterm-256color", NO_COLOR="", FORCE_COLOR="")
    process = subprocess.Popen(
        [sys.executable, "-m", "harness", *arguments],
        stdin=follower,
        stdout=follower,
        stderr=follower,
        env=variables,
        cwd=place.cwd,
        start_new_session=True,
    )
    os.close(follower)
    written, begun = b"", time.monotonic()
    while time.monotonic() - begun < 200:
        try:
            came = os.read(leader, 65536)
        except OSError:  # how Linux says that nobody writes any more
            break
        if not came:
            break
        written += came
        if interrupt_at and re.search(interrupt_at, ESCAPES.sub("", written.decode(errors="replace"))):
            process.send_signal(signal.SIGINT)
            interrupt_at = ""
    os.close(leader)
    return process.wait(timeout=60), written.decode(errors="replace")


def lines_of(written: str) -> list[str]:
    return [line for line in re.split(r"[\r\n]+", ESCAPES.sub("", written)) if line]


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_a_dry_run_checks_estimates_and_records_nothing(here: Place) -> None:
    done = here.harness("study", "run", "tiny", *LONGER, "--dry-run", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["state"], found["trials"], found["done"], found["pruner"]) == ("new", 3, 0, "none")
    assert found["varies"] == {"optim.lr": "0.0001 to 0.01, log", "augment.hflip": "one of 0, 0.5"}
    assert sum(part["rows"] for part in found["parts"]) == found["images"] == 32
    assert 0 < found["estimate"]["low"] < found["estimate"]["high"] < 3600
    # two folds x three trials of float32 weights, and what a resume needs
    assert found["estimate"]["disk_high"] == 4 * found["backbones"]["resnet10t"] * (2 * 3 + 4)
    left = files(here.home)
    assert not any("tiny" in name or "journal" in name or "mlflow" in name for name in left), left
    said = here.harness("study", "run", "tiny", *LONGER, "--dry-run", COLUMNS=str(COLUMNS))
    assert "3 trials will take" in said.stdout and "\x1b" not in said.stdout
    assert max(map(len, said.stdout.split("\n"))) <= COLUMNS
    refused = here.harness("study", "run", "tiny", "--set", "model.backbone=resnet1O", "--dry-run")
    assert refused.returncode == 2 and "resnet1O" in refused.stderr and refused.stdout == ""


def test_ctrl_c_says_what_is_kept_and_a_resume_shows_it(here: Place) -> None:
    # The screen is drawn four times a second: the fold that is interrupted takes longer than that.
    settings = ("--set", "train.epochs=60", "--set", "search.trials=3")
    code, written = in_terminal(
        here, "study", "run", "tiny", *settings, interrupt_at=r"trial 1  fold 1/2  epoch \d+/60"
    )
    assert code == 130
    assert "starting" in written and "3 trials will take" in re.sub(r"\s+", " ", ESCAPES.sub("", written))
    last = " ".join(lines_of(written)[-4:])
    assert "Kept: 1 ended trial, trial 1 up to fold" in last and "harness study resume tiny" in last
    code, written = in_terminal(here, "study", "resume", "tiny", "-v")
    assert code == 0
    plain = lines_of(written)
    prose = [line for line in plain if not line.startswith("  harness ")]  # a command is copied: it is never broken
    assert max(map(len, prose)) <= COLUMNS, max(prose, key=len)
    text = re.sub(r"\s+", " ", " ".join(plain))
    assert "1 already done, best auroc" in text and "going on with trial 1" in text
    assert "fold trial 1, fold 2/2: auroc" in text
    assert "tiny: 3 trials in" in text and "estimated before trial 0:" in text
    assert "\x1b[1m" in written  # labels stand out on a terminal


def test_without_a_terminal_there_are_lines_and_no_cursor(here: Place) -> None:
    done = here.harness("study", "run", "tiny", "--as", "piped", "--set", "search.trials=1")
    assert done.returncode == 0
    assert "\r" not in done.stderr and "\x1b" not in done.stderr + done.stdout
    assert re.search(r"^trial 0   auroc .* in .*, best so far   1/1 trials$", done.stderr, re.M)
    assert here.harness("-q", "study", "resume", "piped").stderr == ""
