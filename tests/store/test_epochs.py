"""The log of epochs: what is read is what was written, whatever a crash left of the last line."""

import math
import os
import resource
import subprocess
import sys
from dataclasses import asdict

import pytest

from harness.errors import HarnessError
from harness.store.home import Home
from harness.store.records import LoggedEpoch, append_epoch, read_all_epochs, read_epochs
from harness.types import EpochReport

HOME = "import sys; from pathlib import Path; from harness.store.home import Home; home = Home(Path(sys.argv[1]))\n"


def logged(fold: int, epoch: int, value: float = 0.5, at: float = 100.0) -> LoggedEpoch:
    return LoggedEpoch(at, EpochReport(fold, epoch, 3, 0.7, 0.8, {"auroc": value}, 1e-3, 1.5, 100))


def test_what_is_read_is_what_was_written(tmp_path):
    home = Home(tmp_path)
    assert read_epochs(home, "s", 0) == []
    inner = EpochReport(1, 2, 3, 0.1 + 0.2, 1 / 3, {"auroc": 0.5}, 1e-3, 1.0, 7, 0.25, {"auroc": 0.75}, parts=2)
    written = [logged(0, 0), logged(0, 1), LoggedEpoch(1e9 + 0.125, inner)]
    for epoch in written:
        append_epoch(home, "s", 0, epoch)
    assert read_epochs(home, "s", 0) == written
    assert read_epochs(home, "s", 1) == []


def test_what_is_no_number_comes_back_as_such(tmp_path):
    home = Home(tmp_path)
    append_epoch(home, "s", 0, logged(0, 0, math.nan))
    (found,) = read_epochs(home, "s", 0)
    assert math.isnan(found.report.val["auroc"])
    assert {**asdict(found.report), "val": 0} == {**asdict(logged(0, 0).report), "val": 0}
    assert "NaN" not in home.trial_epochs("s", 0).read_text()


@pytest.mark.parametrize("tail", [b'{"at": 1', b"\x00\x00\x00", b"x" * 9000])
def test_a_torn_last_line_is_left_out_and_then_cut_off(tmp_path, tail):
    home = Home(tmp_path)
    append_epoch(home, "s", 0, logged(0, 0))
    with open(home.trial_epochs("s", 0), "ab") as file:
        file.write(tail)
    assert read_epochs(home, "s", 0) == [logged(0, 0)]
    append_epoch(home, "s", 0, logged(0, 1))
    assert read_epochs(home, "s", 0) == [logged(0, 0), logged(0, 1)]


def test_a_file_that_is_one_torn_line_is_empty(tmp_path):
    home = Home(tmp_path)
    home.trial_epochs("s", 0).parent.mkdir(parents=True)
    home.trial_epochs("s", 0).write_bytes(b'{"at"')
    assert read_epochs(home, "s", 0) == []
    append_epoch(home, "s", 0, logged(0, 0))
    assert read_epochs(home, "s", 0) == [logged(0, 0)]


def test_a_damaged_line_is_named(tmp_path):
    home = Home(tmp_path)
    append_epoch(home, "s", 0, logged(0, 0))
    with open(home.trial_epochs("s", 0), "ab") as file:
        file.write(b'{"at": 1}\n')
    append_epoch(home, "s", 0, logged(0, 1))
    with pytest.raises(HarnessError, match=r"0000\.epochs\.jsonl, line 2 is damaged"):
        read_epochs(home, "s", 0)


def test_an_epoch_trained_twice_is_there_once_with_its_first_time(tmp_path):
    home = Home(tmp_path)
    for epoch in (logged(0, 0), logged(0, 1, at=200.0), logged(0, 1, 0.6, at=300.0), logged(0, 2, at=400.0)):
        append_epoch(home, "s", 0, epoch)
    assert [(e.at, e.report.epoch, e.report.val["auroc"]) for e in read_epochs(home, "s", 0)] == [
        (100.0, 0, 0.5),
        (200.0, 1, 0.6),
        (400.0, 2, 0.5),
    ]
    assert len(read_all_epochs(home, "s", 0)) == 4


def test_a_write_that_the_system_cuts_short_costs_one_line(tmp_path):
    """A limit on the size of files stops the write in the middle of a line, as a full disk does."""
    code = HOME + (
        "from harness.store.records import LoggedEpoch, append_epoch\n"
        "from harness.types import EpochReport; import signal\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "for epoch in range(100):\n"
        "    report = EpochReport(0, epoch, 100, 0.5, 0.5, {'auroc': 0.5}, 1e-3, 1.0, 7)\n"
        "    append_epoch(home, 's', 0, LoggedEpoch(float(epoch), report))\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))  # noqa: E731
    done = subprocess.run(command, preexec_fn=limit, capture_output=True, text=True, env={**os.environ})
    assert done.returncode == 1 and "File too large" in done.stderr
    home = Home(tmp_path)
    assert home.trial_epochs("s", 0).stat().st_size == 2000
    kept = read_epochs(home, "s", 0)
    assert [epoch.at for epoch in kept] == list(map(float, range(len(kept)))) and len(kept) > 5
    append_epoch(home, "s", 0, logged(1, 0))
    assert len(read_epochs(home, "s", 0)) == len(kept) + 1
