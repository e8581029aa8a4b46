"""Small folders of real pictures, and studies of them."""

from pathlib import Path

import numpy as np
import PIL.Image
import pydicom

from harness.config.data import Data
from harness.data.manifest import Scan, scan_data
from harness.images.dicom import write_dicom
from harness.store.home import Home


def quiet(what: str, done: int, total: int) -> None:
    """A progress that says nothing."""


class Reads:
    """Counts what was read, by what the scan says of its progress."""

    def __init__(self) -> None:
        self.files = 0

    def __call__(self, what: str, done: int, total: int) -> None:
        self.files = max(self.files, done)


def picture(path: Path, width: int = 12, height: int = 10, value: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.fromarray(np.full((height, width), value, np.uint8)).save(path)
    return path


def film(path: Path, **attributes: str) -> Path:
    """A DICOM file with the given attributes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_dicom(path, np.arange(120, dtype=np.uint8).reshape(10, 12))
    dataset = pydicom.dcmread(path)
    for name, value in attributes.items():
        setattr(dataset, name, value)
    dataset.save_as(path)
    return path


def scan(root: Path, home: Path, **keys: object) -> Scan:
    """The scan of a study with the given keys of its data block."""
    data = Data.model_validate({"root": str(root), "group": "none", **keys})
    return scan_data(data, Home(home), quiet)
