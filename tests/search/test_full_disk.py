"""A disk with no room left stops a study with one clear message, and costs it nothing once there is room again.

Once with a real file system that is filled to the last byte (that takes the right to mount one), and at each kind of
write with the operating system's own limit on the size of files.
"""

import resource
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from benchmarks._hurt_study import problems, results, tiny, weights
from harness.errors import DiskFull
from harness.search.run import run_study
from harness.store.home import Home
from harness.store.records import read_trials
from harness.train import checkpoint
from harness.types import EpochDone, Event, FoldDone, TrialEnded, TrialStarted

MESSAGE = r"no room is left to write in .*: study 'tiny' stopped.*Free some space and type: harness study resume tiny"


@pytest.fixture(autouse=True)
def a_state_after_every_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "WRITE_SHARE", 1e9)


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> Home:
    home = Home(tmp_path_factory.mktemp("calm"))
    run_study(tiny(train__epochs=4), home, 1, "cpu", lambda event: None)
    return home


def when(kind: type, number: int, act: Callable[[], None]) -> Callable[[Event], None]:
    """A listener that acts at the event of a kind with that number, counted from 1."""
    seen = 0

    def listen(event: Event) -> None:
        nonlocal seen
        if isinstance(event, kind):
            seen += 1
            if seen == number:
                act()

    return listen


@contextmanager
def unlimited_afterwards() -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def limit(size: int) -> None:
    """No file may grow beyond `size` bytes, those that are larger not at all."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


MOMENTS = [  # (what has just happened, which one, bytes, what cannot be written then)
    pytest.param(TrialStarted, 1, 100, id="spec.yaml"),
    pytest.param(EpochDone, 1, 100, id="epoch log"),
    pytest.param(EpochDone, 2, 10_000, id="resume state and checkpoint"),
    pytest.param(FoldDone, 2, 100, id="ledger"),
    pytest.param(TrialEnded, 1, 100, id="journal"),
]


@pytest.mark.parametrize(("kind", "number", "size"), MOMENTS)
def test_what_cannot_be_written_stops_the_study_and_is_made_up_for(calm, tmp_path, kind, number, size):
    home, study = Home(tmp_path), tiny(train__epochs=4)
    with unlimited_afterwards(), pytest.raises(DiskFull, match=MESSAGE):
        run_study(study, home, 1, "cpu", when(kind, number, lambda: limit(size)))
    assert all(record.state in ("running", "complete") for record in read_trials(home, "tiny")), "no trial is to blame"
    run_study(study, home, 1, "cpu", lambda event: None)
    assert problems(home, 2, most_retrained=2) == []
    assert results(home) == results(calm) and weights(home) == weights(calm)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=160m", "none", str(disk)], capture_output=True, text=True
    )
    if made.returncode != 0:
        pytest.skip(f"no right to mount a file system here: {made.stderr.strip()}")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


def fill_up(disk: Path) -> None:
    with open(disk / "filler", "wb", buffering=0) as file:
        for size in (2**20, 2**12, 1):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                continue


def test_a_disk_that_is_filled_to_the_last_byte(calm, small_disk):
    home, study = Home(small_disk / "home"), tiny(train__epochs=4)
    home.root.mkdir()
    with pytest.raises(DiskFull, match=MESSAGE) as error:
        run_study(study, home, 1, "cpu", when(EpochDone, 10, lambda: fill_up(small_disk)))
    assert "(0.0 MB free)" in str(error.value) and "more, each further one" in str(error.value)
    (small_disk / "filler").unlink()
    run_study(study, home, 1, "cpu", lambda event: None)
    assert problems(home, 2, most_retrained=2) == []
    assert results(home) == results(calm) and weights(home) == weights(calm)
