"""The loss by row against torch's and torchvision's own, hand-computed numbers, and the laws of adding up."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional
from torchvision.ops import sigmoid_focal_loss

from harness.config.spec import Train
from harness.errors import RequestError
from harness.train.loss import (
    Loss,
    answer_weights,
    build_loss,
    check_loss,
    class_weights,
    mean,
    mean_loss,
    mixed,
    yes_weights,
)

ONE = Train()
POSITIVE = Train(pos_weights=True)
SETTINGS = [
    ONE,
    Train(class_weights=True),
    Train(label_smoothing=0.1),
    Train(class_weights=True, label_smoothing=0.2),
    Train(focal=2.0),
    Train(focal=0.5, class_weights=True, label_smoothing=0.1),
]


def classes(rows: int = 30) -> tuple[Tensor, Tensor]:
    draws = torch.Generator().manual_seed(3)
    y = torch.multinomial(torch.tensor([0.5, 0.3, 0.15, 0.05]), rows, replacement=True, generator=draws)
    return 3 * torch.randn(rows, 4, generator=draws), y


def labels(rows: int = 30) -> tuple[Tensor, Tensor]:
    draws = torch.Generator().manual_seed(4)
    y = (torch.rand(rows, 4, generator=draws) < torch.tensor([0.1, 0.3, 0.5, 0.9])).long()
    return 3 * torch.randn(rows, 4, generator=draws), y.masked_fill(torch.rand(rows, 4, generator=draws) < 0.2, -1)


def gradient(loss: Tensor, logits: Tensor) -> Tensor:
    return torch.autograd.grad(loss, logits, retain_graph=True)[0]


def same(mine: Tensor, wanted: Tensor, logits: Tensor) -> None:
    """Values and gradients agree."""
    torch.testing.assert_close(mine, wanted)
    torch.testing.assert_close(gradient(mine, logits), gradient(wanted, logits))


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("weighted", [False, True])
def test_classes_are_torchs_cross_entropy(weighted: bool, smoothing: float) -> None:
    logits, y = classes()
    logits.requires_grad_(True)
    loss = build_loss(y.numpy(), 4, Train(class_weights=weighted, label_smoothing=smoothing), "cpu")
    weight = class_weights(y.numpy(), 4) if weighted else None
    same(
        mean_loss(loss, logits, y),
        functional.cross_entropy(logits, y, weight=weight, label_smoothing=smoothing),
        logits,
    )


def test_the_general_formula_at_gamma_0_is_cross_entropy_too() -> None:
    # gamma 0 takes torch's kernel; the focal formula must meet it as gamma goes to 0.
    logits, y = classes()
    weight = torch.tensor([0.5, 1.0, 2.0, 4.0])
    for smoothing in (0.0, 0.3):
        near = Loss(weight, weight, smoothing, 1e-9)(logits, y)
        exact = Loss(weight, weight, smoothing, 0.0)(logits, y)
        torch.testing.assert_close(near, exact)


def test_focal_of_classes_by_hand() -> None:
    # p = (1/2, 1/4, 1/4): the loss of class 1 is (1 - 1/4)^2 * log 4, that of class 0 is (1/2)^2 * log 2
    logits = torch.tensor([[math.log(2.0), 0.0, 0.0]])
    loss = build_loss(np.array([0, 1, 2]), 3, Train(focal=2.0), "cpu")
    assert mean_loss(loss, logits, torch.tensor([1])).item() == pytest.approx(0.75**2 * math.log(4))
    assert mean_loss(loss, logits, torch.tensor([0])).item() == pytest.approx(0.25 * math.log(2))
    # smoothed by 0.3: targets 0.1, 0.8, 0.1
    smoothed = build_loss(np.array([0, 1, 2]), 3, Train(focal=2.0, label_smoothing=0.3), "cpu")
    wanted = 0.1 * 0.25 * math.log(2) + 0.8 * 0.75**2 * math.log(4) + 0.1 * 0.75**2 * math.log(4)
    assert mean_loss(smoothed, logits, torch.tensor([1])).item() == pytest.approx(wanted)


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0])
def test_focal_of_labels_is_torchvisions(gamma: float) -> None:
    logits, y = labels()
    y = y.clamp(min=0)
    logits.requires_grad_(True)
    mine = mean_loss(build_loss(y.numpy(), 4, Train(focal=gamma), "cpu"), logits, y)
    same(mine, sigmoid_focal_loss(logits, y.float(), alpha=-1, gamma=gamma, reduction="mean"), logits)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_a_label_is_a_task_of_two_classes(smoothing: float, gamma: float) -> None:
    logits = torch.randn(25, 1, generator=torch.Generator().manual_seed(0), requires_grad=True)
    y = (torch.arange(25) % 4 == 0).long()
    train = Train(label_smoothing=smoothing, focal=gamma, class_weights=True)
    mine = mean_loss(build_loss(y[:, None].numpy(), 1, train, "cpu"), logits, y[:, None])
    two = torch.cat([torch.zeros_like(logits), logits], dim=1)
    same(mine, mean_loss(build_loss(y.numpy(), 2, train, "cpu"), two, y), logits)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_weights_of_yes_are_torchs_pos_weight(smoothing: float) -> None:
    logits, y = labels()
    y = y.clamp(min=0)
    logits.requires_grad_(True)
    loss = build_loss(y.numpy(), 4, Train(pos_weights=True, label_smoothing=smoothing), "cpu")
    ratio = (y == 0).sum(dim=0) / (y == 1).sum(dim=0)
    soft = y * (1 - smoothing) + smoothing / 2
    wanted = functional.binary_cross_entropy_with_logits(logits, soft, pos_weight=ratio)
    assert ratio.max() > 5 and ratio.min() < 0.5
    same(mean_loss(loss, logits, y), wanted, logits)


def test_weights_of_answers_balance_each_label() -> None:
    y = labels(200)[1].numpy()
    counts = np.stack([(y == 0).sum(0), (y == 1).sum(0)], axis=1)
    share = answer_weights(y).numpy() * counts
    np.testing.assert_allclose(share[:, 0], share[:, 1], rtol=1e-6)
    np.testing.assert_allclose(share.sum(axis=1), counts.sum(axis=1), rtol=1e-6)
    np.testing.assert_allclose(yes_weights(y).numpy()[:, 1] * counts[:, 1], counts[:, 0], rtol=1e-6)


@pytest.mark.parametrize("train", [POSITIVE, Train(class_weights=True)])
def test_a_label_with_one_answer_only_weighs_as_without_weights(train: Train) -> None:
    y = torch.tensor([[1, 0, -1], [1, 0, -1], [1, 0, -1]])
    logits = torch.randn(3, 3)
    assert mean_loss(build_loss(y.numpy(), 3, train, "cpu"), logits, y) == mean_loss(
        build_loss(y.numpy(), 3, ONE, "cpu"), logits, y
    )


@pytest.mark.parametrize("train", [ONE, Train(class_weights=True), Train(focal=1.5), POSITIVE])
def test_unknown_answers_take_no_part(train: Train) -> None:
    logits, y = labels()
    logits.requires_grad_(True)
    loss = build_loss(y.numpy(), 4, train, "cpu")
    slope = gradient(mean_loss(loss, logits, y), logits)
    assert (slope[y < 0] == 0).all() and (slope[y >= 0] != 0).all()
    if train == ONE:
        known = y >= 0
        wanted = functional.binary_cross_entropy_with_logits(logits[known], y[known].float())
        torch.testing.assert_close(mean_loss(loss, logits, y), wanted)
    nothing = torch.full_like(y, -1)
    assert mean_loss(loss, logits, nothing) == 0 and (gradient(mean_loss(loss, logits, nothing), logits) == 0).all()


@pytest.mark.parametrize(
    ("task", "train"), [*((task, train) for task in (classes, labels) for train in SETTINGS), (labels, POSITIVE)]
)
@pytest.mark.parametrize("sizes", [(30,), (10, 10, 10), (1, 28, 1), (7, 23)])
def test_micro_batches_add_up_to_the_whole_batch(task, train: Train, sizes: tuple[int, ...]) -> None:
    logits, y = task()
    logits = logits.double().requires_grad_(True)
    loss = build_loss(y.numpy(), 4, train, "cpu")
    whole = gradient(mean_loss(loss, logits, y), logits)
    total = loss.weights(y).double().sum()
    summed = torch.zeros_like(whole)
    for part_logits, part_y in zip(logits.split(sizes), y.split(sizes), strict=True):
        values, weights = loss(part_logits, part_y)
        torch.testing.assert_close(weights, loss.weights(part_y).double())
        summed += gradient(values.sum() / total, logits)
    torch.testing.assert_close(summed, whole)


@pytest.mark.parametrize("task", [classes, labels])
@pytest.mark.parametrize("train", SETTINGS)
def test_mixed_targets(task, train: Train) -> None:
    logits, y = task()
    loss = build_loss(y.numpy(), 4, train, "cpu")
    partner = y.roll(1, 0)
    own, other = loss(logits, y), loss(logits, partner)
    torch.testing.assert_close(mixed(loss, logits, y, partner, torch.ones(30)), own)
    torch.testing.assert_close(mixed(loss, logits, y, partner, torch.zeros(30)), other)
    share = torch.rand(30)
    values, weights = mixed(loss, logits, y, partner, share)
    assert values[3].item() == pytest.approx((share[3] * own[0][3] + (1 - share[3]) * other[0][3]).item(), rel=1e-5)
    assert weights[3].item() == pytest.approx((share[3] * own[1][3] + (1 - share[3]) * other[1][3]).item(), rel=1e-5)


def test_mixed_targets_are_cross_entropy_with_soft_ones() -> None:
    logits, y = classes()
    share = torch.rand(30)
    soft = share[:, None] * functional.one_hot(y, 4) + (1 - share[:, None]) * functional.one_hot(y.roll(1), 4)
    mine = mean(*mixed(build_loss(y.numpy(), 4, ONE, "cpu"), logits, y, y.roll(1), share))
    torch.testing.assert_close(mine, functional.cross_entropy(logits, soft))


def test_a_class_without_training_rows_has_no_weight_and_no_infinity() -> None:
    loss = build_loss(np.array([0, 0, 1]), 3, Train(class_weights=True, label_smoothing=0.1), "cpu")
    logits = torch.randn(4, 3, requires_grad=True)
    values, weights = loss(logits, torch.tensor([0, 1, 2, 2]))
    assert weights.tolist() == [0.75, 1.5, 0.0, 0.0]
    assert torch.isfinite(values).all()
    alone = mean_loss(
        build_loss(np.array([0, 0, 1]), 3, Train(class_weights=True), "cpu"), logits, torch.tensor([2] * 4)
    )
    assert alone == 0 and torch.isfinite(gradient(alone, logits)).all()


@pytest.mark.parametrize("train", [*SETTINGS, Train(focal=0.1), Train(focal=5.0, label_smoothing=0.3)])
def test_certain_rows_have_finite_gradients(train: Train) -> None:
    # softmax and sigmoid round to exactly 0 and 1 here; the slope of (1 - p) ** 0.1 at p = 1 is infinite
    logits = torch.tensor([[200.0, -200.0, 0.0], [-200.0, 200.0, 0.0], [20.0, 0.0, 0.0]], requires_grad=True)
    for y in (torch.tensor([0, 0, 0]), torch.tensor([[1, 0, 1], [1, 0, 0], [1, -1, -1]])):
        loss = mean_loss(build_loss(y.numpy(), 3, train, "cpu"), logits, y)
        assert torch.isfinite(loss) and torch.isfinite(gradient(loss, logits)).all()


def test_switches_that_do_not_fit_are_refused() -> None:
    with pytest.raises(RequestError, match=r"train.pos_weights=true .* train.class_weights=true"):
        build_loss(np.array([0, 1]), 2, Train(pos_weights=True), "cpu")
    with pytest.raises(RequestError, match="Set one of them to false"):
        check_loss(Train(pos_weights=True, class_weights=True), multilabel=True)
    for key in ("class_weights", "pos_weights"):
        with pytest.raises(RequestError, match=rf"--set train.{key}=false or --set train.sampling=shuffle"):
            check_loss(Train.model_validate({key: True, "sampling": "balanced"}), multilabel=True)
    check_loss(Train(pos_weights=True), multilabel=True)
    check_loss(Train(class_weights=True), multilabel=False)
