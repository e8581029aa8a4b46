"""Copies that a study keeps together stay one group in a bundle, which names no file."""

import csv
import shutil

import pandas as pd
from every_method import build_every
from numbered_rows import names_by_row

from benchmarks._tiny_study import tiny
from harness.data.phantom import ensure_phantom
from harness.search.run import run_study
from harness.store.home import Home
from harness.store.records import require_study

COPIED = 6


def test_a_copy_has_the_group_of_its_original(tmp_path):
    home, root = Home(tmp_path / "home"), tmp_path / "data"
    shutil.copytree(ensure_phantom(home, lambda what, done, total: None), root)
    rows = list(csv.DictReader((root / "labels.csv").open()))
    twins = [row | {"file": row["file"].replace("img", "twin")} for row in rows[:COPIED]]
    with (root / "labels.csv").open("a") as file:
        csv.DictWriter(file, list(rows[0]), lineterminator="\n").writerows(twins)
    for row, twin in zip(rows, twins, strict=False):
        shutil.copy(root / row["file"], root / twin["file"])
    study = tiny(
        name="twins", data__root=str(root), data__group="none", data__copies="together", search__trials=1,
        train__epochs=1,
    )  # fmt: skip
    run_study(study, home, 1, "cpu", lambda event: None)
    (result,) = build_every(home, [require_study(home, "twins")], ["mean"], 1, 0, "cpu")
    table = pd.read_parquet(result.bundle / "predictions.parquet").set_index("id")
    number = {name: row for row, name in names_by_row(home, "twins").items()}
    pairs = [[number[name] for name in (row["file"], twin["file"])] for row, twin in zip(rows, twins, strict=False)]
    assert all(len(set(table["group"][pair])) == len(set(table["split"][pair])) == 1 for pair in pairs)
    names = {row["file"] for row in [*rows, *twins]}
    assert len(table) == len(names) and names.isdisjoint(table["group"]) and names.isdisjoint(table.index)
