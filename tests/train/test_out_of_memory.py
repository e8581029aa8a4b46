"""Memory that does not suffice, for real: the allocator's own refusals, and a process of limited memory."""

import json
import subprocess
import sys
from pathlib import Path

import limited_training
import numpy as np
import pytest
import torch

from harness.config.spec import Model
from harness.models.network import Network, build_network
from harness.predict.explain import grad_cam
from harness.train import loop
from harness.train.checkpoint import FoldMeta, digest
from harness.train.inference import infer
from harness.train.optim import Average
from harness.train.step import OutOfMemory, pieces


class Hungry(torch.nn.Module):
    """A network that needs a tebibyte for each row above `room`."""

    def __init__(self, network: torch.nn.Module, room: int) -> None:
        super().__init__()
        self.network, self.room = network, room

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        torch.empty(max(0, len(x) - self.room) << 38)
        return self.network(x)


def train_hungry(monkeypatch: pytest.MonkeyPatch, folder: Path, room: int):
    monkeypatch.setattr(loop, "forward_of", lambda network, precision: Hungry(network, room))
    return limited_training.train(folder, 32, 32)


def test_a_batch_that_does_not_fit_is_computed_in_pieces(tmp_path, monkeypatch):
    whole = limited_training.train(tmp_path / "whole", 32, 32)
    tight = train_hungry(monkeypatch, tmp_path / "tight", 10)
    assert whole.parts == 1 and tight.parts == 4
    # the same rows and the same gradients but for batch norm's statistics, which are those of a piece
    assert tight.train_loss == pytest.approx(whole.train_loss, rel=0.3)


def test_where_two_images_do_not_fit_that_is_said(tmp_path, monkeypatch):
    with pytest.raises(OutOfMemory, match=r"out of memory with 2 images of 32 pixels and resnet10t: .*allocate memory"):
        train_hungry(monkeypatch, tmp_path, 1)


@pytest.mark.slow
def test_a_process_of_limited_memory_goes_on_in_pieces(tmp_path):
    command = [sys.executable, limited_training.__file__, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stderr[-2000:]
    said = json.loads(done.stdout.splitlines()[-1])
    whole = limited_training.train(tmp_path / "whole", limited_training.BATCH)
    assert said["parts"] > 1 and said["loss"] == pytest.approx(whole.train_loss, rel=0.3)


def needs_a_tebibyte_a_row_above(room: int):
    def hook(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        torch.empty(max(0, len(inputs[0]) - room) << 38)

    return hook


def small_network() -> tuple[Network, FoldMeta]:
    network = build_network(Model(backbone="test_resnet"), 2, 1, 32, seed=0)
    decode = {"size": 32, "channels": 1}
    model = Model(backbone="test_resnet").model_dump(mode="json")
    return network, FoldMeta("s", 0, 0, model, decode, ("a", "b"), (0.5,), (0.25,), digest(network), "d", "f")


def test_inference_goes_on_with_smaller_batches():
    network, meta = small_network()
    pixels = np.random.default_rng(0).integers(0, 256, (70, 32, 32, 1), dtype=np.uint8)
    whole = infer(network, meta, pixels)
    progress = []
    network.backbone.register_forward_pre_hook(needs_a_tebibyte_a_row_above(5))
    tight = infer(network, meta, pixels, progress=lambda *step: progress.append(step))
    for a, b in zip(tight, whole, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    assert progress[-1] == ("inference", 70, 70)


def test_inference_says_so_where_not_even_one_image_fits():
    network, meta = small_network()
    network.backbone.register_forward_pre_hook(needs_a_tebibyte_a_row_above(0))
    with pytest.raises(RuntimeError, match="allocate memory"):
        infer(network, meta, np.zeros((3, 32, 32, 1), np.uint8))


def test_other_errors_of_inference_are_not_tried_again():
    tried = []

    def fail(module, inputs):
        tried.append(len(inputs[0]))
        raise RuntimeError("shapes cannot be multiplied")

    network, meta = small_network()
    network.backbone.register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="multiplied"):
        infer(network, meta, np.zeros((70, 32, 32, 1), np.uint8))
    assert tried == [64]


def test_the_statistics_of_averaged_weights_need_no_more_memory_than_training(tmp_path, monkeypatch):
    """A training that went on in pieces does not die at its last step."""
    finish = Average.finish

    def hungry(self, batches):
        self.network().backbone.register_forward_pre_hook(needs_a_tebibyte_a_row_above(10))
        return finish(self, batches)

    monkeypatch.setattr(Average, "finish", hungry)
    report = limited_training.train(tmp_path, 32, 32, swa=0.5)
    assert np.isfinite(report.val_loss)


def test_heat_maps_go_on_with_smaller_batches():
    network, meta = small_network()
    pixels = np.random.default_rng(0).integers(0, 256, (20, 32, 32, 1), dtype=np.uint8)
    whole = grad_cam(network, meta, pixels, np.ones(20, np.int64))
    network.backbone.register_forward_pre_hook(needs_a_tebibyte_a_row_above(5))
    tight = grad_cam(network, meta, pixels, np.ones(20, np.int64))
    np.testing.assert_allclose(np.stack(tight), np.stack(whole), rtol=1e-3, atol=1e-4)


def test_pieces_hold_every_row_once_and_never_a_single_one():
    for rows in range(2, 40):
        for parts in (1, 2, 4, 8, 64):
            found = pieces(rows, parts)
            assert [row for piece in found for row in range(rows)[piece]] == list(range(rows))
            assert min(len(range(rows)[piece]) for piece in found) >= 2
    assert pieces(1, 4) == [slice(0, 1)]
