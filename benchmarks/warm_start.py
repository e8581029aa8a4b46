"""Data work when nothing has changed since the last time: `prepare` on 10,000 images with groups.

Draws the images (8-bit grey PNG of mixed sizes), prepares them once (scan, pixels, folds, audit) and then again, each
time in a fresh process, whose imports are not counted. `ratio` is 1 s over the median of the second and later runs.

    python -m benchmarks.warm_start [--images 10000] [--json]
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

import numpy as np
import PIL.Image

from benchmarks._report import arguments, publish

PREPARE = """
import json, sys, time
from harness.data.prepare import prepare
from harness.store.home import open_home
from harness.config.data import Data, Decode
data = Data(root=sys.argv[1], group="patient", decode=Decode(size=32))
start = time.perf_counter()
found = prepare(data, 0, open_home(), lambda what, done, total: None)
seconds = time.perf_counter() - start
touched = int(found.pixels[::100].sum())
print(json.dumps({"seconds": seconds, "rows": len(found.dataset.y), "touched": touched}))
"""


def draw(folder: Path, count: int) -> None:
    """Small noisy pictures, no two alike, a label by chance and four to a patient."""
    noise = np.random.default_rng(0)
    (folder / "images").mkdir()
    lines = ["file,label,patient"]
    for number in range(count):
        side = 24 + number % 17
        picture = noise.integers(0, 256, (side, side + number % 5), dtype=np.uint8)
        PIL.Image.fromarray(picture).save(folder / f"images/{number:05d}.png", compress_level=1)
        lines.append(f"images/{number:05d}.png,{noise.integers(2)},p{number // 4}")
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")


def main() -> None:
    parser = arguments(__doc__ or "")
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as images, tempfile.TemporaryDirectory() as home:
        draw(Path(images), options.images)
        command = [sys.executable, "-c", PREPARE, images]
        environment = {**os.environ, "HARNESS_HOME": home}
        runs = [
            json.loads(subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout)
            for _ in range(options.runs + 1)
        ]
    assert all(run["rows"] == options.images and run["touched"] == runs[0]["touched"] for run in runs)
    again = median(run["seconds"] for run in runs[1:])
    publish(
        "warm_start",
        1.0 / again,
        1.0,
        options,
        images=options.images,
        first_seconds=round(runs[0]["seconds"], 3),
        again_seconds=round(again, 3),
        each=[round(run["seconds"], 3) for run in runs[1:]],
    )


if __name__ == "__main__":
    main()
