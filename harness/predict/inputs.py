"""Which images are meant by what was typed: files, folders, lists in CSV files, names on standard input, DICOM series.

Opens no image but for the first bytes of files without a known suffix, and DICOM headers where series are asked for.
"""

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from harness.data.sources import read_table
from harness.errors import RequestError, nearest
from harness.images.decode import IMAGE_SUFFIXES
from harness.images.headers import Slice, in_series
from harness.images.npz import archive_of

LISTS = (".csv", ".tsv")
COLUMNS = ("file", "path", "image", "filename", "filepath", "file_path", "image_path", "file_name", "dicom")
"""names of the column that holds the images of a list, the first that is there; capitals do not matter"""
STDIN = Path("-")


def find_images(paths: Sequence[Path], lines: Iterable[str] | None = None) -> list[Path]:
    """The files meant by `paths`, each once, in their order; folders in the order of their files' paths.

    A CSV file is a list: one of its columns is called `file` (or another of COLUMNS) and holds paths from the list's
    own folder. What a list or standard input names and is not there is found out when it is read, so that one missing
    file does not stop the others. `lines`: standard input, for `-`. Raises RequestError for a path that is not there,
    a folder without images, a list without such a column.
    """
    found: dict[Path, None] = {}
    for path in paths:
        if path == STDIN:
            names = (line.strip("\r\n") for line in (sys.stdin if lines is None else lines))
            found.update(dict.fromkeys(Path(name) for name in names if name.strip()))
        elif path.is_dir():
            found.update(dict.fromkeys(_inside(path)))
        elif path.suffix.lower() in LISTS and path.is_file():
            found.update(dict.fromkeys(_listed(path)))
        elif path.is_file() or archive_of(path) is not None:
            found[path] = None
        else:
            raise RequestError(
                f"{path}: no such file or folder. Give image files, a folder that holds some, or a CSV file with a "
                "column `file`."
            )
    if not found:
        raise RequestError("no image was given: harness predict BUNDLE PATH...")
    return list(found)


def with_series(paths: Sequence[Path]) -> list[Slice]:
    """The files with the number of their DICOM series, slices in order. Raises RequestError where none has one."""
    found = in_series(paths)
    if not any(one.series for one in found):
        raise RequestError(
            f"--per series: none of the {len(paths)} files is a DICOM file that names its series. "
            "Leave --per away for one row per image."
        )
    return found


def _inside(folder: Path) -> list[Path]:
    inside = sorted(file for file in folder.rglob("*") if file.is_file() and _is_image(file))
    if not inside:
        raise RequestError(
            f"{folder}: no image in this folder or below it (looked for DICOM files and "
            f"{' '.join(sorted(IMAGE_SUFFIXES))}). Other files are tried when they are named one by one."
        )
    return inside


def _is_image(path: Path) -> bool:
    """By its name, or a DICOM file by its preamble: scanners write those without a suffix."""
    if path.suffix.lower() in IMAGE_SUFFIXES:
        return True
    try:
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False


def _listed(path: Path) -> list[Path]:
    """The images of a list: paths from its own folder, or whole ones."""
    names, rows, _ = read_table(path)
    lowered = [name.lower() for name in names]
    column = next((lowered.index(name) for name in COLUMNS if name in lowered), None)
    if column is None:
        near = next((hint for name in lowered if (hint := nearest(name, COLUMNS))), "")
        raise RequestError(
            f"{path}: no column of this list says where the images are (its columns: {', '.join(names)}).{near} "
            "Call that column `file`."
        )
    found = [path.parent / row[column] for row in rows if row[column]]
    if not found:
        raise RequestError(f"{path}: the column {names[column]!r} of this list is empty.")
    return found
