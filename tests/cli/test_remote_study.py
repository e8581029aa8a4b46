"""scripts/remote_study.sh against a real ssh server: the line is cut, the script killed, the study stopped."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from cli_program import Place, environment, make_place
from ssh_server import SSHD, SshServer

SCRIPT = Path(__file__).parents[2] / "scripts/remote_study.sh"
HARNESS = Path(sys.executable).with_name("harness")
needed = SSHD and shutil.which("rsync") and shutil.which("flock")
pytestmark = pytest.mark.skipif(
    not needed and not os.environ.get("HARNESS_REQUIRE_SERVERS"), reason="apt-get install openssh-server rsync"
)


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SshServer]:
    server = SshServer(tmp_path_factory.mktemp("ssh"))
    server.start()
    try:
        yield server
    finally:
        server.cut()
        for file in server.home.rglob("pid"):  # a study that a failed test left behind
            with suppress(ProcessLookupError):
                os.kill(int(file.read_text()), signal.SIGTERM)


def start(there: SshServer, place: Place, *arguments: str) -> "subprocess.Popen[str]":
    variables = {**environment(place.home), "HARNESS_SSH": there.ssh, "HARNESS_REMOTE_SECONDS": "0.3"}
    command = [str(SCRIPT), *arguments]
    return subprocess.Popen(
        command, cwd=place.cwd, env=variables, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )


def said_until(process: "subprocess.Popen[str]", text: str) -> str:
    """What it says up to and with a line that has the text."""
    lines = ""
    assert process.stderr is not None
    for line in process.stderr:
        lines += line
        if text in line:
            return lines
    raise AssertionError(f"it ended without saying {text!r}:\n{lines}")


def ended(process: "subprocess.Popen[str]", code: int) -> str:
    said = process.communicate(timeout=300)[1]
    assert process.returncode == code, said
    return said


def trials(place: Place, results: str) -> list[str]:
    """States of the trials that are here, each complete one with all its files."""
    home = place.cwd / results
    shown = json.loads(place.harness("study", "show", "tiny", "--json", HARNESS_HOME=str(home)).stdout)
    states = [trial["state"] for trial in shown["trials"]]
    assert len(list(home.glob("artifacts/tiny/*/artifacts/DONE"))) == states.count("complete")
    return states


@pytest.mark.slow
def test_a_study_survives_a_cut_line_a_killed_script_and_a_stop(there: SshServer, tmp_path: Path) -> None:
    place = make_place(tmp_path)
    odd = 'It\'s "odd" $HOME; `true`'
    few = ("--set", "search.trials=3", "--set", "train.epochs=2", "--set", f"description={odd}")
    call = ("--harness", str(HARNESS), "--dir", "runs of mine", "--to", "brought back", "--data", "my data", "there")

    # The line breaks in the middle: nothing is lost, and the same call sees the end.
    running = start(there, place, *call, "studies/tiny.yaml", *few)
    said_until(running, "the study runs at there")
    there.cut()
    said_until(running, "does not answer")
    there.start()
    said = ended(running, 0)
    assert "answers again" in said and "3 complete trials are in" in said
    assert trials(place, "brought back") == ["complete"] * 3
    record = json.loads((place.cwd / "brought back/work/tiny/study.json").read_text())
    assert record["tree"]["description"] == odd

    # The script is killed, the study is not; another study must not be taken for it; a stop brings back what there is.
    more = ("--set", "search.trials=40", *few[2:])
    running = start(there, place, *call, "studies/tiny.yaml", *more)
    said_until(running, "the study runs at there")
    running.send_signal(signal.SIGTERM)
    assert "the study goes on at there" in ended(running, 130)
    refused = ended(start(there, place, *call, "studies/tiny.yaml"), 2)
    assert "is running there" in refused and "--stop" in refused
    following = start(there, place, *call, "studies/tiny.yaml", *more)
    said_until(following, "following the study")
    stopped = ended(start(there, place, "--stop", *call, "studies/tiny.yaml"), 130)
    assert "complete trials are in" in stopped
    assert ended(following, 130)
    assert 3 <= len(trials(place, "brought back")) < 40

    # Called again it goes on; results that were worked on here are not overwritten, and nothing of theirs is lost.
    enough = ("--set", f"search.trials={len(trials(place, 'brought back')) + 1}", *few[2:])
    mine = place.cwd / "brought back/bundles/tiny/mine/notes.txt"
    mine.parent.mkdir(parents=True)
    mine.write_text("made here")
    assert "was changed here" in ended(start(there, place, *call, "studies/tiny.yaml", *enough), 2)
    assert mine.read_text() == "made here"
    elsewhere = [part.replace("brought back", "newer") for part in call]
    ended(start(there, place, *elsewhere, "studies/tiny.yaml", *enough), 0)
    assert trials(place, "newer").count("complete") == len(trials(place, "newer"))

    # A copy whose files do not say that they are whole is not put in place.
    done = next((there.home / "runs of mine/mlruns").glob("artifacts/tiny/*/artifacts/DONE"))
    done.unlink()
    before = sorted((place.cwd / "newer").rglob("*"))
    assert "as it was" in ended(start(there, place, "--stop", *elsewhere, "studies/tiny.yaml"), 1)
    assert sorted((place.cwd / "newer").rglob("*")) == before


def test_what_cannot_be_done_is_refused_before_anything_is_sent(there: SshServer, tmp_path: Path) -> None:
    place = make_place(tmp_path)
    (place.cwd / "mlruns/work").mkdir(parents=True)
    (place.cwd / "mlruns/work/of-mine").touch()
    for arguments, wanted in [
        (("there", "lr_aug_sweep"), "holds results of this machine"),
        (("--to", "new", "there", "../x/lr aug"), "is no name of a study"),
        (("--to", "new", "there", "nothing.yaml"), "there is no file nothing.yaml"),
        (("--data", "/etc", "there", "lr_aug_sweep"), "must be a relative path"),
        (("--date", "x", "there", "lr_aug_sweep"), "there is no option --date"),
        (("--stop", "--to", "new", "there", "lr_aug_sweep"), "no study has been run"),
        (("--to", "new", "--harness", "/no/harness", "there", "lr_aug_sweep"), "no program /no/harness there"),
        (("there",), "HOST and STUDY are needed"),
    ]:
        assert wanted in ended(start(there, place, *arguments), 2), arguments
    assert "cannot be used" in ended(start(there, place, "--to", "new", "nobody.invalid", "lr_aug_sweep"), 1)
    assert sorted(path.name for path in place.cwd.iterdir()) == ["mlruns", "my data", "studies"]


@pytest.mark.slow
def test_a_bare_machine_gets_the_locked_packages_and_this_checkouts_wheel(there: SshServer, tmp_path: Path) -> None:
    place = make_place(tmp_path)
    arguments = ("--data", "my data", "there", "tiny", "--set", "search.trials=1")
    process = start(there, place, *arguments)
    said = said_until(process, "harness 0.") + ended(process, 0)
    assert "1 complete trials are in" in said
    assert trials(place, "mlruns") == ["complete"]


def test_the_script_is_clean() -> None:
    shellcheck = shutil.which("shellcheck")
    if shellcheck is None and not os.environ.get("HARNESS_REQUIRE_SERVERS"):
        pytest.skip("apt-get install shellcheck")
    assert subprocess.run([str(shellcheck), str(SCRIPT)], capture_output=True, text=True).stdout == ""
