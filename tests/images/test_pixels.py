"""The pixel store: each image decoded once, by one process, whole or not at all."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import PIL.Image
import pytest

from harness.config.data import Decode
from harness.errors import RequestError
from harness.images import pixels as room
from harness.images.decode import decode
from harness.images.pixels import open_store, store_folder
from harness.store.files import is_done
from harness.store.home import Home

HOW = Decode(size=16)

BUILD = """
import sys
from pathlib import Path
import pandas as pd
from harness.images.pixels import open_store
from harness.store.home import Home
from harness.config.data import Decode
root, home = Path(sys.argv[1]), Home(Path(sys.argv[2]))
rows = pd.read_parquet(sys.argv[3])
def progress(what, done, total):
    print(what, done, total, flush=True)
    if len(sys.argv) > 4:
        import time; time.sleep(float(sys.argv[4]))
print(open_store(root, rows, Decode(size=16), home, progress).pixels.sum())
"""


def quiet(what: str, done: int, total: int) -> None:
    """A progress that says nothing."""


def make(root: Path, count: int) -> pd.DataFrame:
    """A folder of random pictures and the manifest columns that the store looks at."""
    root.mkdir()
    rng = np.random.default_rng(0)
    for number in range(count):
        grey = rng.integers(0, 256, (20, 30), dtype=np.uint8)
        PIL.Image.fromarray(grey).save(root / f"{number:03d}.png")
    return look(root)


def look(root: Path) -> pd.DataFrame:
    files = sorted(root.glob("*.png"))
    facts = [os.stat(file) for file in files]
    return pd.DataFrame(
        {
            "id": [file.name for file in files],
            "size_bytes": [fact.st_size for fact in facts],
            "mtime_ns": [fact.st_mtime_ns for fact in facts],
        }
    )


def leftovers(home: Home) -> list[str]:
    return [path.name for path in home.pixels.iterdir() if path.suffix != ".lock"]


def test_holds_what_decode_gives(tmp_path: Path) -> None:
    root = tmp_path / "root"
    rows = make(root, 40)
    store = open_store(root, rows, HOW, Home(tmp_path / "home"), quiet)
    assert store.pixels.shape == (40, 16, 16, 1) and store.pixels.dtype == np.uint8
    assert isinstance(store.pixels, np.memmap) and not store.pixels.flags.writeable
    for number, name in enumerate(store.ids.tolist()):
        assert np.array_equal(store.pixels[number], decode(root / name, HOW))
    assert len(set(store.digests)) == 40 and not store.problems


def test_is_built_once_for_each_way_of_decoding(tmp_path: Path) -> None:
    root, home = tmp_path / "root", Home(tmp_path / "home")
    rows = make(root, 5)
    steps: list[str] = []

    def progress(what: str, done: int, total: int) -> None:
        steps.append(what)

    open_store(root, rows, HOW, home, progress)
    assert steps
    steps.clear()
    again = open_store(root, rows, HOW, home, progress)
    assert not steps and len(again.pixels) == 5
    other = open_store(root, rows, Decode(size=16, channels=3), home, progress)
    assert steps and other.pixels.shape == (5, 16, 16, 3)


def test_truncated_files_are_listed_and_left_out_or_nothing_is_kept(tmp_path: Path) -> None:
    root, home = tmp_path / "root", Home(tmp_path / "home")
    make(root, 20)
    whole = (root / "007.png").read_bytes()
    (root / "007.png").write_bytes(whole[: len(whole) // 2])
    rows = look(root)
    refused = open_store(root, rows, HOW, home, quiet)
    assert list(refused.problems) == ["007.png"] and leftovers(home) == []
    kept = open_store(root, rows, HOW, home, quiet, keep_going=True)
    assert list(kept.problems) == ["007.png"] and len(kept.pixels) == len(kept.ids) == len(kept.digests) == 19
    for number, name in enumerate(kept.ids.tolist()):
        assert np.array_equal(kept.pixels[number], decode(root / name, HOW))
    assert list(open_store(root, rows, HOW, home, quiet).problems) == ["007.png"]


def test_two_processes_build_one_store(tmp_path: Path) -> None:
    root, home = tmp_path / "root", Home(tmp_path / "home")
    rows = make(root, 60)
    rows.to_parquet(tmp_path / "rows.parquet")
    command = [sys.executable, "-c", BUILD, str(root), str(home.root), str(tmp_path / "rows.parquet"), "0.1"]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    said = [process.communicate(timeout=120) for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert len({out.splitlines()[-1] for out, _ in said}) == 1
    assert sum("decode 60 60" in out for out, _ in said) == 1
    assert len(leftovers(home)) == 1


def test_a_killed_build_leaves_nothing_half_written(tmp_path: Path) -> None:
    root, home = tmp_path / "root", Home(tmp_path / "home")
    rows = make(root, 200)
    rows.to_parquet(tmp_path / "rows.parquet")
    command = [sys.executable, "-c", BUILD, str(root), str(home.root), str(tmp_path / "rows.parquet"), "1"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline().startswith("decode")
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    folder = store_folder(root, rows, HOW, home)
    assert not folder.exists() and any(name.startswith(".store-") for name in leftovers(home))
    store = open_store(root, rows, HOW, home, quiet)
    assert len(store.pixels) == 200 and is_done(folder) and leftovers(home) == [folder.name]


def test_an_interrupted_build_leaves_nothing(tmp_path: Path) -> None:
    root, home = tmp_path / "root", Home(tmp_path / "home")
    rows = make(root, 40)

    def interrupt(what: str, done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        open_store(root, rows, HOW, home, interrupt)
    time.sleep(0.1)
    assert leftovers(home) == []


def test_a_small_disk_is_refused_with_the_numbers(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=rf"needs {10**18} bytes.*\d+ are free"):
        room._require_space(tmp_path, 10**18)
