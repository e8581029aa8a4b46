"""The data room as a whole: on_error, hashes, stored folds, and what must never be written."""

import os
from pathlib import Path

import numpy as np
import pandas as pd
import PIL.Image
import pytest

from harness.config.data import Data
from harness.data.prepare import findings, prepare, scan
from harness.errors import RequestError
from harness.store.home import Home
from harness.types import TEST

SHARED = Path(__file__).parents[2].parent / "shared" / "data"


def quiet(what: str, done: int, total: int) -> None:
    """A progress that says nothing."""


def make(root: Path, patients: int = 30, split: bool = False) -> Path:
    """Random pictures, two of each patient, classes by patient, raw patient ids that can be searched for."""
    root.mkdir()
    rng = np.random.default_rng(0)
    lines = ["file,label,patient,part"]
    for number in range(2 * patients):
        patient = number // 2
        grey = rng.integers(0, 256, (20 + number % 5, 24), dtype=np.uint8)
        PIL.Image.fromarray(grey).save(root / f"i{number:03d}.png")
        part = "Test" if split and patient % 5 == 0 else "train"
        lines.append(f"i{number:03d}.png,{'sick' if patient % 2 else 'well'},SECRETPATIENT{patient:03d},{part}")
    (root / "labels.csv").write_text("\n".join(lines) + "\n")
    return root


def data(root: Path, **changes: object) -> Data:
    base = {"root": str(root), "group": "patient", "folds": 3, "classes": ["well", "sick"], "decode": {"size": 16}}
    return Data.model_validate(base | changes)


