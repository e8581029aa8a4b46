"""The loss of several labels against torch's own, label by label."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from harness.study.training import Train
from harness.train.loss import answer_weights, build_loss, mean_loss


def test_unknown_answers_take_no_part() -> None:
    logits = torch.randn(6, 3, dtype=torch.float64, requires_grad=True)
    y = torch.tensor([[1, 0, -1], [0, -1, 1], [1, 1, 0], [0, 0, 0], [-1, -1, -1], [1, 0, 1]])
    loss = mean_loss(build_loss(y.numpy(), 3, Train(), "cpu"), logits, y)
    known = y >= 0
    wanted = functional.binary_cross_entropy_with_logits(logits[known], y[known].double())
    torch.testing.assert_close(loss, wanted)
    loss.backward()
    assert logits.grad is not None and (logits.grad[~known] == 0).all() and (logits.grad[known] != 0).all()


def test_weights_are_torchs_pos_weight_up_to_scale() -> None:
    rng = np.random.default_rng(0)
    y = (rng.random((50, 2)) < [0.1, 0.5]).astype(np.int64)
    logits = torch.from_numpy(rng.normal(size=(50, 2)))
    mine = mean_loss(build_loss(y, 2, Train(class_weights=True), "cpu"), logits, torch.from_numpy(y))
    weights = answer_weights(y).double()
    each = functional.binary_cross_entropy_with_logits(
        logits, torch.from_numpy(y).double(), pos_weight=weights[:, 1] / weights[:, 0], reduction="none"
    )
    assert mine.item() == pytest.approx((each * weights[:, 0]).mean().item(), rel=1e-6)
    counts = np.stack([(y == 0).sum(0), (y == 1).sum(0)], axis=1)
    np.testing.assert_allclose((weights.numpy() * counts).sum(axis=1), 50, rtol=1e-6)


def test_smoothing_is_that_of_two_classes() -> None:
    logits, y = torch.randn(20, 1), torch.randint(0, 2, (20, 1))
    mine = mean_loss(build_loss(y.numpy(), 1, Train(label_smoothing=0.2), "cpu"), logits, y)
    two = torch.cat([torch.zeros_like(logits), logits], dim=1)
    torch.testing.assert_close(mine, functional.cross_entropy(two, y[:, 0], label_smoothing=0.2))


def test_no_known_answer_at_all_is_no_loss() -> None:
    y = torch.full((4, 2), -1)
    assert mean_loss(build_loss(y.numpy(), 2, Train(class_weights=True), "cpu"), torch.randn(4, 2), y).item() == 0.0
