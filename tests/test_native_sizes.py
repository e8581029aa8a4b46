"""Images of their own sizes, the whole way: store, study, ensemble, bundle that predicts from files."""

from pathlib import Path

import numpy as np
import onnxruntime
import pyarrow.parquet as pq
import pytest
from every_method import build_every
from numbered_rows import names_by_row
from PIL import Image

from harness.config.data import Data, Decode
from harness.config.load import check_study
from harness.data.prepare import prepare
from harness.ensemble.bundle import export_network, load_bundle, outputs_of_bundle
from harness.errors import RequestError
from harness.images.decode import decode
from harness.images.pixels import Ragged, gather
from harness.predict.predict import Asked, predict
from harness.search.run import run_study
from harness.store.home import Home
from harness.store.predictions import from_column
from harness.store.records import read_trials, require_study


def quiet(*_: object) -> None:
    return None


def draw(folder: Path, n: int = 60) -> None:
    """Noise of many sizes; in every second image a bright square of always the same size in pixels."""
    rng = np.random.default_rng(0)
    lines = ["file,label"]
    for number in range(n):
        height, width = rng.integers(24, 90, 2)
        pixels = rng.integers(40, 160, (height, width), dtype=np.uint8)
        if number % 2:
            top, left = rng.integers(0, height - 12), rng.integers(0, width - 12)
            pixels[top : top + 12, left : left + 12] = 250
        Image.fromarray(pixels).save(folder / f"{number}.png")
        lines.append(f"{number}.png,{'sick' if number % 2 else 'well'}")
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")


TREE = {
    "name": "sizes",
    "data": {"group": "none", "classes": ["well", "sick"], "folds": 2, "decode": {"size": "native", "longest": 80}},
    "model": {"backbone": "test_resnet"},
    "optim": {"lr": {"choice": [5e-3]}},
    "train": {"epochs": 2, "batch_size": 8, "precision": "fp32"},
    "augment": {"rotate": 10.0},
    "search": {"trials": 1, "sampler": "grid", "pruner": "none"},
}


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    draw(folder)
    return folder


def test_the_store_keeps_sizes_up_to_the_longest(images: Path, tmp_path: Path) -> None:
    how = Decode(size="native", longest=80)
    data = Data(root=str(images), group="none", decode=how)
    pixels = prepare(data, 0, Home(tmp_path), quiet).pixels
    assert isinstance(pixels, Ragged) and isinstance(pixels.flat, np.memmap)
    for row in (0, 1, 30, 59):
        with Image.open(images / f"{row}.png") as image:
            width, height = image.size
        longer = max(width, height)
        wanted = (height, width) if longer <= 80 else (round(height * 80 / longer), round(width * 80 / longer))
        assert pixels[row].shape == (*wanted, 1)
        np.testing.assert_array_equal(pixels[row], decode(images / f"{row}.png", how))


def test_a_study_and_its_ensembles(images: Path, tmp_path: Path) -> None:
    home = Home(tmp_path)
    run_study(check_study({**TREE, "data": {**TREE["data"], "root": str(images)}}, "test"), home, 1, "cpu", quiet)
    (trial,) = read_trials(home, "sizes")
    assert trial.state == "complete"
    for method in ("mean", "boosting"):
        built = build_every(home, [require_study(home, "sizes")], [method], 5, 0, "cpu")[0]
        stored = pq.read_table(built.bundle / "predictions.parquet")
        test = np.flatnonzero(np.array(stored["split"].to_pylist()) == "test")
        said = from_column(stored["probabilities"])
        assert said is not None
        files = [images / names_by_row(home, "sizes")[stored["id"][int(row)].as_py()] for row in test]
        np.testing.assert_allclose(
            predict(built.bundle, files, "cpu", asked=Asked(raw=True)).probabilities, said[test], atol=1e-5
        )
        one = predict(built.bundle, files[:1], "cpu", asked=Asked(raw=True)).probabilities
        np.testing.assert_allclose(one, said[test[:1]], atol=1e-5)
    export_network(built.bundle, tmp_path / "n.onnx", "trial-0000", 1)
    session = onnxruntime.InferenceSession(str(tmp_path / "n.onnx"), providers=["CPUExecutionProvider"])
    bundle = load_bundle(built.bundle)
    for file in files[:3]:  # each of its own size, padded in the file itself
        image = decode(file, bundle.decodes[0])
        expected = outputs_of_bundle(bundle, [gather([image], 1)]).logits[0, 1]
        np.testing.assert_allclose(session.run(["logits"], {"pixels": image[None]})[0], expected, atol=1e-4)


def test_a_network_of_one_size_is_refused_before_any_training(images: Path, tmp_path: Path) -> None:
    tree = {**TREE, "data": {**TREE["data"], "root": str(images)}, "model": {"backbone": "deit_tiny_patch16_224"}}
    with pytest.raises(RequestError, match=r"deit_tiny_patch16_224 takes images of one size only.*resnet10t"):
        run_study(check_study(tree, "test"), Home(tmp_path), 1, "cpu", quiet)
    assert not list((tmp_path / "artifacts").glob("**/weights.safetensors"))
