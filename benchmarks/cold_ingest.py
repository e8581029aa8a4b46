"""Reading a data set for the first time: the pixel store against a bare loop that decodes and resizes the same files.

Two sets, on as many threads as the store uses, each its own median of interleaved runs: chest X-rays (JPEG, 224 px)
where --root has them, and CT slices drawn here (DICOM, 512 px, 16 bits, a window, every second MONOCHROME1). The loop
is what one would write by hand: Pillow, or pydicom's pixel_array, apply_modality_lut and apply_voi_lut, and a resize
to the same size; it checks, hashes and stores nothing. `ratio` is the loop's seconds over the store's, of the slower
set.

    python -m benchmarks.cold_ingest [--root ../shared/data] [--json]
"""

import itertools
import tempfile
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median

import numpy as np
import pandas as pd
import PIL.Image
from numpy.typing import NDArray

from benchmarks._report import arguments, publish
from harness.config.data import Decode
from harness.hardware import usable_cores
from harness.images.dicom import write_dicom
from harness.images.pixels import open_store
from harness.store.home import Home

HOW = Decode(size=128, channels=1)
Shown = NDArray[np.uint8]


def bare_image(path: Path) -> Shown:
    return resized(PIL.Image.open(path).convert("L"))


def bare_dicom(path: Path) -> Shown:
    import pydicom
    from pydicom.pixels import apply_modality_lut, apply_voi_lut

    dataset = pydicom.dcmread(path)
    shown = apply_voi_lut(apply_modality_lut(dataset.pixel_array, dataset), dataset)
    shown = (shown - shown.min()) / (shown.max() - shown.min())
    if dataset.PhotometricInterpretation == "MONOCHROME1":
        shown = 1 - shown
    return resized(PIL.Image.fromarray((shown * 255).astype(np.uint8)))


def resized(image: PIL.Image.Image) -> Shown:
    return np.asarray(image.resize((HOW.size, HOW.size), PIL.Image.Resampling.BILINEAR))


def loop(files: list[Path], read: Callable[[Path], Shown]) -> float:
    """Seconds to fill one array."""
    start = time.perf_counter()
    pixels = np.empty((len(files), HOW.size, HOW.size), np.uint8)
    with ThreadPoolExecutor(usable_cores()) as pool:
        for row, shown in enumerate(pool.map(read, files)):
            pixels[row] = shown
    return time.perf_counter() - start


def store(root: Path, rows: pd.DataFrame) -> float:
    """Seconds to a store that is on disk."""
    with tempfile.TemporaryDirectory() as home:
        start = time.perf_counter()
        made = open_store(root, rows, HOW, Home(Path(home)), lambda what, done, total: None)
        seconds = time.perf_counter() - start
        assert len(made.pixels) == len(rows) and not made.problems
    return seconds


def measure(root: Path, files: list[Path], read: Callable[[Path], Shown], runs: int) -> dict[str, float]:
    facts = [path.stat() for path in files]
    rows = pd.DataFrame(
        {
            "id": [path.relative_to(root).as_posix() for path in files],
            "size_bytes": [fact.st_size for fact in facts],
            "mtime_ns": [fact.st_mtime_ns for fact in facts],
        }
    )
    loop(files, read), store(root, rows)  # both meet warm files and imported libraries
    both = [(loop(files, read), store(root, rows)) for _ in range(runs)]
    bare, ours = (median(times) for times in zip(*both, strict=True))
    return {
        "images": len(files),
        "ratio": round(bare / ours, 3),
        "loop_seconds": round(bare, 3),
        "store_seconds": round(ours, 3),
        "images_per_second": round(len(files) / ours, 1),
    }


def draw_slices(folder: Path, count: int) -> list[Path]:
    """CT-like DICOM of 512 x 512: a bright ring, a grey inside and noise, in Hounsfield units from -1024."""
    draw = np.random.default_rng(0)
    down, across = np.mgrid[-1:1:512j, -1:1:512j]
    radius = np.hypot(down, across)
    head = np.where(radius < 0.8, 40.0, np.where(radius < 0.9, 1000.0, -1000.0))
    for number in range(count):
        values = head + draw.normal(0, 10, head.shape)
        stored = np.clip(np.round(values + 1024), 0, 4095).astype(np.uint16)
        write_dicom(
            folder / f"{number:04d}.dcm", stored, intercept=-1024.0, window=(40.0, 80.0), inverted=number % 2 == 1
        )
    return sorted(folder.iterdir())


def main() -> None:
    parser = arguments(__doc__ or "")
    parser.add_argument("--root", type=Path, default=Path("../shared/data"), help="the folder with chest_xray")
    parser.add_argument("--slices", type=int, default=300)
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    warnings.filterwarnings("ignore", module=r"pydicom\b")
    found: dict[str, dict[str, float]] = {}
    photos = sorted(itertools.islice((options.root / "chest_xray" / "images").rglob("*.jp*g"), 4000))
    if photos:
        found["jpeg"] = measure(options.root / "chest_xray", photos, bare_image, options.runs)
    with tempfile.TemporaryDirectory() as folder:
        slices = draw_slices(Path(folder), options.slices)
        found["dicom"] = measure(Path(folder), slices, bare_dicom, options.runs)
    publish(
        "cold_ingest",
        min(one["ratio"] for one in found.values()),
        0.8,
        options,
        threads=usable_cores(),
        size=HOW.size,
        **found,
    )


if __name__ == "__main__":
    main()
