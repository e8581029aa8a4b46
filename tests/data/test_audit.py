"""The audit finds what is planted, says nothing about clean data, and knows the known faults of real sets."""

import dataclasses
import io
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from harness.data.audit import Finding, audit, audit_hash, findings_from_json, findings_to_json
from harness.data.duplicates import NEAR_COPY_ALIKE, _thumbnails, almost_equal, clusters, equal_to
from harness.data.folds import make_folds
from harness.types import TEST, Dataset, Folds

SHARED = Path(__file__).parents[2].parent / "shared/data"


def smooth_pictures(n: int, seed: int = 0, size: int = 32) -> np.ndarray:
    """(n, size, size, 1) blobs of random places and grey levels, each unlike the others."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (n, 8, 8)).astype(np.uint8)
    big = [np.asarray(Image.fromarray(one).resize((size, size), Image.Resampling.BICUBIC)) for one in coarse]
    return np.stack(big)[..., None]


def clean(n: int = 200) -> tuple[pd.DataFrame, Dataset, Folds, np.ndarray]:
    """Two images a group, one class a group, sizes and formats that say nothing."""
    rng = np.random.default_rng(1)
    groups = np.array([f"p{i // 2}" for i in range(n)])
    y = (np.arange(n) // 2 % 2).astype(np.int64)
    ids = np.array([f"img{i}.png" for i in range(n)])
    dataset = Dataset(ids, tuple(ids), y, groups, ("well", "ill"), "hash")
    manifest = pd.DataFrame({"id": ids, "label": y, "group": groups, "split": None, "mode": "L", "format": "PNG"})
    manifest["width"], manifest["height"] = rng.integers(100, 400, n), rng.integers(100, 400, n)
    folds = make_folds(y, groups, 4, 0, 0.2, None, dataset.classes)
    return manifest, dataset, folds, smooth_pictures(n)


def kinds(findings: list[Finding]) -> set[str]:
    return {finding.kind for finding in findings}


def one(findings: list[Finding], kind: str) -> Finding:
    (found,) = [finding for finding in findings if finding.kind == kind]
    return found


def two_rows(folds: Folds, first: int, second: int) -> tuple[int, int]:
    return int(np.flatnonzero(folds.fold == first)[0]), int(np.flatnonzero(folds.fold == second)[-1])


def test_clean_data_has_no_findings():
    assert audit(*clean()) == []


def test_a_group_in_two_parts_blocks_and_comes_first():
    manifest, dataset, folds, pixels = clean()
    broken = folds.fold.copy()
    row = int(np.flatnonzero(broken == 0)[0])
    broken[row] = TEST
    pixels[5] = pixels[150]
    findings = audit(manifest, dataset, Folds(broken, 4, ""), pixels)
    assert (findings[0].kind, findings[0].severity) == ("group_overlap", "block")
    assert dataset.ids[row] in findings[0].images and len(findings[0].images) == 2
    assert str(dataset.groups[row]) in findings[0].message


def test_a_group_on_both_sides_of_the_named_split_blocks():
    manifest, dataset, folds, pixels = clean()
    manifest["split"] = ["test" if i < 41 else "train" for i in range(200)]
    found = one(audit(manifest, dataset, folds, pixels), "group_overlap")
    assert found.severity == "block" and set(found.images) == {"img40.png", "img41.png"}


@pytest.mark.parametrize(("parts", "place"), [((0, TEST), "test and development"), ((0, 1), "two folds")])
def test_an_exact_copy_in_another_group_is_found_where_it_is(parts, place):
    manifest, dataset, folds, pixels = clean()
    a, b = two_rows(folds, *parts)
    pixels[b] = pixels[a]
    found = one(audit(manifest, dataset, folds, pixels), "exact_duplicate")
    assert found.severity == "block" and place in found.message
    assert set(found.images) == {dataset.ids[a], dataset.ids[b]}


def test_an_exact_copy_within_one_part_warns():
    manifest, dataset, folds, pixels = clean()
    a, b = two_rows(folds, 0, 0)
    pixels[b] = pixels[a]
    found = one(audit(manifest, dataset, folds, pixels), "exact_duplicate")
    assert found.severity == "warn" and "groups of one part" in found.message


def test_copies_within_a_group_are_what_groups_are_for():
    manifest, dataset, folds, pixels = clean()
    pixels[1] = pixels[0]
    assert audit(manifest, dataset, folds, pixels) == []


def test_equal_pixels_with_two_labels_conflict_even_within_a_group():
    manifest, dataset, folds, pixels = clean()
    y = dataset.y.copy()
    y[1] = 1 - y[0]
    pixels[1] = pixels[0]
    found = one(audit(manifest, dataclasses.replace(dataset, y=y), folds, pixels), "conflicting_labels")
    assert found.images == ("img0.png", "img1.png") and found.severity == "block"


def as_jpeg(picture: np.ndarray) -> np.ndarray:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=60)
    return np.asarray(Image.open(file))


def resized(picture: np.ndarray) -> np.ndarray:
    small = Image.fromarray(picture).resize((24, 24), Image.Resampling.BILINEAR)
    return np.asarray(small.resize((32, 32), Image.Resampling.BILINEAR))


def dimmed(picture: np.ndarray) -> np.ndarray:
    return (picture * 0.8 + 12).astype(np.uint8)


@pytest.mark.parametrize("change", [as_jpeg, resized, dimmed])
def test_a_changed_copy_in_another_group_is_a_near_duplicate(change):
    manifest, dataset, folds, pixels = clean()
    a, b = two_rows(folds, 0, TEST)
    pixels[b, ..., 0] = change(pixels[a, ..., 0])
    found = one(audit(manifest, dataset, folds, pixels), "near_duplicate")
    assert set(found.images) == {dataset.ids[a], dataset.ids[b]}


def test_pictures_alike_only_from_afar_are_not_copies():
    """One blurred scene under two fine textures: the thumbnails agree, the edges do not."""
    rng = np.random.default_rng(0)
    scene = smooth_pictures(1, size=64).astype(float) * 0.6 + 40
    pixels = (scene + 8 * rng.choice([-1, 1], (3, 64, 64, 1))).astype(np.uint8)
    pixels[2] = np.clip(pixels[0].astype(int) + rng.integers(-2, 3, (64, 64, 1)), 0, 255)
    assert np.corrcoef(_thumbnails(pixels, 16))[0, 1] >= NEAR_COPY_ALIKE
    assert almost_equal(pixels, np.arange(3)).tolist() == [[0, 2]]


def test_flat_images_are_like_no_other_but_equal_to_each_other():
    pixels = np.full((4, 16, 16, 3), 7, np.uint8)
    pixels[3] = 9
    assert almost_equal(pixels, np.arange(4)).shape == (0, 2)
    assert equal_to(pixels).tolist() == [0, 0, 0, 3]


def test_clusters_join_chains_of_pairs():
    joined = clusters(np.array([[4, 9], [1, 2], [2, 7], [9, 5]]))
    assert [rows.tolist() for rows in joined] == [[1, 2, 7], [4, 5, 9]]


def test_a_given_split_of_other_prevalence_is_a_shift():
    manifest, dataset, _, pixels = clean()
    fold = np.where((dataset.y == 1) & (np.arange(200) < 80), TEST, np.arange(200) // 4 % 4)
    found = audit(manifest, dataset, Folds(fold, 4, ""), pixels)
    shifts = [finding for finding in found if finding.kind == "prevalence_shift"]
    assert [finding.message.split("'")[1] for finding in shifts] == ["well"]  # the class that is missing, once
    assert "0.0% of the test split" in shifts[0].message and "undefined" in shifts[0].message


def test_a_shift_of_two_classes_between_two_parts_is_told_once():
    """Two named splits, two classes: each share is the other's rest, and each part too."""
    manifest, dataset, _, pixels = clean()
    test = np.arange(200) >= 160
    val = ~test & (((dataset.y == 1) & (np.arange(200) < 60)) | ((dataset.y == 0) & (np.arange(200) < 10)))
    manifest["split"] = np.where(test, "test", np.where(val, "val", "train"))
    fold = np.where(test, TEST, np.arange(200) // 2 % 8 // 2)
    found = audit(manifest, dataset, Folds(fold, 4, ""), pixels)
    (shift,) = [finding.message for finding in found if finding.kind == "prevalence_shift"]
    assert "class 'ill'" in shift


def test_a_shift_of_three_classes_is_told_of_each():
    manifest, dataset, _, pixels = clean()
    y = np.arange(200) // 2 % 3
    fold = np.where(np.arange(200) >= 160, TEST, np.arange(200) // 4 % 4)
    y = np.where(fold == TEST, 1, y).astype(np.int64)
    three = dataclasses.replace(dataset, y=y, classes=("a", "b", "c"))
    said = [f.message for f in audit(manifest, three, Folds(fold, 4, ""), pixels) if f.kind == "prevalence_shift"]
    assert sorted(message.split("'")[1] for message in said) == ["a", "b", "c"]


def test_the_width_that_tells_the_class_is_a_shortcut():
    manifest, dataset, folds, pixels = clean()
    manifest["width"] = manifest["width"] + 120 * dataset.y
    findings = audit(manifest, dataset, folds, pixels)
    assert kinds(findings) == {"shortcut"} and any("the width of the file" in f.message for f in findings)


def test_a_rare_mode_of_one_class_is_a_shortcut_that_names_its_images():
    manifest, dataset, folds, pixels = clean()
    odd = (dataset.y == 1) & (np.arange(200) >= 160)
    manifest["mode"] = np.where(odd, "RGBA", "L")
    found = one(audit(manifest, dataset, folds, pixels), "shortcut")
    assert "mode is RGBA" in found.message and "'ill'" in found.message
    assert set(found.images) == set(dataset.ids[odd])


def test_many_images_of_few_patients_are_not_evidence():
    """Three patients of one class with twenty RGBA images each: three observations, not sixty."""
    manifest, dataset, _, pixels = clean()
    groups = np.array([f"p{i // 20}" for i in range(200)])
    y = (np.arange(200) // 20 % 2).astype(np.int64)
    dataset = dataclasses.replace(dataset, y=y, groups=groups)
    manifest["mode"] = np.where(np.isin(groups, ["p1", "p3", "p5"]), "RGBA", "L")
    folds = make_folds(y, groups, 2, 0, 0.2, None, dataset.classes)
    assert not any("RGBA" in finding.message for finding in audit(manifest, dataset, folds, pixels))


def test_findings_survive_json():
    manifest, dataset, folds, pixels = clean()
    pixels[150] = pixels[5]
    findings = audit(manifest, dataset, folds, pixels)
    assert findings and findings_from_json(json.loads(json.dumps(findings_to_json(findings)))) == findings


def real(root: Path, table: pd.DataFrame, file: str, label: str, group: str):
    """A shared data set at 64 pixels, padded."""
    pixels, facts = [], []
    for name in table[file]:
        with Image.open(root / "images" / name) as image:
            facts.append((image.width, image.height, image.mode, image.format))
            grey = image.convert("L")
            grey.thumbnail((64, 64))
            padded = Image.new("L", (64, 64))
            padded.paste(grey, ((64 - grey.width) // 2, (64 - grey.height) // 2))
            pixels.append(np.asarray(padded))
    classes, y = np.unique(table[label].to_numpy(str), return_inverse=True)
    ids, groups = table[file].to_numpy(str), table[group].to_numpy(str)
    dataset = Dataset(ids, tuple(ids), y.astype(np.int64), groups, tuple(classes.tolist()), "hash")
    manifest = pd.DataFrame(facts, columns=["width", "height", "mode", "format"])
    folds = make_folds(dataset.y, groups, 5, 0, 0.2, None, dataset.classes)
    return audit(manifest, dataset, folds, np.stack(pixels)[..., None])


def test_head_ct_has_a_copy_and_two_shortcuts():
    root = SHARED / "head_ct"
    if not root.exists():
        pytest.skip(f"no {root}")
    table = pd.read_csv(root / "labels.csv", dtype=str, skipinitialspace=True)
    table["file"] = table["id"].str.zfill(3) + ".png"
    findings = real(root, table, "file", "hemorrhage", "file")
    assert [finding.kind for finding in findings if finding.severity == "block"] == ["exact_duplicate"]
    assert set(one(findings, "exact_duplicate").images) == {"188.png", "189.png"}
    rgba = [finding for finding in findings if "mode is RGBA" in finding.message]
    assert len(rgba) == 1 and len(rgba[0].images) == 12
    assert any("the height of the file" in finding.message for finding in findings)


def test_chest_xray_has_no_copies_across_patients():
    root = SHARED / "chest_xray"
    if not root.exists():
        pytest.skip(f"no {root}")
    table = pd.read_csv(root / "labels.csv", dtype=str)
    table = table[table["patient"].isin(table["patient"].unique()[:500])]
    findings = real(root, table, "file", "label", "patient")
    assert kinds(findings) <= {"shortcut"}


def test_a_fold_without_a_class_and_a_named_split_of_another_prevalence_are_shifts():
    manifest, dataset, _, pixels = clean()
    fold = np.where(np.arange(200) >= 160, TEST, np.arange(200) // 4 % 4)
    ill = (dataset.y == 1) & (fold == 2)
    fold[ill] = 3
    manifest["split"] = np.where(fold == TEST, "test", np.where((dataset.y == 1) & (fold == 1), "val", "train"))
    said = [f.message for f in audit(manifest, dataset, Folds(fold, 4, ""), pixels) if f.kind == "prevalence_shift"]
    assert any("class 'ill' is 0.0% of fold 2" in message and "undefined" in message for message in said)
    assert any("class 'well' is 0.0% of split 'val'" in message for message in said)
    assert not any("test split and" in message or "fold 0 and" in message for message in said)


def test_inverted_polarity_of_one_class_is_a_shortcut_said_once():
    manifest, dataset, folds, pixels = clean()
    manifest["mode"] = np.where(dataset.y == 1, "MONOCHROME1", "MONOCHROME2")
    said = [finding.message for finding in audit(manifest, dataset, folds, pixels)]
    assert len(said) == 3 and any("mode is MONOCHROME1" in message for message in said)
    manifest["mode"] = np.where(dataset.y == 1, "MONOCHROME1", np.where(np.arange(200) % 3, "L", "MONOCHROME2"))
    said = [finding.message for finding in audit(manifest, dataset, folds, pixels)]
    assert any("polarity of the file predicts the class" in message for message in said)


def test_grey_files_of_one_class_among_colour_are_a_shortcut():
    manifest, dataset, folds, pixels = clean()
    manifest["mode"] = np.where(dataset.y == 1, np.where(np.arange(200) % 3, "L", "I;16"), "RGB")
    said = [finding.message for finding in audit(manifest, dataset, folds, pixels)]
    assert any("number of channels is 1" in message and "'ill'" in message for message in said)


def test_a_scanner_of_one_class_is_a_shortcut():
    manifest, dataset, folds, pixels = clean()
    manifest["dicom.Manufacturer"] = np.where((dataset.y == 0) & (np.arange(200) < 80), "Acme", "Other")
    found = [f for f in audit(manifest, dataset, folds, pixels) if "Manufacturer is Acme" in f.message]
    assert len(found) == 1 and found[0].kind == "shortcut" and len(found[0].images) == 40


def test_the_audit_hash_changes_with_what_was_found_alone():
    manifest, dataset, folds, pixels = clean()
    pixels[150] = pixels[5]
    findings = audit(manifest, dataset, folds, pixels)
    assert audit_hash(findings) == audit_hash(findings_from_json(findings_to_json(findings)))
    assert audit_hash(findings) != audit_hash([]) and len(audit_hash([])) == 32


def test_breastmnist_has_one_picture_under_both_labels():
    path = SHARED / "medmnist/breastmnist.npz"
    if not path.exists():
        pytest.skip(f"no {path}")
    parts = np.load(path)
    pixels = np.concatenate([parts[f"{name}_images"] for name in ("train", "val", "test")])[..., None]
    y = np.concatenate([parts[f"{name}_labels"] for name in ("train", "val", "test")]).astype(np.int64)
    ids = np.array(
        [f"{name}/{i:05d}" for name in ("train", "val", "test") for i in range(len(parts[f"{name}_labels"]))]
    )
    dataset = Dataset(ids, tuple(ids), y, ids, ("malignant", "benign"), "")
    manifest = pd.DataFrame({"split": [name.split("/")[0] for name in ids.tolist()]})
    fold = np.where(manifest["split"] == "test", TEST, np.arange(len(y)) % 5)
    found = one(audit(manifest, dataset, Folds(fold, 5, ""), pixels), "conflicting_labels")
    assert "test/00076" in found.images and len(found.images) == 2
