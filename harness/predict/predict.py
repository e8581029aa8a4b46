"""Probabilities for new image files with a bundle: decode as the bundle says, run its networks, combine.

Reads files and one bundle; knows no study and no MLflow. What cannot be read is listed with its reason and does not
stop the rest.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from harness.data.decode import IMAGE_SUFFIXES, Unreadable, decode
from harness.data.npz import archive_of
from harness.ensemble.bundle import Bundle, load_bundle, predict_bundle
from harness.errors import RequestError, nearest
from harness.home import Home, is_done, open_home
from harness.ragged import gather
from harness.records import Progress
from harness.train.devices import parse_devices

BATCH_BYTES = 256 * 2**20
"""decoded images held at a time"""


@dataclass(frozen=True)
class Prediction:
    classes: tuple[str, ...]
    files: list[Path]
    """n files that were read, in the order given; folders in the order of their files' paths"""
    probabilities: NDArray[np.float64]
    """(n, C)"""
    problems: list[tuple[Path, str]]
    """files that could not be read, each with its reason"""


def predict(
    bundle_path: Path | str,
    paths: list[Path],
    device: str = "auto",
    progress: Progress | None = None,
    home: Home | None = None,
) -> Prediction:
    """Probabilities of image files and of all images and DICOM files in folders, searched recursively.

    `bundle_path` is a bundle's folder, or STUDY/NAME under the home's bundles. Raises RequestError for a bundle or a
    path that does not exist, and for folders without any image.
    """
    bundle = load_bundle(find_bundle(bundle_path, home))
    use_device = parse_devices(device)[0]
    found = find_images(paths)
    step = max(1, BATCH_BYTES // sum(decode.side**2 * decode.channels for decode in bundle.decodes))
    files: list[Path] = []
    problems: list[tuple[Path, str]] = []
    parts = [np.empty((0, len(bundle.classes)))]
    for start in range(0, len(found), step):
        images: list[list[NDArray[np.uint8]]] = []
        for number, path in enumerate(found[start : start + step], start=start + 1):
            try:
                images.append([decode(path, how) for how in bundle.decodes])
                files.append(path)
            except Unreadable as error:
                problems.append((path, error.reason))
            if progress:
                progress("reading images", number, len(found))
        parts.append(_probabilities(bundle, images, use_device, progress))
    return Prediction(bundle.classes, files, np.concatenate(parts), problems)


def _probabilities(
    bundle: Bundle, images: list[list[NDArray[np.uint8]]], device: str, progress: Progress | None
) -> NDArray[np.float64]:
    if not images:
        return np.empty((0, len(bundle.classes)))
    pixels = [
        gather(list(one), how.channels) if how.size == "native" else np.stack(one)
        for how, one in zip(bundle.decodes, zip(*images, strict=True), strict=True)
    ]
    return predict_bundle(bundle, pixels, device, progress)


def find_bundle(name: Path | str, home: Home | None = None) -> Path:
    """The folder of a bundle: a path, or STUDY/NAME under the bundles of the home. Raises RequestError otherwise."""
    path = Path(name)
    if path.is_dir():
        return path
    root = (home or open_home()).root / "bundles"
    folders = [folder for folder in root.glob("*/*") if is_done(folder) and not folder.name.startswith(".")]
    known = sorted(folder.relative_to(root).as_posix() for folder in folders)
    if path.as_posix() in known:
        return root / path
    raise RequestError(
        f"no bundle {str(name)!r}: neither a folder here nor STUDY/NAME in {root}."
        f"{nearest(path.as_posix(), known)} Known: {', '.join(known) or 'none'}. "
        "Build one: harness ensemble build --method stacking"
    )


def find_images(paths: list[Path]) -> list[Path]:
    """The files meant by `paths`, each once. Raises RequestError for a path that is not there or a folder without
    images."""
    found: dict[Path, None] = {}
    for path in paths:
        if path.is_dir():
            inside = sorted(file for file in path.rglob("*") if file.is_file() and _is_image(file))
            if not inside:
                raise RequestError(
                    f"{path}: no image in this folder or below it (looked for DICOM files and "
                    f"{' '.join(sorted(IMAGE_SUFFIXES))}). Other files are tried when they are named one by one."
                )
            found.update(dict.fromkeys(inside))
        elif path.is_file() or archive_of(path) is not None:
            found[path] = None
        else:
            raise RequestError(f"{path}: no such file or folder. Give image files, or a folder that holds some.")
    if not found:
        raise RequestError("no image was given: harness predict BUNDLE PATH...")
    return list(found)


def _is_image(path: Path) -> bool:
    """By its name, or a DICOM file by its preamble: scanners write those without a suffix."""
    if path.suffix.lower() in IMAGE_SUFFIXES:
        return True
    try:
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False
