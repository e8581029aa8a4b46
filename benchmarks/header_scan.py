"""Reading every header of a data set for the first time: `scan_data` against a bare loop over the same files.

Two sets, each its own median of interleaved runs: chest X-rays (JPEG) where --root has them, and CT slices drawn here
(DICOM). The loop opens each file with Pillow, or with pydicom stopped before the pixels, on as many threads as the
scan uses, and keeps width, height and mode; the scan also reads the labels, looks for files without one, hashes
groups and writes its manifest. `ratio` is the loop's seconds over the scan's, of the slower set.

    python -m benchmarks.header_scan [--root ../shared/data] [--json]
"""

import tempfile
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median

import PIL.Image

from benchmarks._report import arguments, publish
from benchmarks.cold_ingest import draw_slices
from harness.config.data import Data
from harness.data.manifest import scan_data
from harness.hardware import usable_cores
from harness.store.home import Home

Header = tuple[int, int, str]


def bare_image(path: Path) -> Header:
    with PIL.Image.open(path) as image:
        return image.width, image.height, image.mode


def bare_dicom(path: Path) -> Header:
    import pydicom

    header = pydicom.dcmread(path, stop_before_pixels=True)
    return header.Columns, header.Rows, header.PhotometricInterpretation


def loop(files: list[Path], read: Callable[[Path], Header]) -> float:
    start = time.perf_counter()
    with ThreadPoolExecutor(usable_cores()) as pool:
        assert len(list(pool.map(read, files))) == len(files)
    return time.perf_counter() - start


def scan(data: Data, expected: int) -> float:
    with tempfile.TemporaryDirectory() as home:
        start = time.perf_counter()
        found = scan_data(data, Home(Path(home)), lambda what, done, total: None).manifest
        seconds = time.perf_counter() - start
        assert len(found) == expected and (found["problem"] == "").all()
    return seconds


def measure(data: Data, files: list[Path], read: Callable[[Path], Header], runs: int) -> dict[str, float]:
    loop(files, read), scan(data, len(files))  # both meet warm files and imported libraries
    both = [(loop(files, read), scan(data, len(files))) for _ in range(runs)]
    bare, ours = (median(times) for times in zip(*both, strict=True))
    return {
        "images": len(files),
        "ratio": round(bare / ours, 3),
        "loop_seconds": round(bare, 3),
        "scan_seconds": round(ours, 3),
        "images_per_second": round(len(files) / ours, 1),
    }


def main() -> None:
    parser = arguments(__doc__ or "")
    parser.add_argument("--root", type=Path, default=Path("../shared/data"), help="the folder with chest_xray")
    parser.add_argument("--slices", type=int, default=1000)
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    warnings.filterwarnings("ignore", module=r"pydicom\b")
    found: dict[str, dict[str, float]] = {}
    photos = sorted((options.root / "chest_xray" / "images").rglob("*.jp*g"))
    if photos:
        data = Data(root=str(options.root / "chest_xray"), image="images/{file}", group="patient")
        found["jpeg"] = measure(data, photos, bare_image, options.runs)
    with tempfile.TemporaryDirectory() as folder:
        slices = draw_slices(Path(folder), options.slices)
        rows = "".join(f"{path.name},{number % 2},{number // 4}\n" for number, path in enumerate(slices))
        (Path(folder) / "labels.csv").write_text(f"file,label,patient\n{rows}")
        found["dicom"] = measure(Data(root=folder, group="patient"), slices, bare_dicom, options.runs)
    publish("header_scan", min(one["ratio"] for one in found.values()), 0.8, options, threads=usable_cores(), **found)


if __name__ == "__main__":
    main()
