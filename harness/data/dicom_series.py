"""Which DICOM files are slices of one series, and in which order they lie in the body.

A series is told by its SeriesInstanceUID, which leaves this file only as a number: series 1 is the one whose file came
first. Works on headers; decodes nothing, and does not import pydicom.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from harness.data.decode import looks_like_dicom
from harness.data.dicom import open_header
from harness.errors import Unreadable


@dataclass(frozen=True)
class Slice:
    path: Path
    series: int | None
    """1, 2, ... in the order in which their first files came; None for what is no DICOM file, or has no series"""


def in_series(paths: Sequence[Path]) -> list[Slice]:
    """The same files, the slices of a series together and in order of their position, each series where its first
    file was.

    Position is that along the normal of the slices (PS3.3 C.7.6.2.1.1); without one the instance number, without that
    the order given. What cannot be read is nobody's slice: decoding will say why.
    """
    placed: dict[str, list[tuple[tuple[float, float], int, Path]]] = {}
    keys: list[str] = []
    for number, path in enumerate(paths):
        uid, position = _place(path)
        key = uid or f"\0{number}"  # no UID holds that
        keys.append(key)
        placed.setdefault(key, []).append((position, number, path))
    found: list[Slice] = []
    count = 0
    for key in dict.fromkeys(keys):
        of_series = not key.startswith("\0")
        count += of_series
        found += [Slice(path, count if of_series else None) for _, _, path in sorted(placed[key])]
    return found


def _place(path: Path) -> tuple[str, tuple[float, float]]:
    """(series UID or '', key to sort by)"""
    try:
        with path.open("rb") as file:
            if not looks_like_dicom(file.read(132), path.suffix):
                return "", (0.0, 0.0)
            file.seek(0)
            header = open_header(file)
            return str(header.get("SeriesInstanceUID") or ""), _position(header)
    except (OSError, Unreadable):
        return "", (0.0, 0.0)
    except Exception:  # a value of a header that is none: pydicom converts when asked
        return "", (0.0, 0.0)


def _position(header: Any) -> tuple[float, float]:
    """(millimetres along the normal, instance number); 0 for what is not there."""
    instance = header.get("InstanceNumber")
    number = float(instance) if instance not in (None, "") else 0.0
    where, across = header.get("ImagePositionPatient"), header.get("ImageOrientationPatient")
    if where is None or len(where) != 3:
        return 0.0, number
    directions = np.asarray(across, dtype=float) if across is not None and len(across) == 6 else np.eye(3)[:2].ravel()
    normal = np.cross(directions[:3], directions[3:])
    return float(normal @ np.asarray(where, dtype=float)), number
