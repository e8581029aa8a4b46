"""harness evaluate on real images: chest X-rays in another file format, which is no other place; darkened and blurred
ones, which are; and a data set whose labels, columns and files are not as they should be."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from every_method import build_every
from numbered_rows import names_by_row
from PIL import Image, ImageFilter

from benchmarks._tiny_study import tiny
from harness.ensemble.bundle import load_bundle
from harness.errors import RequestError
from harness.metrics import METRICS
from harness.output.result import plain
from harness.predict.evaluate import evaluate, home_sample, log_evaluation
from harness.search.run import run_study
from harness.store.home import Home
from harness.store.records import require_study

SHARED = Path(__file__).parents[2].parent / "shared/data"
JPEG, DICOM = SHARED / "chest_xray", SHARED / "chest_xray_dicom"
pytestmark = pytest.mark.skipif(not (JPEG.is_dir() and DICOM.is_dir()), reason=f"no development data at {SHARED}")
STUDY = tiny(
    name="chest",
    data__root=str(JPEG),
    data__image="images/{file}",
    data__classes=["NORMAL", "PNEUMONIA"],
    data__folds=2,
    optim__lr=5e-3,
    train__epochs=3,
    train__batch_size=32,
    search__trials=1,
)
MAPS = ["1=PNEUMONIA", "0=NORMAL"]


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Home:
    home = Home(tmp_path_factory.mktemp("chest"))
    run_study(STUDY, home, 1, "cpu", lambda event: None)
    build_every(home, [require_study(home, "chest")], ["mean"], 1, 0, "cpu")
    return home


@pytest.fixture(scope="module")
def held_out(home) -> pd.DataFrame:
    """file, label, patient of the bundle's own test split."""
    ids = pd.read_parquet(home.bundles("chest") / "mean-top1" / "predictions.parquet")
    known = names_by_row(home, "chest")
    names = {Path(known[name]).name for name in ids.loc[ids["split"] == "test", "id"]}
    labels = pd.read_csv(JPEG / "labels.csv", dtype=str)
    return labels[labels["file"].isin(names)]


def altered(folder: Path, labels: pd.DataFrame, change) -> Path:
    """Copies of images as another place might have them, with a site and an age that nobody asked about."""
    folder.mkdir()
    for name in labels["file"]:
        change(Image.open(JPEG / "images" / name).convert("L")).save(folder / f"{Path(name).stem}.png")
    table = labels.assign(
        file=[f"{Path(name).stem}.png" for name in labels["file"]],
        site=["east" if sum(map(ord, patient)) % 2 else "west" for patient in labels["patient"]],
        age=[str(sum(map(ord, patient)) % 90) for patient in labels["patient"]],
    )
    table.to_csv(folder / "labels.csv", index=False)
    return folder


def run(home: Home, place: object, **more):
    return evaluate("chest/mean-top1", str(place), home, device="cpu", **more)


def without_place(found) -> dict:
    document = plain(found)
    return {key: value for key, value in document.items() if key not in ("data", "guessed")}


def test_the_same_pictures_as_dicom_give_the_same_numbers(home, tmp_path):
    """An oracle: each DICOM file holds exactly the grey levels of its JPEG, in many encodings and both polarities."""
    folder = tmp_path / "jpeg"
    folder.mkdir()
    sources = pd.read_csv(DICOM / "sources.csv", dtype=str)
    for image_id, source in zip(sources["image_id"], sources["source_file"], strict=True):
        shutil.copyfile(JPEG / "images" / source, folder / f"{image_id}.jpeg")
    shutil.copyfile(DICOM / "labels.csv", folder / "labels.csv")
    found = [run(home, place, sets=["data.label=pneumonia"], maps=MAPS) for place in (DICOM, folder)]
    assert found[0].n == 240 and found[0].guessed[-1] == "group: patient_id"
    assert without_place(found[0]) == without_place(found[1])
    # and all of them are images that the bundle knows, in a file format that it has never met
    assert found[0].seen is not None and sum(found[0].seen.values()) == 240
    assert found[0].seen["development"] > 150


def test_home_again_is_home(home, held_out, tmp_path):
    """The bundle's own test images, copied: the same scores, no drop, and said to be seen. Home's probabilities are
    calibrated by maps that did not read the row, so calibrated scores are equal to a hundredth, not to the last bit."""
    found = run(home, altered(tmp_path / "copy", held_out, lambda image: image))
    assert found.seen == {"development": 0, "test": len(held_out)}
    for score in found.scores:
        assert score.here.value == pytest.approx(score.home.value, abs=0.01)
        if score.difference is not None:
            assert score.difference.value == pytest.approx(0, abs=0.01) and score.difference.p > 0.3
    assert [point["promise"] for point in found.points if point["rule"] == "youden"] == ["", ""]
    for point in found.points:
        assert plain(point["here"])["sensitivity"]["value"] == pytest.approx(point["home"]["sensitivity"]["value"])
    assert all(abs(one.difference.value) < 1e-9 for one in found.prevalence)
    assert all(one.all.statistic < 0.02 for one in found.score_shift)


def test_darkened_and_blurred_images_are_worth_less_and_it_is_said(home, held_out, tmp_path):
    def worse(image):
        return image.filter(ImageFilter.GaussianBlur(9)).point(lambda grey: grey * 0.25)

    found = run(home, altered(tmp_path / "dark", held_out, worse))
    main = next(score for score in found.scores if score.metric == "auroc")
    assert main.difference is not None and main.difference.value < -0.03 and main.difference.p < 0.05
    assert found.seen == {"development": 0, "test": 0}
    (calibration,) = found.calibration
    assert calibration.here.error.value > calibration.home.error.hi
    (shift,) = found.score_shift
    assert shift.positive.p < 0.01 and shift.positive.statistic > 0.2
    promises = {point["promise"] for point in found.points if point["rule"] in ("sensitivity=0.95", "specificity=0.95")}
    assert "missed" in promises
    assert {one.column for one in found.subgroups} == {"site", "age"}
    assert found.worst is not None and sum(one.n for one in found.subgroups if one.column == "site") == found.n


