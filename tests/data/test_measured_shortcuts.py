"""benchmarks/shortcuts.py: on simulated scores with a known answer, on drawn files, on a study that ran."""

import itertools
import json
import shutil
import sys

import numpy as np
import pandas as pd
import PIL.Image
import pytest
from scipy import ndimage

from benchmarks import shortcuts
from benchmarks._copies import leaking
from benchmarks._tiny_study import tiny
from harness.errors import RequestError
from harness.images.decode import decode
from harness.metrics import sigmoid
from harness.store.home import Home, open_home
from harness.store.records import read_trials
from harness.types import Folds


def distribution(score: np.ndarray) -> np.ndarray:
    p = sigmoid(score)
    return np.column_stack([1 - p, p])


def test_only_what_is_no_shortcut_outlives_the_adjustment():
    rng = np.random.default_rng(0)
    y = rng.permutation(np.repeat([0, 1], 300))
    groups, fold = np.arange(600).astype(str), rng.integers(0, 5, 600)
    shortcut = rng.normal(size=600) + 2.5 * y
    facts, cheat = distribution(shortcut), distribution(shortcut + 0.7 * rng.normal(size=600))
    honest = distribution(rng.normal(size=600) + 2.5 * y)
    found = {name: shortcuts.adjusted(y, p, facts, groups) for name, p in (("cheat", cheat), ("honest", honest))}
    assert found["cheat"]["auroc"]["value"] > 0.9 and found["honest"]["auroc"]["value"] > 0.9
    assert found["cheat"]["adjusted"]["value"] < 0.8 and found["cheat"]["difference"]["p"] < 0.01
    assert found["honest"]["adjusted"]["lo"] > 0.9

    x = shortcut[:, None]
    asked = {name: shortcuts.nested(y, p, x, fold, groups)["log_loss"] for name, p in (("c", cheat), ("h", honest))}
    assert asked["c"]["network adds to facts"]["p"] > 0.05 and asked["c"]["facts add to network"]["p"] < 0.05
    assert asked["h"]["network adds to facts"]["p"] < 0.05

    # the same by counting pairs, on rows of unequal weight
    few, w = slice(0, 60), rng.integers(0, 3, 60).astype(np.float64)
    stratum = shortcuts.fifths(facts[few, 1])
    assert np.bincount(stratum).tolist() == [12] * 5
    total = weight = 0.0
    for one in range(5):
        rows = np.flatnonzero(stratum == one)
        pairs = [(a, b) for a, b in itertools.product(rows, rows) if y[a] == 1 and y[b] == 0 and w[a] * w[b]]
        if pairs:
            wins = sum(w[a] * w[b] * (honest[a, 1] > honest[b, 1]) for a, b in pairs)
            positives = w[rows][y[rows] == 1].sum()
            total += positives * wins / sum(w[a] * w[b] for a, b in pairs)
            weight += positives
    of = shortcuts.adjusted_auroc(y[few], honest[few], stratum, w[None])
    assert of == pytest.approx([total / weight], abs=1e-12)


