"""Whether a driver lives is known without its lock: from the process table, or from when it was last heard of."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace

from harness.search.status import SILENT_SECONDS, beating, driver_file, find_driver
from harness.store.files import write_json
from harness.store.home import Home

DRIVE = """
import sys, time
from pathlib import Path
from harness.search import status
from harness.store.home import Home
status.BEAT_SECONDS = 0.05
with status.beating(Home(Path(sys.argv[1])), "s", 2):
    print("on", flush=True)
    time.sleep(60)
"""


def test_a_driver_is_seen_while_it_lives_and_not_after_a_kill(tmp_path):
    home = Home(tmp_path)
    assert find_driver(home, "s") is None
    process = subprocess.Popen([sys.executable, "-c", DRIVE, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "on\n"
    driver = find_driver(home, "s")
    assert driver is not None and (driver.pid, driver.jobs) == (process.pid, 2)
    before = driver_file(home, "s").stat().st_mtime_ns
    end = time.monotonic() + 30
    while driver_file(home, "s").stat().st_mtime_ns == before:
        assert time.monotonic() < end, "it does not beat"
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # dead, and not yet buried by its parent
    assert find_driver(home, "s") is None and driver_file(home, "s").exists()
    process.wait()
    assert find_driver(home, "s") is None


def test_a_driver_that_ends_takes_its_sign_with_it(tmp_path):
    home = Home(tmp_path)
    with beating(home, "s", 1):
        assert find_driver(home, "s").pid == os.getpid()
    assert find_driver(home, "s") is None and not driver_file(home, "s").exists()


def test_another_process_with_the_same_number_is_not_the_driver(tmp_path):
    home = Home(tmp_path)
    with beating(home, "s", 1):
        driver = find_driver(home, "s")
        write_json(driver_file(home, "s"), vars(replace(driver, birth=driver.birth + "1")))
        assert find_driver(home, "s") is None


def test_on_another_machine_the_last_beat_counts(tmp_path):
    home = Home(tmp_path)
    with beating(home, "s", 1):
        path = driver_file(home, "s")
        write_json(path, {**json.loads(path.read_text()), "host": socket.gethostname() + "-2", "pid": 2**30})
        assert find_driver(home, "s") is not None
        long_ago = time.time() - SILENT_SECONDS - 1
        os.utime(path, (long_ago, long_ago))
        assert find_driver(home, "s") is None