def test_a_rarer_disease_is_a_prevalence_shift_and_no_drop(home, held_out, tmp_path):
    sick = held_out[held_out["label"] == "PNEUMONIA"]
    fewer = pd.concat([held_out[held_out["label"] == "NORMAL"], sick[::6]])
    found = run(home, altered(tmp_path / "rare", fewer, lambda image: image))
    (prevalence,) = found.prevalence
    assert prevalence.difference.hi < 0 and prevalence.of == "PNEUMONIA"
    (shift,) = found.score_shift
    assert shift.all.p < 0.01 and shift.positive.p > 0.05 and shift.negative.p > 0.05
    assert next(score for score in found.scores if score.metric == "auroc").difference.p > 0.05


def test_rows_that_cannot_be_used_are_counted_and_no_name_gets_out(home, held_out, tmp_path):
    folder = altered(tmp_path / "mixed", held_out.iloc[:120], lambda image: image)
    names = sorted(path.name for path in folder.glob("*.png"))
    (folder / names[0]).write_bytes(b"no picture")
    (folder / names[1]).unlink()
    Image.fromarray(np.zeros((20, 20), np.uint8)).save(folder / "stray.png")
    table = pd.read_csv(folder / "labels.csv", dtype=str)
    table.loc[table["file"] == names[2], "label"] = "UNCLEAR"
    table["patient"] = [f"ZEBRA-{patient}" for patient in table["patient"]]
    table.to_csv(folder / "labels.csv", index=False)
    with pytest.raises(RequestError, match=r"'UNCLEAR' is no class of the bundle.*--map UNCLEAR=-"):
        run(home, folder)
    found = run(home, folder, maps=["UNCLEAR=-"])
    assert found.n == 117 and sum(found.left_out.values()) == 4
    assert found.left_out["label left out by --map"] == 1 and found.mapped == ["UNCLEAR -> left out"]
    assert log_evaluation(home, found)
    said = json.dumps(plain(found))
    assert "ZEBRA" not in said and not any(name in said for name in names)
    for path in home.root.rglob("*"):
        if path.is_file():
            assert b"ZEBRA" not in path.read_bytes(), path


def test_one_run_of_kind_evaluation(home, held_out, tmp_path):
    from mlflow import MlflowClient

    found = run(home, altered(tmp_path / "logged", held_out.iloc[::2], lambda image: image))
    assert log_evaluation(home, found)
    client = MlflowClient(home.mlflow_uri)
    experiment = client.get_experiment_by_name("chest")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id], "params.`evaluation.data` = 'logged'")
    assert len(runs) == 1 and runs[0].data.tags["harness.kind"] == "evaluation"
    here = next(score.here for score in found.scores if score.metric == "auroc")
    assert runs[0].data.metrics["external/auroc"] == pytest.approx(here.value)
    assert runs[0].data.metrics["external/auroc_lo"] == pytest.approx(here.lo)
    elsewhere = Home(tmp_path / "other home")
    assert not log_evaluation(elsewhere, found)  # a home without the study has no place for it
    assert not log_evaluation(home, dataclasses.replace(found, spec_hash="of another study of that name"))


def test_home_is_the_held_out_split(home, held_out):
    sample = home_sample(load_bundle(home.bundles("chest") / "mean-top1"))
    assert len(sample.y) == len(held_out)
    assert METRICS["auroc"].of(sample.y, sample.p, None)[0] > 0.8


@pytest.mark.parametrize(
    ("place", "more", "says"),
    [
        ("nowhere", {}, r"--data nowhere: there is no such folder"),
        ("nowhere.yaml", {}, r"no study file at nowhere\.yaml"),
        (DICOM, {}, r"pneumonia, .* are columns.*one of NORMAL, PNEUMONIA\. Type --set data\.label=COLUMN"),
        (DICOM, {"sets": ["data.label=pneumonia"]}, r"labels '0', '1' are no class.*--map 0=CLASS"),
        (DICOM, {"sets": ["data.label=pneumonai"], "maps": MAPS}, r"no column 'pneumonai'.*Did you mean pneumonia"),
        (DICOM, {"sets": ["model.backbone=resnet18"]}, r"a data block only"),
        (DICOM, {"sets": ["data.lable=pneumonia"]}, r"data\.lable.*label"),
        (JPEG, {"by": ["subtyp"]}, r"--by subtyp.*Did you mean subtype"),
        (JPEG, {"by": ["patient"]}, r"says who somebody is"),
        (JPEG, {"by": ["file"]}, r"too many for kinds"),
        (JPEG, {"labels": Path("nowhere.csv")}, r"nowhere\.csv"),
    ],
)
def test_a_wrong_request_says_what_to_type(home, place, more, says):
    with pytest.raises(RequestError, match=says):
        run(home, place, **more)


def test_a_study_file_says_where_the_data_are(home, held_out, tmp_path):
    folder = altered(tmp_path / "there", held_out.iloc[::3], lambda image: image)
    (tmp_path / "there.yaml").write_text(
        f"data: {{root: {folder}, label: label, group: patient}}\nsearch: {{trials: 1}}\n"
    )
    by_file = run(home, tmp_path / "there.yaml", by=["subtype"])
    assert by_file.guessed == [] and by_file.n == len(held_out.iloc[::3])
    assert {one.column for one in by_file.subgroups} == {"subtype"}
    by_folder = run(home, folder, by=["subtype"])
    assert without_place(by_folder) == without_place(by_file)
