"""Answers with a doubt from a real bundle, and what they look like as CSV, JSON and Parquet."""

import json
import shutil
from dataclasses import replace
from io import BytesIO, StringIO
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from every_method import build_every
from numbered_rows import names_by_row
from PIL import Image
from test_inputs import ONE, OTHER, series

from harness.calibration.uncertainty import disagreement
from harness.ensemble.bundle import load_bundle, outputs_of_bundle
from harness.errors import RequestError
from harness.images.decode import decode
from harness.metrics import softmax
from harness.predict.outputs import as_csv, as_document, as_file, as_table, require_suffix
from harness.predict.predict import Asked, predict


@pytest.fixture(scope="module")
def home_files(mean_bundle, small_study) -> list[Path]:
    table = pd.read_parquet(mean_bundle / "predictions.parquet")
    names = names_by_row(small_study.home, "small")
    return [small_study.images / names[row] for row in table[table["split"] == "test"]["id"]]


@pytest.fixture(scope="module")
def at_home(mean_bundle, home_files):
    return predict(mean_bundle, home_files, "cpu")


@pytest.fixture(scope="module")
def foreign(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("foreign")
    rng = np.random.default_rng(0)
    for number in range(8):
        Image.fromarray(rng.integers(0, 256, (64, 64), dtype=np.uint8)).save(folder / f"noise{number}.png")
    return folder


def test_foreign_images_are_told_and_left_to_a_person(mean_bundle, at_home, foreign):
    far = predict(mean_bundle, [foreign], "cpu").answers
    near = at_home.answers
    assert (far.out_of_distribution > 0.99).all() and far.abstain.all()
    assert (near.out_of_distribution > 0.99).mean() < 0.1
    assert 0.2 < np.median(near.out_of_distribution) < 0.8


def test_disagreement_is_that_of_the_members_fold_by_fold(mean_bundle, at_home, home_files):
    bundle = load_bundle(mean_bundle)
    pixels = np.stack([decode(file, bundle.decodes[0]) for file in home_files])
    p = softmax(outputs_of_bundle(bundle, [pixels]).logits)
    by_hand = np.mean([disagreement([p[0, k], p[1, k]], False) for k in range(3)], axis=0)
    np.testing.assert_allclose(at_home.answers.disagreement, by_hand, atol=1e-6)
    assert by_hand.max() > 0


def test_a_larger_share_leaves_more_to_a_person(mean_bundle, home_files):
    left = [
        predict(mean_bundle, home_files, "cpu", asked=Asked(abstain=share)).answers.abstain.sum()
        for share in (0, 0.3, 1)
    ]
    assert left[0] < left[1] < left[2] == len(home_files)


def test_a_bundle_without_a_reference_says_so(small_study, home_files):
    bundle = build_every(small_study.home, [small_study.record], ["mean"], 1, 0, "cpu", reference=False)[0].bundle
    found = predict(bundle, home_files[:3], "cpu")
    assert np.isnan(found.answers.out_of_distribution).all()
    assert found.answers.abstain is not None
    assert "no out-of-distribution score: built with --no-reference" in found.notes
    assert as_document(found)[0]["out_of_distribution"] is None
    assert (found.answers.disagreement >= 0).all()  # of one member: between its fold models


def test_a_changed_reference_is_refused(mean_bundle, home_files, tmp_path):
    copy = tmp_path / "bundle"
    shutil.copytree(mean_bundle, copy)
    file = copy / "reference" / "usual.npz"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(RequestError, match="SHA-256 differs"):
        predict(copy, home_files[:1], "cpu")
    shutil.copyfile(mean_bundle / "reference" / "usual.npz", file)
    about = json.loads((copy / "bundle.json").read_text())
    about["reference"]["doubt"]["confidence"] = ["high"]
    (copy / "bundle.json").write_text(json.dumps(about))
    with pytest.raises(RequestError, match=r"its reference cannot be read .* Build the ensemble again"):
        predict(copy, home_files[:1], "cpu")


def test_the_three_formats_say_the_same(at_home):
    columns, rows = as_table(at_home)
    assert columns[:3] == ["file", "normal", "bleed"]
    assert columns[3:] == ["decision", "disagreement", "out_of_distribution", "abstain"]
    table = pd.read_csv(StringIO(as_csv(at_home)), dtype={"file": str})
    parquet = pd.read_parquet(BytesIO(as_file(at_home, ".parquet")))
    document = json.loads(as_file(at_home, ".json"))
    assert len(table) == len(parquet) == len(document) == len(rows) == len(at_home.files)
    for name in ("normal", "bleed"):
        np.testing.assert_array_equal(table[name], [row["probabilities"][name] for row in document])
    for name in ("disagreement", "out_of_distribution"):
        np.testing.assert_array_equal(table[name], parquet[name])
        np.testing.assert_array_equal(table[name], [row[name] for row in document])
    assert [row["abstain"] for row in document] == parquet["abstain"].tolist()
    assert table["abstain"].map({"yes": True, "no": False}).tolist() == parquet["abstain"].tolist()
    assert set(table["decision"]) <= {"normal", "bleed"}
    np.testing.assert_allclose(table["normal"] + table["bleed"], 1)


def test_a_class_called_as_a_column(at_home):
    columns, _ = as_table(replace(at_home, classes=("abstain", "bleed")))
    assert columns[1:3] == ["p(abstain)", "bleed"]
    assert len(set(columns)) == len(columns)


@pytest.mark.parametrize("name", ["p.xlsx", "p", "p.cvs"])
def test_an_ending_that_says_no_format(name):
    with pytest.raises(
        RequestError, match=rf"--out {name}: the ending says the format.*Type --out p.csv, or .json, or"
    ):
        require_suffix(Path(name), "--out")


def test_one_answer_per_series(mean_bundle, tmp_path):
    for number in range(3):
        series(tmp_path, f"a{number}.dcm", ONE, float(-number), None)
    series(tmp_path, "b.dcm", OTHER, 0.0, None)
    (tmp_path / "c.dcm").write_bytes(b"nothing")
    images = predict(mean_bundle, [tmp_path], "cpu")
    found = predict(mean_bundle, [tmp_path], "cpu", asked=Asked(per_series=True))
    assert [path.name for path in found.files] == ["a2.dcm", "b.dcm"]  # the lowest slice stands for its series
    assert found.read == 4 and [path.name for path, _ in found.problems] == ["c.dcm"]
    of_first = images.probabilities[:3].mean(axis=0)
    np.testing.assert_allclose(found.probabilities, [of_first, images.probabilities[3]], atol=1e-6)
    document = as_document(found)
    assert [(row["series"], row["images"]) for row in document[:2]] == [("series-1", 3), ("series-2", 1)]
    assert ONE not in json.dumps(document) and "ZEBRA" not in json.dumps(document)
    assert as_csv(found).splitlines()[0].startswith("file,series,images,normal,bleed,decision")


def test_parts_do_not_change_the_answers(mean_bundle, home_files, at_home, monkeypatch):
    """More files than fit into one part of memory: the same numbers, in the same order."""
    from harness.predict import inputs as module

    monkeypatch.setattr(module, "PART_BYTES", 3 * 32 * 32)
    found = predict(mean_bundle, home_files, "cpu")
    assert found.files == home_files
    np.testing.assert_allclose(found.probabilities, at_home.probabilities, atol=1e-6)
    np.testing.assert_allclose(found.answers.out_of_distribution, at_home.answers.out_of_distribution, atol=1e-3)


def test_progress_counts_every_image_once(mean_bundle, home_files):
    said: list[tuple[str, int, int]] = []
    predict(mean_bundle, home_files[:5], "cpu", lambda *one: said.append(one))
    through = [(done, total) for what, done, total in said if what == "images through the networks"]
    assert through[-1] == (5, 5)
    assert [done for done, _ in through] == sorted(done for done, _ in through)
