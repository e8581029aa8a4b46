"""Memory of several workers that read one pixel store: each page of it is in memory once, not once a worker.

Makes a store of random pixels, opens it in processes of their own as a trial does, and lets each read all of it. Then
adds up what Linux says is each process's share of the store's pages (Pss in /proc/PID/smaps). `ratio` is the store's
size over that sum: 1 when pages are shared, 1 / workers when each holds a copy.

    python -m benchmarks.shared_memory [--workers 4] [--megabytes 400] [--json]
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks._report import arguments, publish
from harness.config.data import Decode
from harness.images import pixels
from harness.store.files import new_folder
from harness.store.home import Home

HOW = Decode(size=224, channels=1)
WORKER = """
import sys
from pathlib import Path
import pandas as pd
from harness.images.pixels import open_store
from harness.store.home import Home
from harness.config.data import Decode
rows = pd.read_parquet(sys.argv[2])
made = open_store(Path(sys.argv[1]), rows, Decode(size=224, channels=1), Home(Path(sys.argv[3])), lambda *_: None)
total = sum(int(made.pixels[start : start + 64].sum()) for start in range(0, len(made.pixels), 64))
print(total, flush=True)
sys.stdin.readline()
"""


def make_store(root: Path, home: Home, images: int) -> pd.DataFrame:
    """A finished store, without decoding: its files need not exist."""
    names = [f"{number:06d}.png" for number in range(images)]
    rows = pd.DataFrame({"id": names, "size_bytes": 1, "mtime_ns": 1})
    with new_folder(pixels.store_folder(root, rows, HOW, home)) as folder:
        shape = (images, HOW.side, HOW.side, HOW.channels)
        array = np.memmap(folder / "pixels.bin", np.uint8, mode="w+", shape=shape)
        draw = np.random.default_rng(0)
        for start in range(0, images, 64):
            array[start : start + 64] = draw.integers(0, 256, array[start : start + 64].shape, dtype=np.uint8)
        array.flush()
        pd.DataFrame({"id": names, "digest": names, "problem": "", "height": HOW.side, "width": HOW.side}).to_parquet(
            folder / "rows.parquet"
        )
    return rows


def share_of_store(pid: int) -> tuple[int, int]:
    """(Pss of the store's mapping, Pss of everything) of a process, in bytes."""
    store = whole = 0
    mapped = ""
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        name, _, rest = line.partition(" ")
        if not name.endswith(":"):
            mapped = rest
        elif name == "Pss:":
            size = int(rest.split()[0]) * 1024
            whole += size
            store += size if mapped.endswith("pixels.bin") else 0
    return store, whole


def main() -> None:
    parser = arguments(__doc__ or "")
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--megabytes", type=int, default=400)
    options = parser.parse_args()
    images = options.megabytes * 2**20 // HOW.side**2
    with tempfile.TemporaryDirectory() as root, tempfile.TemporaryDirectory() as folder:
        rows = make_store(Path(root), Home(Path(folder)), images)
        rows.to_parquet(f"{root}/rows.parquet")
        command = [sys.executable, "-c", WORKER, root, f"{root}/rows.parquet", folder]
        workers = [
            subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            for _ in range(options.workers)
        ]
        sums = {worker.stdout.readline() for worker in workers if worker.stdout}
        assert len(sums) == 1 and int(sums.pop()) > 0
        shares = [share_of_store(worker.pid) for worker in workers]
        for worker in workers:
            worker.communicate("\n")
    together = sum(store for store, _ in shares)
    publish(
        "shared_memory",
        images * HOW.side**2 / together,
        0.95,
        options,
        workers=options.workers,
        store_mb=round(images * HOW.side**2 / 2**20, 1),
        store_in_memory_mb=round(together / 2**20, 1),
        besides_per_worker_mb=round(sum(whole - store for store, whole in shares) / len(shares) / 2**20, 1),
    )


if __name__ == "__main__":
    main()
