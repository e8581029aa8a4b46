"""Memory that does not suffice, for real: the allocator's own refusals, and a process of limited memory."""

import json
import subprocess
import sys
from pathlib import Path

import limited_training
import pytest
import torch

from harness.train import loop
from harness.train.pieces import pieces
from harness.train.step import OutOfMemory


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


def test_pieces_hold_every_row_once_and_never_a_single_one():
    for rows in range(2, 40):
        for parts in (1, 2, 4, 8, 64):
            found = pieces(rows, parts)
            assert [row for piece in found for row in range(rows)[piece]] == list(range(rows))
            assert min(len(range(rows)[piece]) for piece in found) >= 2
    assert pieces(1, 4) == [slice(0, 1)]
