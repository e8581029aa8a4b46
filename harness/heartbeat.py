"""Whether the driver of a study lives, seen from outside without taking its lock.

A driver leaves a file that says who it is, and touches it every few seconds. On its own machine the process table tells
at once whether it is gone; elsewhere (a shared file system) the time of the last touch does.
"""

import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from harness.home import Home, read_json, write_json

BEAT_SECONDS = 5.0
SILENT_SECONDS = 60.0
"""a driver on another machine that was not heard of for this long counts as gone"""


@dataclass(frozen=True)
class Driver:
    """The process that runs a study, or did when it was killed."""

    pid: int
    host: str
    birth: str
    """tells this process from a later one with its number"""
    started: float
    """seconds since 1970"""
    jobs: int


def driver_file(home: Home, study: str) -> Path:
    return home.work(study) / "driver.json"


@contextmanager
def beating(home: Home, study: str, jobs: int) -> Iterator[None]:
    """Say that this process drives the study, for as long as the block lasts. The caller holds the study's lock."""
    path, ended = driver_file(home, study), threading.Event()
    pid = os.getpid()
    write_json(path, asdict(Driver(pid, socket.gethostname(), _birth(pid) or "", time.time(), jobs)))

    def beat() -> None:
        while not ended.wait(BEAT_SECONDS):
            with suppress(OSError):  # a sign of life is not worth a study
                os.utime(path)

    thread = threading.Thread(target=beat, name="heartbeat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        with suppress(OSError):
            path.unlink()


def find_driver(home: Home, study: str) -> Driver | None:
    """The driver of a study, where one lives right now."""
    path = driver_file(home, study)
    try:
        driver, beat = Driver(**read_json(path)), path.stat().st_mtime
    except FileNotFoundError:
        return None
    if driver.host != socket.gethostname():
        return driver if time.time() - beat < SILENT_SECONDS else None
    born = _birth(driver.pid)
    return driver if born is not None and born == driver.birth else None


def _birth(pid: int) -> str | None:
    """Of a living process: this boot of the machine and the process's start, where Linux tells; None of a dead one."""
    stat = Path(f"/proc/{pid}/stat")
    if not Path("/proc/self/stat").exists():
        return "" if _answers(pid) else None
    try:
        fields = stat.read_text().rpartition(")")[2].split()  # the name before it may hold blanks and brackets
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return None
    state, start = fields[0], fields[19]
    return None if state in "ZX" else f"{boot} {start}"


def _answers(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
