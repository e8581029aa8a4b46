"""The optimiser's step and the schedule against hand-computed numbers."""

import math

import pytest
import torch
from torch import nn

from harness.study.training import Optim
from harness.train.optim import build_optimizer
from harness.train.schedule import learning_rate


def one_step(optim: Optim, gradient: float) -> tuple[float, float]:
    layer = nn.Linear(1, 1)
    nn.init.constant_(layer.weight, 2.0)
    nn.init.constant_(layer.bias, 1.0)
    optimizer = build_optimizer(layer, optim)
    layer.weight.grad = torch.full_like(layer.weight, gradient)
    layer.bias.grad = torch.full_like(layer.bias, gradient)
    optimizer.step()
    return layer.weight.item(), layer.bias.item()


def test_adamw_decays_weights_but_not_biases():
    # first step: m/(1-b1) = g, v/(1-b2) = g^2, so the update is lr * sign(g); decay is lr * wd * w before it
    weight, bias = one_step(Optim(lr=0.1, weight_decay=0.5), gradient=4.0)
    assert weight == pytest.approx(2.0 - 0.1 * 0.5 * 2.0 - 0.1, abs=1e-5)
    assert bias == pytest.approx(1.0 - 0.1, abs=1e-5)


def test_sgd_with_nesterov_momentum():
    # first step: buffer = g + wd * w, update = lr * (g' + momentum * buffer)
    weight, bias = one_step(Optim(name="sgd", lr=0.1, weight_decay=0.5, momentum=0.9), gradient=4.0)
    assert weight == pytest.approx(2.0 - 0.1 * (5.0 + 0.9 * 5.0), abs=1e-5)
    assert bias == pytest.approx(1.0 - 0.1 * (4.0 + 0.9 * 4.0), abs=1e-5)


def test_schedules():
    cosine = Optim(lr=1.0, warmup=0.1)
    rates = [learning_rate(cosine, step, 100) for step in range(100)]
    assert rates[:10] == pytest.approx([(s + 1) / 11 for s in range(10)])
    assert rates[10] == pytest.approx(1.0)
    assert rates[55] == pytest.approx(0.5)
    assert rates[99] == pytest.approx(0.5 * (1 + math.cos(math.pi * 89 / 90)))
    step = Optim(lr=1.0, warmup=0.0, schedule="step", step_at=(0.5, 0.75), step_factor=0.1)
    assert [round(learning_rate(step, s, 8), 6) for s in range(8)] == [1, 1, 1, 1, 0.1, 0.1, 0.01, 0.01]
    assert learning_rate(Optim(lr=0.3, warmup=0.0, schedule="constant"), 7, 8) == 0.3
