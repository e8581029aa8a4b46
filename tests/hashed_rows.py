"""Bundles name no file: which file is a row of predictions.parquet?"""

from pathlib import Path

from harness.data.headers import salted
from harness.home import Home


def names_by_hash(home: Home, images: Path) -> dict[str, str]:
    """The path from `images` of every file below it, by the hash that bundles of this home know it by."""
    hashed = salted(home.salt())
    names = [file.relative_to(images).as_posix() for file in images.rglob("*") if file.is_file()]
    return {hashed(name): name for name in names}
