"""A data set written again so that the files of its two classes differ in nothing but what is drawn in them.

Each picture becomes 8-bit grey without alpha, is cut to what it shows (the largest connected part that is brighter than
its background, with its holes: of a slice through a head, the head) with black around that, stretched to the same range
of grey, shrunk so that its longer side is the one that the smallest picture has, put into the middle of one black
square, and blurred until it is as sharp as the least sharp ones. Labels are never looked at. What this cannot take
away: how the scanner's window was set, reconstruction kernels, and everything that a blur leaves visible.
"""

import io
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import PIL.Image
from numpy.typing import NDArray
from scipy import ndimage

from harness.data.duplicates import in_square
from harness.errors import RequestError
from harness.images.decode import DICOM_SUFFIXES, foreground
from harness.images.dicom import write_dicom
from harness.store.files import write_bytes
from harness.types import Dataset

Grey = NDArray[np.float64]
LEAST_SHARP = 0.05
"""every picture is blurred to this quantile of the sharpness of all; those below it stay as they are"""
MOST_BLUR, STEPS = 8.0, 30
"""pixels of the widest Gaussian, halvings of the search for the right one"""


def sharpness(grey: NDArray[np.floating]) -> float:
    """The variance of the Laplacian (Pech-Pacheco et al. 2000)."""
    return float(ndimage.laplace(np.asarray(grey, dtype=np.float64)).var())


def blurred_to(grey: Grey, target: float) -> Grey:
    """The picture under the narrowest Gaussian that makes it no sharper than `target`."""
    if sharpness(grey) <= target:
        return grey
    narrow, wide = 0.0, MOST_BLUR
    for _ in range(STEPS):
        sigma = (narrow + wide) / 2
        narrow, wide = (sigma, wide) if sharpness(ndimage.gaussian_filter(grey, sigma)) > target else (narrow, sigma)
    return np.asarray(ndimage.gaussian_filter(grey, wide))


def equalised(pictures: list[NDArray[np.uint8]]) -> tuple[list[NDArray[np.uint8]], dict[str, float]]:
    """(N, side, side) pictures, and what they were brought to: side, sharpness, how many were blurred at all."""
    shown = [foreground(picture) for picture in pictures]
    side = min(max(one.shape) for one in shown)
    squares = [in_square(one, side) for one in shown]
    before = np.array([sharpness(one) for one in squares])
    target = float(np.quantile(before, LEAST_SHARP))
    written = [np.round(255 * blurred_to(one, target)).astype(np.uint8) for one in squares]
    return written, {"side": side, "sharpness": round(target, 6), "blurred": int((before > target).sum())}


def write_equalised(
    dataset: Dataset, read: Callable[[str], NDArray[np.uint8]], labels: Path, name: str, folder: Path
) -> tuple[list[NDArray[np.uint8]], dict[str, float]]:
    """Every image of the data set under its own name in `folder`, and the table of labels there as `name`.

    read(file) -> (H, W) grey. Raises RequestError where the folder holds something already.
    """
    if folder.exists() and any(folder.iterdir()):
        raise RequestError(f"--equalise {folder}: there is something in this folder. Give one that is new or empty.")
    pictures, facts = equalised([read(file) for file in dataset.files])
    for place, picture in zip(dataset.ids.tolist(), pictures, strict=True):
        if place.lower().endswith(DICOM_SUFFIXES):  # would be read as nothing else
            (folder / place).parent.mkdir(parents=True, exist_ok=True)
            write_dicom(folder / place, picture)
            continue
        data = io.BytesIO()
        PIL.Image.fromarray(picture).save(data, format="PNG")
        write_bytes(folder / place, data.getvalue())
    if labels.is_file():
        shutil.copyfile(labels, folder / name)
    return pictures, facts
