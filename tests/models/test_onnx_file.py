"""What onnxruntime makes of an exported network, against the real way from pixels to numbers."""

import json
import sys

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from harness.config.spec import Model
from harness.errors import HarnessError, RequestError
from harness.images.pixels import gather
from harness.models import onnx as models_onnx
from harness.models.network import Network, build_network
from harness.models.onnx import write_onnx
from harness.train.batches import STRIDE
from harness.train.checkpoint import FoldMeta, digest
from harness.train.inference import infer

CASES = [
    ("test_resnet", "native", "linear", 32, 1),
    ("test_resnet", "gem", "mlp", 32, 3),
    ("test_resnet", "avgmax", "linear", 32, 1),
    ("test_vit", "native", "linear", 32, 1),
    ("test_vit", "gem", "linear", 32, 1),
    ("convnext_atto", "native", "linear", 64, 3),
    ("torchvision/mobilenet_v3_small", "native", "linear", 64, 1),
]
MEAN, STD = (0.3, 0.45, 0.6), (0.2, 0.25, 0.3)


def made(backbone="test_resnet", pooling="native", head="linear", side=32, channels=1):
    model = Model(backbone=backbone, pooling=pooling, head=head, dropout=0.3)
    network = build_network(model, 3, channels, side, seed=1)
    torch.manual_seed(0)
    with torch.no_grad():  # statistics as training leaves them, or batch norm would do nothing
        network.train()(torch.randn(16, channels, side, side))
    meta = FoldMeta(
        "s", 0, 0, model.model_dump(mode="json"), {"size": side, "channels": channels}, ("a", "b", "c"),
        MEAN[:channels], STD[:channels], digest(network), "d", "f",
    )  # fmt: skip
    return network.eval(), meta


def run(path, pixels):
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(["logits", "embedding"], {"pixels": pixels})


def write(path, network, meta, **options):
    decode = meta.decode
    return write_onnx(path, network, meta.mean, meta.std, decode["channels"], decode["size"], {"a": 1}, **options)


@pytest.mark.parametrize(("backbone", "pooling", "head", "side", "channels"), CASES)
def test_the_file_gives_the_numbers_of_inference(tmp_path, backbone, pooling, head, side, channels):
    network, meta = made(backbone, pooling, head, side, channels)
    apart = write(tmp_path / "n.onnx", network, meta)
    assert apart <= 1e-4
    pixels = np.random.default_rng(3).integers(0, 256, (70, side, side, channels), dtype=np.uint8)
    expected = infer(network, meta, pixels)
    for count in (1, 70):
        for found, wanted in zip(run(tmp_path / "n.onnx", pixels[:count]), expected, strict=True):
            np.testing.assert_allclose(found, wanted[:count], atol=1e-4, rtol=1e-4)
    assert [path.name for path in tmp_path.iterdir()] == ["n.onnx"]


def test_images_of_their_own_sizes_are_padded_inside(tmp_path):
    network, meta = made(side=96)
    write(tmp_path / "n.onnx", network, meta, stride=STRIDE)
    rng = np.random.default_rng(4)
    images = [rng.integers(0, 256, (h, w, 1), dtype=np.uint8) for h, w in ((33, 70), (64, 96), (41, 31))]
    expected = infer(network, meta, gather(images, 1))
    for row, image in enumerate(images):
        for found, wanted in zip(run(tmp_path / "n.onnx", image[None]), expected, strict=True):
            np.testing.assert_allclose(found[0], wanted[row], atol=1e-4, rtol=1e-4)


def test_metadata_is_kept_and_no_place_of_this_machine(tmp_path):
    network, meta = made()
    facts = {"classes": ["normal", "blé"], "decode": {"size": 32, "window": None}}
    write_onnx(tmp_path / "n.onnx", network, meta.mean, meta.std, 1, 32, facts)
    model = onnx.load(tmp_path / "n.onnx")
    onnx.checker.check_model(model)
    assert {entry.key: json.loads(entry.value) for entry in model.metadata_props} == facts
    content = (tmp_path / "n.onnx").read_bytes()
    for place in ("site-packages", "harness/", 'File "', str(tmp_path)):
        assert place.encode() not in content
    (batch, *rest) = model.graph.input[0].type.tensor_type.shape.dim
    assert batch.dim_param and [dim.dim_value for dim in rest] == [32, 32, 1]


def test_a_file_that_computes_something_else_is_not_kept(tmp_path, monkeypatch):
    """The comparison is with another network than the one that was exported."""
    network, meta = made()
    other = models_onnx.WithPixels(network, (0.9,), (0.1,)).eval()
    compare = models_onnx._difference
    monkeypatch.setattr(models_onnx, "_difference", lambda path, whole, *rest: compare(path, other, *rest))
    (tmp_path / "n.onnx").write_text("an older file")
    with pytest.raises(HarnessError, match=r"computes other numbers.*not kept"):
        write(tmp_path / "n.onnx", network, meta)
    assert (tmp_path / "n.onnx").read_text() == "an older file"
    assert [path.name for path in tmp_path.iterdir()] == ["n.onnx"]


def test_without_the_extra_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(RequestError, match=r"onnxruntime.*harness\[onnx\]"):
        write(tmp_path / "n.onnx", *made())


def test_a_network_that_cannot_be_exported_is_refused_with_the_reason(tmp_path):
    class Moody(Network):
        def embed(self, x_BCHW):
            if x_BCHW.sum() > 0:  # depends on the numbers: no graph can be drawn of it
                return super().embed(x_BCHW)
            return super().embed(-x_BCHW)

    network, meta = made()
    network.__class__ = Moody
    with pytest.raises(RequestError, match="cannot be written as ONNX by this version of torch"):
        write(tmp_path / "n.onnx", network, meta)
    assert not list(tmp_path.iterdir())


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(RequestError, match=r"n\.onnx cannot be written"):
        write(tmp_path / "file" / "n.onnx", *made())