def test_files_that_tell_the_class_no_longer_do_once_they_are_equalised(tmp_path):
    """Heads with noise and a letter beside them; the class is drawn in none, and every file betrays it."""
    rng = np.random.default_rng(1)
    root, folder, home = tmp_path / "set", tmp_path / "equalised", Home(tmp_path / "home")
    root.mkdir()
    labels = [number % 2 for number in range(60)]
    for number, label in enumerate(labels):
        side = int(rng.integers(80, 100)) + 60 * label
        y, x = np.mgrid[-1 : 1 : side * 1j, -1 : 1 : (side + 8) * 1j]
        head = (x / rng.uniform(0.68, 0.72)) ** 2 + (y / rng.uniform(0.78, 0.82)) ** 2 < 1
        tissue = ndimage.gaussian_filter(rng.normal(size=head.shape), side / 40)
        grey = 120 + 30 * tissue / tissue.std() + (20 - 15 * label) * rng.uniform(-1, 1, head.shape)
        grey = np.where(head, np.clip(grey, 60, 250), 20 * label)
        top, left = int(0.12 * side), int(0.18 * side)  # within the head's box, beside the head
        grey[top : top + 3, left : left + 3] = 255
        picture = PIL.Image.fromarray(grey.astype(np.uint8))
        picture.convert("RGBA" if label else "L").save(root / f"{number}.png")
    first = PIL.Image.open(root / "0.png")  # the same slice again, in another crop and size, as other people publish it
    cropped = first.crop((3, 1, first.width, first.height - 2))
    cropped.resize((cropped.width * 6 // 5, cropped.height * 6 // 5)).save(root / "58.png")
    pd.DataFrame({"file": [f"{n}.png" for n in range(60)], "label": labels}).to_csv(root / "labels.csv", index=False)
    spec = tiny(data__root=str(root), data__classes=["0", "1"], data__group="none").spec
    prepared, _ = shortcuts.files_of(spec.data, spec, home)
    before = {one["facts"]: one for one in shortcuts.of_folder(home, spec, root)["files"]}
    assert {"width", "height", "alpha", "bytes per pixel", "black border"} < set(before)
    assert min(before[name]["trees"]["value"] for name in ("width", "alpha", "all together")) > 0.99

    written, made = shortcuts.equalise(home, spec, prepared, folder)
    pictures = [PIL.Image.open(folder / f"{number}.png") for number in range(60)]
    assert {(one.mode, one.size) for one in pictures} == {("L", (made["side"], made["side"]))}
    corner = (slice(int(0.08 * made["side"])), slice(int(0.13 * made["side"])))
    assert max(np.asarray(one)[corner].max() for one in pictures) < 20, "the letter is still there"
    assert (folder / "labels.csv").read_bytes() == (root / "labels.csv").read_bytes()
    table = pd.read_csv(folder / shortcuts.GROUPED)
    assert table.drop(columns="copy").equals(pd.read_csv(root / "labels.csv"))
    assert table.loc[table["copy"].duplicated(keep=False), "file"].tolist() == ["0.png", "58.png"]
    perfect = distribution(4.0 * prepared.dataset.y[prepared.folds.development_rows()] - 2.0)
    counted = shortcuts.copies(written, prepared, {"it": perfect})
    own = dict(zip(prepared.dataset.ids.tolist(), prepared.folds.fold.tolist(), strict=True))
    apart = [own["0.png"], own["58.png"]]
    assert (counted["pairs"], counted["images"], counted["different"]) == (1, 2, 59)
    assert counted["leaking"] == (2 if -1 not in apart and apart[0] != apart[1] else 0)

    found = shortcuts.of_folder(home, spec, folder)
    assert found["folds_hash"] == prepared.folds.folds_hash, "two studies on other folds cannot be compared"
    after = {one["facts"]: one for one in found["files"]}
    assert not {"width", "height", "aspect ratio", "alpha"} & set(after)
    assert after["sharpness (log)"]["logistic"]["lo"] < 0.6
    assert after["all together"]["trees"]["value"] < before["all together"]["trees"]["value"]
    with pytest.raises(RequestError, match="new or empty"):
        shortcuts.equalise(home, spec, prepared, folder)
    names = [f"{number}.png" for number in range(60)]
    pd.DataFrame({"file": names, "label": [n % 3 for n in range(60)]}).to_csv(root / "labels.csv", index=False)
    with pytest.raises(RequestError, match="two classes"):
        shortcuts.files_of(spec.data.model_copy(update={"classes": None}), spec, home)


def test_a_copy_leaks_into_other_folds_only():
    folds = Folds(np.array([0, 0, 1, 2, 2, -1, -1, 1]), 3, "")
    copy = np.array([0, 1, 0, 2, 2, 3, 4, 4])
    assert leaking(copy, folds).tolist() == [True, False, True, False, False, False, False, False]


def test_a_study_is_measured_and_written_equalised(small_study, tmp_path, monkeypatch, capsys):
    shutil.copytree(small_study.home.root, tmp_path / "home")
    monkeypatch.setenv("HARNESS_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(sys, "argv", ["shortcuts", "small", "--equalise", str(tmp_path / "eq"), "--json"])
    shortcuts.main()
    said = capsys.readouterr().out
    found = json.loads(said)
    assert str(tmp_path) not in said
    best = max(read_trials(open_home(), "small"), key=lambda trial: trial.oof["auroc"].value)
    first = next(one for one in found["networks"] if one["model"] == f"best trial ({best.number})")
    assert first["auroc"]["value"] == pytest.approx(best.oof["auroc"].value)
    assert len(first["strata"]) == 5 and sum(one["images"] for one in first["strata"]) == found["images"]
    assert found["folds_hash"] == small_study.record.folds_hash == found["equalised"]["folds_hash"]
    assert found["copies"]["auroc"][first["model"]]["all"] == first["auroc"]
    table = shortcuts.markdown(found)
    assert "| width |" in table and "the same for all" in table and "facts add to network" in table
    dicom = next((tmp_path / "eq").rglob("*.dcm"))
    decoded = decode(dicom, tiny(data__decode={"size": "native", "channels": 1}).spec.data.decode)
    assert decoded.shape[:2] == (found["equalised"]["side"],) * 2

    monkeypatch.setattr(sys, "argv", ["shortcuts", "smal"])
    with pytest.raises(SystemExit) as stopped:
        shortcuts.main()
    assert stopped.value.code == 2 and "Did you mean small" in capsys.readouterr().err
