"""One small study that was really run, for whatever comes after one: read it, copy it, never change it. A browser."""

import os
import shutil
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from benchmarks._tiny_study import tiny_tree
from harness.store.home import Home
from harness.store.records import StudyRecord

# A shell that starts the tests in the background makes them, and every program that they start, deaf to Ctrl-C.
signal.signal(signal.SIGINT, signal.default_int_handler)

TREE = tiny_tree(name="small", optim__lr={"choice": [1e-3, 5e-3]}, train__epochs=1, search__sampler="grid")


@dataclass(frozen=True)
class SmallStudy:
    home: Home
    record: StudyRecord
    images: Path
    """the folder that ids are relative to"""


@pytest.fixture(scope="session")
def small_study(tmp_path_factory: pytest.TempPathFactory) -> SmallStudy:
    """Two trials of three folds on the built-in data set."""
    from harness.config.load import check_study
    from harness.data.phantom import ensure_phantom
    from harness.search.run import run_study

    home = Home(tmp_path_factory.mktemp("small"))
    record = run_study(check_study(TREE, "small"), home, 1, "cpu", lambda event: None)
    return SmallStudy(home, record, ensure_phantom(home, lambda what, done, total: None))


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium without a window. Where there is none: skipped, or failed where servers are required.

    Of one module: as long as it is open its driver's event loop runs in this thread, and other tests have loops too.
    """
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if found is None and os.environ.get("HARNESS_REQUIRE_SERVERS") != "1":
        pytest.skip("no Chromium here")
    assert found is not None, "chromium is required: sudo apt-get install chromium"
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield started
        started.close()