def test_everything_a_study_needs(tmp_path: Path) -> None:
    root, home = make(tmp_path / "root"), Home(tmp_path / "home")
    prepared = prepare(data(root), 0, home, quiet)
    dataset, folds = prepared.dataset, prepared.folds
    assert prepared.pixels.shape == (60, 16, 16, 1) and len(dataset.ids) == len(folds.fold) == 60
    assert dataset.classes == ("well", "sick") and dataset.y.tolist() == [i // 2 % 2 for i in range(60)]
    assert all(
        os.path.isabs(file) and file.endswith(name) for file, name in zip(dataset.files, dataset.ids, strict=True)
    )
    assert set(folds.fold.tolist()) == {TEST, 0, 1, 2}
    assert len(set(dataset.groups.tolist())) == 30
    assert all(len(set(folds.fold[dataset.groups == group])) == 1 for group in dataset.groups)


def test_the_second_time_is_the_first_and_draws_nothing(tmp_path: Path) -> None:
    root, home = make(tmp_path / "root"), Home(tmp_path / "home")
    first = prepare(data(root), 0, home, quiet)
    steps: list[str] = []
    second = prepare(data(root), 0, home, lambda what, done, total: steps.append(what))
    assert not steps
    assert (first.dataset.data_hash, first.folds.folds_hash) == (second.dataset.data_hash, second.folds.folds_hash)
    assert np.array_equal(first.pixels, second.pixels) and np.array_equal(first.folds.fold, second.folds.fold)
    assert first.findings == second.findings


def test_two_homes_agree_although_their_salts_differ(tmp_path: Path) -> None:
    root = make(tmp_path / "root")
    one, other = (prepare(data(root), 0, Home(tmp_path / name), quiet) for name in ("one", "other"))
    assert one.dataset.data_hash == other.dataset.data_hash and one.folds.folds_hash == other.folds.folds_hash
    assert one.dataset.groups.tolist() == other.dataset.groups.tolist()
    assert one.dataset.groups[0] == "g000000" and list(dict.fromkeys(one.dataset.groups)) == sorted(
        set(one.dataset.groups)
    )
    assert set(one.dataset.identities).isdisjoint(other.dataset.identities)


def test_the_hash_follows_contents_labels_and_groups(tmp_path: Path) -> None:
    root, home = make(tmp_path / "root"), Home(tmp_path / "home")
    table = (root / "labels.csv").read_text()
    hashes = [prepare(data(root), 0, home, quiet).dataset.data_hash]
    hashes.append(prepare(data(root, group="none"), 0, home, quiet).dataset.data_hash)
    (root / "labels.csv").write_text(table.replace("i000.png,well", "i000.png,sick"))
    hashes.append(prepare(data(root), 0, home, quiet).dataset.data_hash)
    (root / "labels.csv").write_text(table)
    assert prepare(data(root), 0, home, quiet).dataset.data_hash == hashes[0]
    PIL.Image.fromarray(np.zeros((20, 24), np.uint8)).save(root / "i000.png")
    hashes.append(prepare(data(root), 0, home, quiet).dataset.data_hash)
    assert len(set(hashes)) == 4


def test_folds_follow_seed_and_count_but_not_decoding(tmp_path: Path) -> None:
    root, home = make(tmp_path / "root"), Home(tmp_path / "home")
    first = prepare(data(root), 0, home, quiet).folds
    assert prepare(data(root, decode={"size": 8}), 0, home, quiet).folds.folds_hash == first.folds_hash
    assert prepare(data(root), 1, home, quiet).folds.folds_hash != first.folds_hash
    assert prepare(data(root, folds=4), 0, home, quiet).folds.k == 4


def test_a_given_split_is_kept_and_its_edit_noticed(tmp_path: Path) -> None:
    root, home = make(tmp_path / "root", split=True), Home(tmp_path / "home")
    prepared = prepare(data(root, split="part"), 0, home, quiet)
    assert (prepared.folds.fold == TEST).tolist() == [i // 2 % 5 == 0 for i in range(60)]
    table = (root / "labels.csv").read_text()
    (root / "labels.csv").write_text(table.replace("SECRETPATIENT005,Test", "SECRETPATIENT005,train"))
    assert (prepare(data(root, split="part"), 0, home, quiet).folds.fold == TEST).sum() == 10
    (root / "labels.csv").write_text(table.replace("SECRETPATIENT005,Test", "SECRETPATIENT005,train", 1))
    with pytest.raises(RequestError, match=r"i010\.png"):
        prepare(data(root, split="part"), 0, home, quiet)
    blocking = [
        finding for finding in findings(data(root, split="part"), 0, home, quiet) if finding.severity == "block"
    ]
    assert [finding.kind for finding in blocking] == ["group_overlap"]
    assert set(blocking[0].images) == {"i010.png", "i011.png"}


def test_stored_folds_that_cut_a_group_raise(tmp_path: Path) -> None:
    root, home = make(tmp_path / "root"), Home(tmp_path / "home")
    prepare(data(root), 0, home, quiet)
    (path,) = (home.work_root / "folds").glob("*.parquet")
    table = pd.read_parquet(path)
    table.loc[0, "fold"] = (table.loc[1, "fold"] + 1) % 3
    table.to_parquet(path)
    with pytest.raises(RequestError, match="more than one part"):
        prepare(data(root), 0, home, quiet)


def damage(root: Path) -> None:
    """One truncated image, one label without image, one image without label, one stranger."""
    whole = (root / "i004.png").read_bytes()
    (root / "i004.png").write_bytes(whole[: len(whole) // 2])
    (root / "i008.png").unlink()
    (root / "i012.png").write_text("no picture")
    PIL.Image.fromarray(np.zeros((9, 9), np.uint8)).save(root / "more.png")


def test_refuse_lists_counts_and_says_what_to_type(tmp_path: Path) -> None:
    root, home = make(tmp_path / "root"), Home(tmp_path / "home")
    damage(root)
    with pytest.raises(RequestError, match=r"(?s)^3 of 61 images.*i008.png.*i012.png.*more.png.*data.on_error=drop"):
        prepare(data(root), 0, home, quiet)
    (root / "more.png").unlink()
    table = (root / "labels.csv").read_text().splitlines()
    (root / "labels.csv").write_text("\n".join(line for line in table if line[:4] not in ("i008", "i012")))
    (root / "i012.png").unlink()
    with pytest.raises(RequestError, match=r"(?s)^1 of 58 images.*i004.png: .*data.on_error=drop"):
        prepare(data(root), 0, home, quiet)
    assert not list(home.pixels.glob("store-*[!k]")) and not list(home.pixels.glob(".*"))
    assert not (home.work_root / "folds").exists()


def test_drop_leaves_out_counts_and_lists(tmp_path: Path) -> None:
    root, home = make(tmp_path / "root"), Home(tmp_path / "home")
    damage(root)
    prepared = prepare(data(root, on_error="drop"), 0, home, quiet)
    assert len(prepared.dataset.ids) == len(prepared.pixels) == len(prepared.folds.fold) == 57
    left_out = {name for finding in prepared.findings if finding.kind == "unreadable" for name in finding.images}
    assert left_out == {"i004.png", "i008.png", "i012.png", "more.png"}
    assert left_out.isdisjoint(prepared.dataset.ids.tolist())
    assert all(finding.severity == "warn" for finding in prepared.findings if finding.kind == "unreadable")
    assert prepared.dataset.y.tolist() == [int(name[1:4]) // 2 % 2 for name in prepared.dataset.ids.tolist()]
    table = scan(data(root), home, quiet)
    assert (table["problem"] != "").sum() == 3
    with pytest.raises(RequestError, match=r"i008\.png"):
        prepare(data(root), 0, home, quiet)
    listed = findings(data(root), 0, home, quiet)
    assert {finding.severity for finding in listed if finding.kind == "unreadable"} == {"block"}


def test_too_few_of_a_class_is_known_before_decoding(tmp_path: Path) -> None:
    root, home = make(tmp_path / "root", patients=6), Home(tmp_path / "home")
    with pytest.raises(RequestError):
        prepare(data(root, folds=10), 0, home, quiet)
    assert not list(home.pixels.glob("store-*"))


def test_force_decodes_again_what_size_and_time_hide(tmp_path: Path) -> None:
    root, home = make(tmp_path / "root"), Home(tmp_path / "home")
    for name in ("i000", "i001"):
        PIL.Image.open(root / f"{name}.png").resize((24, 20)).save(root / f"{name}.bmp")
    table = (root / "labels.csv").read_text().replace("i000.png", "i000.bmp").replace("i001.png", "i001.bmp")
    (root / "labels.csv").write_text(table)
    asked, path = data(root, on_error="drop"), root / "i000.bmp"
    first, facts = prepare(asked, 0, home, quiet), os.stat(path)
    path.write_bytes((root / "i001.bmp").read_bytes())
    os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    assert path.stat().st_size == facts.st_size
    assert prepare(asked, 0, home, quiet).dataset.data_hash == first.dataset.data_hash
    findings(asked, 0, home, quiet, force=True)
    second = prepare(asked, 0, home, quiet)
    assert np.array_equal(second.pixels[0], second.pixels[1]) and not np.array_equal(first.pixels[0], second.pixels[0])


def test_raw_patient_ids_are_nowhere_under_the_home(tmp_path: Path) -> None:
    root, home = make(tmp_path / "root", split=True), Home(tmp_path / "home")
    damage(root)
    prepare(data(root, on_error="drop", split="part"), 0, home, quiet)
    files = [path for path in home.root.rglob("*") if path.is_file()]
    assert len(files) > 5
    for path in files:
        assert b"SECRETPATIENT" not in path.read_bytes() and "SECRETPATIENT" not in str(path)
    for table in home.root.rglob("*.parquet"):
        assert "SECRETPATIENT" not in pd.read_parquet(table).to_csv()


def test_the_phantom_by_its_name(tmp_path: Path) -> None:
    asked = Data(root="phantom", group="patient", classes=("normal", "bleed"))
    prepared = prepare(asked, 0, Home(tmp_path), quiet)
    assert len(prepared.dataset.ids) >= 240 and prepared.dataset.classes == ("normal", "bleed")
    assert not [finding for finding in prepared.findings if finding.kind in ("exact_duplicate", "shortcut")]


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"no development data at {SHARED}")
def test_real_data_sets(tmp_path: Path) -> None:
    home = Home(tmp_path)
    tree = {"root": str(SHARED / "head_ct"), "image": "images/{id:0>3}.png", "label": "hemorrhage", "group": "none"}
    with pytest.raises(RequestError, match=r"images/188.png = images/189.png"):
        prepare(Data.model_validate(tree), 0, home, quiet)
    known = {"exact_duplicate": "published as it is"}
    prepared = prepare(Data.model_validate({**tree, "acknowledge": known}), 0, home, quiet)
    assert np.bincount(prepared.dataset.y).tolist() == [100, 100] and len(prepared.pixels) == 200
    films = Data.model_validate(
        {"root": str(SHARED / "chest_xray_dicom"), "image": "{image_id}.dcm", "label": "viral", "group": "patient_id"}
    )
    prepared = prepare(films, 0, home, quiet)
    assert len(prepared.pixels) == 240 and prepared.pixels.mean() > 50
