"""Which epoch is kept, and when to stop."""

import math

import torch

from harness.config.spec import Train
from harness.train.loop import Keeper


def seen(train: Train, values: list[float]) -> Keeper:
    """A keeper that saw these scores; the network's one weight is the number of the epoch."""
    keeper, network = Keeper(train), torch.nn.Linear(1, 1, bias=False)
    for epoch, value in enumerate(values):
        with torch.no_grad():
            network.weight.fill_(epoch)
        keeper.see(epoch, {train.monitor: value}, network)
        if keeper.stopped:
            break
    return keeper


def kept(keeper: Keeper) -> float:
    network = torch.nn.Linear(1, 1, bias=False)
    keeper.restore(network)
    return network.weight.item()


def test_the_best_epoch_is_kept_and_of_equals_the_first() -> None:
    keeper = seen(Train(select="inner", monitor="log_loss"), [0.9, 0.5, 0.7, 0.5])
    assert keeper.epoch == 1 and kept(keeper) == 1.0
    keeper = seen(Train(select="inner", monitor="auroc"), [0.6, 0.9, 0.7, 0.95])
    assert keeper.epoch == 3 and kept(keeper) == 3.0


def test_a_score_that_is_not_defined_is_never_better() -> None:
    assert seen(Train(select="inner", monitor="auroc"), [math.nan, 0.4, math.nan, 0.3]).epoch == 1
    assert seen(Train(select="inner", monitor="auroc"), [math.nan, math.nan]).epoch == 0


def test_patience_counts_epochs_without_a_better_one() -> None:
    train = Train(select="inner", monitor="log_loss", patience=2)
    keeper = seen(train, [0.9, 0.5, 0.6, 0.7, 0.1])
    assert keeper.stopped and keeper.epoch == 1
    assert not seen(train, [0.9, 0.5, 0.6, 0.4, 0.5]).stopped


def test_the_last_epoch_is_kept_where_nothing_chooses() -> None:
    keeper = seen(Train(), [0.1, 0.9])
    network = torch.nn.Linear(1, 1, bias=False)
    before = network.weight.clone()
    keeper.restore(network)
    assert keeper.epoch is None and torch.equal(before, network.weight)


def test_a_keeper_goes_on_where_another_stopped() -> None:
    train = Train(select="scored_fold", patience=3)
    whole, first = seen(train, [0.9, 0.5, 0.6]), Keeper(train)
    first.load(whole.state())
    assert (first.epoch, first.value, first.stopped) == (1, 0.5, False) and kept(first) == 1.0
