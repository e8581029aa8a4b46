"""What is kept of decoded images: who reads it, what may go, and that nothing in use ever goes."""

import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from harness.config.data import Data, Decode
from harness.data.cache import DAY, list_caches, prune
from harness.data.prepare import Prepared, prepare
from harness.errors import RequestError
from harness.store.home import Home, lock
from harness.store.records import StudyRecord, write_study

DATA = Data(root="phantom", group="patient", folds=2, decode=Decode(size=16))


def prepared(home: Home, size: int = 16) -> Prepared:
    data = DATA.model_copy(update={"decode": Decode(size=size)})
    return prepare(data, 0, home, lambda what, done, total: None)


def study(home: Home, name: str, caches: tuple[str, ...]) -> None:
    write_study(home, StudyRecord(name, "complete", {}, "", "", "", 0.0, caches=list(caches)))


def age(home: Home, days: float) -> None:
    """As if nothing had been used for so long."""
    then = time.time() - days * DAY
    for mark in home.pixels.glob("*/DONE"):
        os.utime(mark, (then, then))


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


def test_stores_and_scans_are_listed_with_size_last_use_and_studies(home: Home) -> None:
    assert list_caches(home) == []
    data = prepared(home)
    study(home, "one", data.caches)
    study(home, "two", data.caches[1:])
    listed = {cache.name: cache for cache in list_caches(home)}
    assert [listed[name].kind for name in data.caches] == ["scan", "store", "store"]
    assert set(listed) == set(data.caches)
    scan, store, pictures = (listed[name] for name in data.caches)
    assert pictures.holds == f"{len(data.pixels)} images, their own sizes"
    assert store.holds == f"{len(data.pixels)} images, 16 x 16" and store.bytes > data.pixels.size
    assert store.studies == ("one", "two") and scan.studies == ("one",)
    assert abs(store.last_used - time.time()) < 60


def test_using_a_store_again_is_its_last_use(home: Home) -> None:
    prepared(home)
    age(home, 3)
    assert all(time.time() - cache.last_used > 2 * DAY for cache in list_caches(home))
    prepared(home)
    assert all(time.time() - cache.last_used < 60 for cache in list_caches(home))


def test_what_no_study_reads_goes_and_what_one_reads_stays(home: Home) -> None:
    used, unused = prepared(home, 16), prepared(home, 24)
    study(home, "one", used.caches)
    age(home, 1)
    planned = prune(home, None, dry_run=True)
    assert [cache.name for cache in planned.gone] == [unused.caches[1]]
    assert len(list_caches(home)) == 4  # the pictures that copies are looked for in serve both sizes
    done = prune(home, None, dry_run=False)
    assert done == planned
    assert {cache.name for cache in list_caches(home)} == set(used.caches)
    assert all(reason == "read by one" for _, reason in done.kept)
    assert prepared(home, 24).pixels.shape == unused.pixels.shape


def test_days_throws_away_what_a_study_reads_too(home: Home) -> None:
    study(home, "one", prepared(home).caches)
    age(home, 10)
    assert prune(home, 11, dry_run=False).gone == []
    assert len(prune(home, 9, dry_run=False).gone) == 3
    assert list_caches(home) == []
    assert (home.phantom / "labels.csv").exists() or any(home.phantom.iterdir())


def test_what_was_used_just_now_stays(home: Home) -> None:
    prepared(home)
    done = prune(home, 0, dry_run=False)
    assert done.gone == [] and {reason for _, reason in done.kept} == {"used in the last quarter of an hour"}


HOLD = "import sys,time\nfrom pathlib import Path\nfrom harness.store.home import lock\n"
HOLD += "with lock(Path(sys.argv[1]),'x'):\n"
HOLD += "    print('held', flush=True)\n    time.sleep(600)\n"


def hold(path: Path) -> "subprocess.Popen[str]":
    """Another process that keeps a lock until it is killed."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    return process


@pytest.mark.parametrize("what", ["store", "study"])
def test_what_another_process_holds_stays_until_it_ends(home: Home, what: str) -> None:
    data = prepared(home)
    study(home, "one", data.caches[1:])
    age(home, 10)
    path = home.pixels / f"{data.caches[1]}.lock" if what == "store" else home.work("one") / "driver.lock"
    process = hold(path)
    try:
        done = prune(home, 1, dry_run=False)
        held = {data.caches[1]} if what == "store" else set(data.caches[1:])
        assert {cache.name for cache in done.gone} == set(data.caches) - held
        kept, reason = next(one for one in done.kept if one[0].name == data.caches[1])
        assert {one.name for one, _ in done.kept} == held
        assert kept.name == data.caches[1]
        assert reason == ("another process is making it" if what == "store" else "study one is running")
    finally:
        process.kill()
        process.wait()
    assert {cache.name for cache in prune(home, 1, dry_run=False).gone} == held


def test_what_a_killed_build_left_goes_and_what_a_build_is_making_stays(home: Home) -> None:
    left, making = home.pixels / ".store-abc.x1y2", home.pixels / ".store-def.x1y2"
    for folder in (left, making):
        folder.mkdir(parents=True)
        (folder / "pixels.bin").write_bytes(b"0" * 1000)
    with lock(home.pixels / "store-def.lock", "the build"):
        process = hold(home.pixels / "store-fed.lock")  # of another store: none of its business
        done = prune(home, None, dry_run=False)
        process.kill()
        process.wait()
    assert [(cache.kind, cache.bytes) for cache in done.gone] == [("leftover", 1000)]
    assert making.exists() and not left.exists()


def test_a_negative_number_of_days_is_refused(home: Home) -> None:
    with pytest.raises(RequestError, match="--days"):
        prune(home, -1, dry_run=True)


def test_damaged_pixels_are_listed_and_go(home: Home) -> None:
    data = prepared(home)
    (home.pixels / data.caches[1] / "rows.parquet").write_bytes(b"no table")
    age(home, 1)
    assert {cache.name: cache.holds for cache in list_caches(home)}[data.caches[1]] == "pixels"
    gone = prune(home, None, dry_run=False).gone
    assert {replace(cache, holds="").name for cache in gone} == set(data.caches)
