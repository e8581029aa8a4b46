"""What the audit calls copies: different pictures of real data sets that it takes for one, and made copies it misses.

    python -m benchmarks.near_copies [--rows 100000] [--json] [--save]

Four data sets as a study would decode them at 28, 32 and 224 pixels: the pictures compared are the same, which is
checked. Pairs of different groups that are found are counted; in HAM10000 different groups are different lesions, so
every one is false. 200 pictures of each set are copied (JPEG, half size, darker) and the share that is found is
counted. `--rows` images drawn at random are searched to measure time and memory; some of them are copies of others.
Goal: no pair of different lesions, and all JPEG and half-size copies found (ratio: the share, 0 where a pair is false).
"""

import io
import resource
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import PIL.Image
from numpy.typing import NDArray

from benchmarks._report import arguments, publish
from harness.config.data import Decode
from harness.data.duplicates import SamePicture, same_picture
from harness.data.prepare import analysis
from harness.images.decode import decode_bytes, read_file
from harness.images.pixels import Ragged, gather

SHARED = Path(__file__).parents[1].parent / "shared/data"
SIZES = (28, 32, 224)
COPIED = 200


def table(name: str) -> tuple[list[Path], list[str]]:
    """Files and groups of a set; groups are its patients or lesions, or the file where none are known."""
    root = SHARED / name
    if name == "ham10000":
        rows = pd.read_csv(root / "metadata.csv", dtype=str)
        return [root / "images" / f"{one}.jpg" for one in rows["image_id"]], list(rows["lesion_id"])
    if name == "chest_xray":
        rows = pd.read_csv(root / "labels.csv", dtype=str)
        return [root / "images" / one for one in rows["file"]], list(rows["patient"])
    files = sorted((root / "images").iterdir())
    return files, [file.name for file in files]


def medmnist(name: str) -> Ragged:
    parts = np.load(SHARED / "medmnist" / f"{name}.npz")
    images = [image for part in ("train", "val", "test") for image in parts[f"{part}_images"]]
    return gather([np.asarray(PIL.Image.fromarray(image).convert("L"))[..., None] for image in images], 1)


def number(groups: list[str]) -> NDArray[np.int64]:
    return np.unique(groups, return_inverse=True)[1].astype(np.int64)


def sizes_of(pictures: list[PIL.Image.Image]) -> NDArray[np.int64]:
    return np.array([picture.size for picture in pictures], dtype=np.int64)


def jpeg(quality: int) -> Callable[[PIL.Image.Image], bytes]:
    def copy(picture: PIL.Image.Image) -> bytes:
        file = io.BytesIO()
        picture.save(file, "JPEG", quality=quality)
        return file.getvalue()

    return copy


def half(picture: PIL.Image.Image) -> bytes:
    size = max(1, picture.width // 2), max(1, picture.height // 2)
    return png(picture.resize(size, PIL.Image.Resampling.BILINEAR))


def darker(picture: PIL.Image.Image) -> bytes:
    return png(picture.point(lambda level: int(0.8 * level + 12)))


def png(picture: PIL.Image.Image) -> bytes:
    file = io.BytesIO()
    picture.save(file, "PNG", compress_level=1)
    return file.getvalue()


COPIES = {"jpeg 30": jpeg(30), "jpeg 50": jpeg(50), "jpeg 75": jpeg(75), "half size": half, "darker": darker}


def shares(pictures: list[PIL.Image.Image]) -> dict[str, float]:
    """The share of copies of each kind that are found beside their originals."""
    how, found = analysis(Decode()), {}
    originals = [decode_bytes(png(one), ".png", how) for one in pictures]
    for kind, copy in COPIES.items():
        data = [copy(one) for one in pictures]
        images = gather(originals + [decode_bytes(one, ".img", how) for one in data], 1)
        sizes = sizes_of(pictures + [PIL.Image.open(io.BytesIO(one)) for one in data])
        apart = np.arange(len(images), dtype=np.int64)
        same = same_picture(images, sizes, apart)
        pairs = np.concatenate([same.equal, same.near, same.possible, same.crops]).tolist()
        n = len(pictures)
        found[kind] = float(np.mean([[row, row + n] in pairs for row in range(n)]))
    return found


def counted(same: SamePicture, groups: NDArray[np.int64]) -> dict[str, int]:
    """Pairs of different groups."""
    kinds = {kind: getattr(same, kind) for kind in ("equal", "near", "possible", "crops")}
    return {kind: int((groups[pairs[:, 0]] != groups[pairs[:, 1]]).sum()) for kind, pairs in kinds.items()}


def random_search(rows: int) -> dict[str, float]:
    """CPU minutes of all cores together, and MiB added, of a search over so many random pictures, 1% of them copies."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (rows, 9, 9), dtype=np.uint8)
    images = np.empty((rows, 128, 128, 1), dtype=np.uint8)
    for row in range(rows):
        images[row, ..., 0] = np.asarray(
            PIL.Image.fromarray(coarse[row]).resize((128, 128), PIL.Image.Resampling.BICUBIC)
        )
    copies = rows // 100
    images[-copies:] = np.clip(images[:copies].astype(np.int16) + 2, 0, 255).astype(np.uint8)
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    same = same_picture(images, np.full((rows, 2), 128), np.arange(rows, dtype=np.int64))
    seconds = time.process_time() - start
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    return {"rows": rows, "cpu_minutes": round(seconds / 60, 2), "mib": round(grown), "found": len(same.near) / copies}


def main() -> None:
    parser = arguments("Copies that the audit finds, and pictures that it takes for copies.")
    parser.add_argument("--rows", type=int, default=0, help="also search so many random images, for time and memory")
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    facts: dict[str, dict[str, object]] = {}
    lines, share, false = [], 1.0, 0
    for name in ("ham10000", "chest_xray", "head_ct"):
        files, groups = table(name)
        how = analysis(Decode())
        assert all(analysis(Decode(size=size)) == how for size in SIZES)
        images = gather([decode_bytes(read_file(file), file.suffix, how) for file in files], 1)
        sizes = sizes_of([PIL.Image.open(file) for file in files])
        found = counted(same_picture(images, sizes, number(groups)), number(groups))
        chosen = rng.choice(len(files), min(COPIED, len(files)), replace=False).tolist()
        made = shares([PIL.Image.open(files[row]).convert("RGB") for row in chosen])
        facts[name] = {"images": len(files), "pairs": found, "copies_found": made}
        share = min(share, *(made[kind] for kind in ("jpeg 50", "jpeg 75", "half size")))
        false += sum(found.values()) if name == "ham10000" else 0
    for name in ("breastmnist", "retinamnist"):
        images = medmnist(name)
        own = np.arange(len(images), dtype=np.int64)
        same = same_picture(images, images.sizes[:, ::-1], own)
        chosen = rng.choice(len(images), COPIED, replace=False).tolist()
        made = shares([PIL.Image.fromarray(images[row][..., 0]).convert("RGB") for row in chosen])
        facts[name] = {"images": len(images), "pairs": counted(same, own), "copies_found": made}
    for name, fact in facts.items():
        lines.append(f"{name:>12}  {fact['images']:>5} images  {fact['pairs']}  found: {fact['copies_found']}")
    more = {"search": random_search(options.rows)} if options.rows else {}
    lines += [str(one) for one in more.values()]
    publish("near_copies", 0.0 if false else share, 0.95, options, "\n".join(lines), sets=facts, **more)


if __name__ == "__main__":
    main()
