"""Several labels an image, the whole way: a study with gaps in its labels, every ensemble, a bundle that predicts."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from every_method import build_every
from numbered_rows import names_by_row
from PIL import Image

from harness.config.load import check_study
from harness.ensemble.bundle import load_bundle
from harness.predict.predict import Asked, predict
from harness.search.run import run_study
from harness.store.home import Home
from harness.store.predictions import from_column, to_column
from harness.store.records import read_trials, require_study

METHODS = ("mean", "bagging", "boosting", "stacking", "soup", "soup-greedy", "bagging-retrained")


def quiet(*_: object) -> None:
    return None


def draw(folder: Path, patients: int = 60) -> None:
    """Noise with a bright square top left (fluid), a dark one bottom right (air), both or neither."""
    rng = np.random.default_rng(0)
    lines = ["file,patient,fluid,air"]
    for patient in range(patients):
        for number in range(2):
            fluid, air = rng.integers(0, 2, 2)
            pixels = rng.integers(60, 180, (32, 32), dtype=np.uint8)
            if fluid:
                pixels[3:13, 3:13] = 250
            if air:
                pixels[18:29, 18:29] = 5
            name = f"{patient}_{number}.png"
            Image.fromarray(pixels).save(folder / name)
            unknown = patient % 6 == 0 and number == 0
            lines.append(f"{name},p{patient},{fluid},{'' if unknown else air}")
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[Home, Path]:
    images = tmp_path_factory.mktemp("images")
    draw(images)
    tree = {
        "name": "several",
        "data": {
            "root": str(images),
            "label": ["fluid", "air"],
            "missing": "ignore",
            "group": "patient",
            "folds": 3,
            "decode": {"size": 32},
        },
        "model": {"backbone": "test_resnet"},
        "optim": {"lr": {"choice": [3e-3, 1e-2]}},
        "train": {"epochs": 3, "batch_size": 16, "precision": "fp32", "class_weights": True},
        "search": {"trials": 2, "sampler": "grid", "pruner": "none"},
    }
    home = Home(tmp_path_factory.mktemp("home"))
    run_study(check_study(tree, "test"), home, 1, "cpu", quiet)
    return home, images


def test_the_study_learns_every_label(ran: tuple[Home, Path]) -> None:
    trials = read_trials(ran[0], "several")
    assert [trial.state for trial in trials] == ["complete", "complete"]
    assert max(trial.oof["auroc"].value for trial in trials) > 0.8
    assert all(trial.oof["auroc"].lo <= trial.oof["auroc"].value <= trial.oof["auroc"].hi for trial in trials)


@pytest.mark.parametrize("method", METHODS)
def test_every_ensemble_is_built_and_predicts_again_what_it_said(ran: tuple[Home, Path], method: str) -> None:
    home, images = ran
    built = build_every(home, [require_study(home, "several")], [method], 5, 0, "cpu", resamples=3)[0]
    assert {row.kind for row in built.rows} == {"single", "mean", "ensemble"}
    learnt = [row for row in built.rows if row.name != "soup"]  # from random starts only the greedy one is sure to help
    assert all(0.5 < row.test["auroc"].value <= 1 for row in learnt)
    bundle = load_bundle(built.bundle)
    assert bundle.multilabel and bundle.classes == ("fluid", "air")
    stored = pq.read_table(built.bundle / "predictions.parquet")
    test = np.flatnonzero(np.array(stored["split"].to_pylist()) == "test")
    files = [images / names_by_row(home, "several")[stored["id"][int(row)].as_py()] for row in test]
    said = from_column(stored["probabilities"])
    assert said is not None
    again = predict(built.bundle, files, "cpu", asked=Asked(raw=True))
    np.testing.assert_allclose(again.probabilities, said[test], atol=1e-5)
    assert np.abs(again.probabilities.sum(axis=1) - 1).max() > 0.05  # two questions, not one


def test_columns_come_back_as_they_went() -> None:
    for values in (np.arange(4), np.arange(6, dtype=np.float32).reshape(3, 2), np.zeros((0, 3))):
        back = from_column(pa.chunked_array([to_column(values)]))
        assert back is not None and back.dtype == values.dtype
        np.testing.assert_array_equal(back, values if len(values) else np.zeros((0, 0)))
