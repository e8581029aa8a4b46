"""How much disk a home takes: a file with two names counts once."""

import os
from pathlib import Path

from harness.store.home import disk_used


def test_a_file_with_two_names_counts_in_the_first_folder(tmp_path: Path) -> None:
    first, second = tmp_path / "artifacts", tmp_path / "bundles"
    (first / "fold_0").mkdir(parents=True)
    second.mkdir()
    (first / "fold_0" / "weights").write_bytes(b"w" * 1000)
    os.link(first / "fold_0" / "weights", first / "again")
    os.link(first / "again", second / "weights")
    (second / "bundle.json").write_bytes(b"b" * 10)
    os.symlink(first / "again", second / "link")
    link = (second / "link").lstat().st_size
    assert disk_used([first, second, tmp_path / "missing"]) == [1000, 10 + link, 0]
    assert disk_used([second, first]) == [1010 + link, 0]
