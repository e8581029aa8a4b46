"""Learning rates, step by step, against torch's own schedulers."""

import math

import pytest
import torch
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, MultiStepLR, OneCycleLR, ReduceLROnPlateau

from harness.config.spec import Optim
from harness.train.optim import falls, learning_rate


def sgd(lr: float = 1.0) -> torch.optim.Optimizer:
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr)


def torchs(scheduler, steps: int) -> list[float]:
    """The rate that a torch scheduler sets for each step."""
    rates = []
    for _ in range(steps):
        rates.append(scheduler.optimizer.param_groups[0]["lr"])
        scheduler.optimizer.step()
        scheduler.step()
    return rates


def ours(optim: Optim, steps: int) -> list[float]:
    return [learning_rate(optim, step, steps) for step in range(steps)]


@pytest.mark.parametrize("lr_end", [0.0, 0.05])
def test_cosine_is_torchs(lr_end: float) -> None:
    wanted = torchs(CosineAnnealingLR(sgd(0.3), T_max=50, eta_min=0.3 * lr_end), 50)
    assert ours(Optim(lr=0.3, warmup=0.0, lr_end=lr_end), 50) == pytest.approx(wanted, rel=1e-9)


def test_cosine_after_the_warm_up() -> None:
    rates = ours(Optim(lr=1.0, warmup=0.1), 100)
    assert rates[:10] == pytest.approx([(s + 1) / 11 for s in range(10)])
    assert rates[10] == pytest.approx(1.0)
    assert rates[55] == pytest.approx(0.5)
    assert rates[99] == pytest.approx(0.5 * (1 + math.cos(math.pi * 89 / 90)))


def test_warm_up_is_torchs() -> None:
    # 1/5, 2/5, ... of the rate, full at step 4: LinearLR from 1/5 over 4 steps.
    wanted = torchs(LinearLR(sgd(0.2), start_factor=1 / 5, total_iters=4), 20)
    assert ours(Optim(lr=0.2, warmup=0.2, schedule="constant"), 20) == pytest.approx(wanted, rel=1e-9)


def test_step_is_torchs() -> None:
    wanted = torchs(MultiStepLR(sgd(0.4), milestones=[12, 17], gamma=0.1), 20)
    assert ours(Optim(lr=0.4, warmup=0.0, schedule="step", step_at=(0.6, 0.85)), 20) == pytest.approx(wanted, rel=1e-9)
    rates = ours(Optim(lr=1.0, warmup=0.25, schedule="step", step_at=(0.5, 0.75)), 8)
    assert rates == pytest.approx([1 / 3, 2 / 3, 1, 1, 0.1, 0.1, 0.01, 0.01])


@pytest.mark.parametrize("warmup", [0.0, 0.1, 0.3, 0.55])
@pytest.mark.parametrize("steps", [7, 40, 101])
def test_one_cycle_is_torchs(steps: int, warmup: float) -> None:
    scheduler = OneCycleLR(
        sgd(), max_lr=0.5, total_steps=steps, pct_start=warmup, anneal_strategy="cos", cycle_momentum=False
    )
    wanted = torchs(scheduler, steps - 1)  # a step further, torch refuses to go beyond total_steps
    optim = Optim(lr=0.5, warmup=warmup, schedule="onecycle")
    assert ours(optim, steps)[:-1] == pytest.approx(wanted, rel=1e-9)
    assert learning_rate(optim, steps - 1, steps) == pytest.approx(0.5 / 25 / 1e4)


@pytest.mark.parametrize("steps", [1, 2, 3, 10])
def test_one_cycle_of_few_steps_has_finite_rates(steps: int) -> None:
    # warmup * steps = 1 is a rise of a single step, where torch divides by zero.
    rates = ours(Optim(lr=1.0, warmup=1 / steps if steps > 1 else 0.3, schedule="onecycle"), steps)
    assert all(0 < rate <= 1 for rate in rates)
    assert steps == 1 or rates[0] == 1.0


LOSSES = [
    [1.0, 0.9, 0.95, 0.93, 0.92, 0.91, 0.9, 0.9, 0.8, 0.81, 0.82, 0.83, 0.84, 0.85, 0.86],
    [1.0, 0.99995, 0.9999, 0.99985, 0.9998, 0.5, 0.5, 0.5, 0.5, 0.5],  # better by less than the threshold is not better
    [2.0, math.nan, 1.0, math.nan, math.nan, math.nan, 0.9, math.inf, 1.0, 1.0, 1.0],
    torch.rand(60, generator=torch.Generator().manual_seed(0)).tolist(),
]


@pytest.mark.parametrize("patience", [1, 2, 3, 5])
@pytest.mark.parametrize("losses", LOSSES)
def test_plateau_is_torchs(losses: list[float], patience: int) -> None:
    optimizer = sgd(0.7)
    scheduler = ReduceLROnPlateau(optimizer, factor=0.5, patience=patience - 1, eps=0.0)
    optim = Optim(lr=0.7, warmup=0.0, schedule="plateau", step_factor=0.5, plateau_epochs=patience)
    for finished in range(len(losses) + 1):
        mine = learning_rate(optim, finished, 1000, losses[:finished])
        assert mine == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9)
        if finished < len(losses):
            scheduler.step(losses[finished])
    assert falls(losses, patience) > 0 or patience == 5


def test_plateau_after_the_warm_up() -> None:
    optim = Optim(lr=1.0, warmup=0.3, schedule="plateau", plateau_epochs=2, step_factor=0.1)
    assert learning_rate(optim, 0, 10, []) == pytest.approx(0.25)
    assert learning_rate(optim, 3, 10, [1.0]) == pytest.approx(1.0)
    assert learning_rate(optim, 5, 10, [1.0, 1.0, 1.0]) == pytest.approx(0.1)


def test_every_schedule_is_positive_and_below_the_peak() -> None:
    for schedule in ("constant", "step", "cosine", "onecycle", "plateau"):
        for steps in (1, 2, 5, 50):
            rates = ours(Optim(lr=0.1, warmup=0.2, schedule=schedule), steps)
            assert all(0 < rate <= 0.1 + 1e-12 for rate in rates), (schedule, steps, rates)
