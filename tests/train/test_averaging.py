"""Averaged weights against timm's and torch's own, hand-computed sequences and plain means."""

import copy
import io

import pytest
import torch
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, update_bn

from harness.config.spec import Model, Train
from harness.errors import RequestError
from harness.models.network import build_network
from harness.train.optim import Average, build_average, check_average, estimate_statistics, trained_norms


def small(dropout: float = 0.0) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.Flatten(),
        nn.Linear(64, 8),
        nn.BatchNorm1d(8),
    )


def batch(number: int, rows: int = 8) -> Tensor:
    return torch.randn(rows, 2, 6, 6, generator=torch.Generator().manual_seed(number)) * (1 + number % 3)


def train_step(network: nn.Module, number: int) -> None:
    """A step of plain gradient descent: it needs no state, so any copy of a network can go on from any step."""
    network.train()
    network.zero_grad()
    (network(batch(number)) * torch.linspace(-1, 1, 8)).square().mean().backward()
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.grad is not None:
                parameter -= 0.1 * parameter.grad


def assert_same(ours: nn.Module, theirs: nn.Module) -> None:
    wanted = theirs.state_dict()
    for name, tensor in ours.state_dict().items():
        assert torch.equal(tensor, wanted[name]), name


def average_of(network: nn.Module, **keys: float) -> Average:
    average = build_average(network, Train(**{"epochs": 10, **keys}))
    assert average is not None
    return average


def test_ema_by_hand() -> None:
    network = nn.Linear(1, 1, bias=False)
    nn.init.constant_(network.weight, 0.0)
    average = average_of(network, ema=0.2)
    seen = []
    for weight in (1.0, 2.0, 3.0):
        nn.init.constant_(network.weight, weight)
        average.after_step()
        seen.append(average.network().weight.item())
    # decays 1/10, 2/11, then 0.2 because 3/12 is above it
    first = 0.9
    second = first * 2 / 11 + 2.0 * 9 / 11
    assert seen == pytest.approx([first, second, 0.2 * second + 0.8 * 3.0])


@pytest.mark.parametrize("decay", [0.05, 0.9])
def test_ema_is_timms_at_the_same_decay(decay: float) -> None:
    network = small()
    theirs, average = ModelEmaV3(network, decay=decay), average_of(network, ema=decay)
    for number in range(20):
        train_step(network, number)
        theirs.decay = min(decay, (1 + number) / (10 + number))
        theirs.update(network)
        average.after_step()
        average.after_epoch(number)  # an EMA does not care for epochs
    assert_same(average.network(), theirs.module)
    assert average.network()[1].num_batches_tracked == 20
    assert not torch.equal(average.network()[0].weight, network[0].weight)


def test_ema_is_torchs_averaged_model() -> None:
    network = small()
    theirs = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(0.05))
    theirs.update_parameters(network)  # its first update copies
    average = average_of(network, ema=0.05)
    for number in range(10):
        train_step(network, number)
        theirs.update_parameters(network)
        average.after_step()
    for ours, wanted in zip(average.network().parameters(), theirs.module.parameters(), strict=True):
        torch.testing.assert_close(ours, wanted)


def test_swa_is_the_mean_of_the_last_epochs() -> None:
    network = small()
    average = average_of(network, swa=0.3)
    kept = []
    for epoch in range(10):
        for number in range(3):
            train_step(network, 3 * epoch + number)
            average.after_step()
        average.after_epoch(epoch)
        if epoch < 7:
            assert average.network() is network
            average.finish(iter([None]))  # reads nothing: None is no batch
        else:
            kept.append([p.detach().clone() for p in network.parameters()])
    assert len(kept) == 3 and average.network() is not network
    for ours, *snapshots in zip(average.network().parameters(), *kept, strict=True):
        torch.testing.assert_close(ours, torch.stack(snapshots).mean(dim=0))


@pytest.mark.parametrize(
    ("epochs", "swa", "first"), [(10, 0.3, 7), (10, 0.01, 9), (1, 0.5, 0), (3, 0.5, 1), (5, 0.99, 0)]
)
def test_swa_begins_with_its_share_of_the_epochs(epochs: int, swa: float, first: int) -> None:
    assert average_of(nn.Linear(1, 1), epochs=epochs, swa=swa).first == first


def test_statistics_are_those_of_torchs_update_bn() -> None:
    network = small()
    average = average_of(network, swa=0.5)
    for epoch in range(10):
        train_step(network, epoch)
        average.after_epoch(epoch)
    theirs = copy.deepcopy(average.network())
    before = {name: tensor.clone() for name, tensor in theirs.state_dict().items()}
    update_bn([batch(n) for n in range(5)], theirs)
    state = torch.get_rng_state()
    average.finish(batch(n) for n in range(5))
    assert torch.equal(torch.get_rng_state(), state)
    for part in (1, 6):
        torch.testing.assert_close(average.network()[part].running_mean, theirs[part].running_mean)
        torch.testing.assert_close(average.network()[part].running_var, theirs[part].running_var)
    assert not torch.allclose(average.network()[1].running_mean, before["1.running_mean"])
    for name, parameter in average.network().named_parameters():
        assert torch.equal(parameter, before[name])
    assert [m.momentum for m in trained_norms(average.network(), network)] == [0.1, 0.1]
    assert not any(module.training for module in average.network().modules())


def test_each_row_counts_alike_in_the_statistics() -> None:
    norm = nn.BatchNorm1d(1)
    estimate_statistics(norm, [norm], iter([torch.tensor([[1.0], [3.0], [8.0]]), torch.tensor([[0.0], [4.0]])]))
    assert norm.running_mean.item() == pytest.approx(16 / 5)
    assert norm.running_var.item() == pytest.approx(13.0 * 3 / 5 + 8.0 * 2 / 5)


def test_dropout_does_not_disturb_the_statistics() -> None:
    calm, wild = small(), small(dropout=0.9)
    for network in (calm, wild):
        estimate_statistics(network, [network[1], network[6]], [batch(0), batch(1)])
    assert_same(calm, wild)


def test_frozen_statistics_stay_as_they_were_loaded() -> None:
    network = small()
    nn.init.constant_(network[1].running_mean, 7.0)
    for part in network[:2]:
        part.requires_grad_(False)
    for keys in ({"ema": 0.5}, {"swa": 0.9}):
        average = average_of(network, **keys)
        frozen = {name: tensor.clone() for name, tensor in network[:2].state_dict().items()}
        last = network[6].running_mean.clone()
        for epoch in range(3):
            with torch.no_grad():
                network[5].weight.mul_(1.1)
            average.after_step()
            average.after_epoch(epoch + 7)
        average.finish([batch(1), batch(2)])
        for name, tensor in average.network()[:2].state_dict().items():
            assert torch.equal(tensor, frozen[name]), name
        assert torch.equal(average.network()[6].running_mean, last) == ("ema" in keys)


def test_a_network_without_batch_norm_reads_no_batch() -> None:
    network = nn.Linear(2, 2)
    average = average_of(network, swa=0.9)
    average.after_epoch(5)
    average.finish(iter([None]))
    assert average.network() is not network


@pytest.mark.parametrize("keys", [{"ema": 0.9}, {"swa": 0.5}])
@pytest.mark.parametrize("stop", [2, 6])
def test_resume_is_exact(keys: dict[str, float], stop: int) -> None:
    def go_on(network: nn.Module, average: Average, epochs: range) -> None:
        for epoch in epochs:
            train_step(network, epoch)
            average.after_step()
            average.after_epoch(epoch)
            average.finish([batch(50), batch(51)])

    network = small()
    average = average_of(network, **keys)
    go_on(network, average, range(stop))
    file = io.BytesIO()
    torch.save({"network": network.state_dict(), "average": average.state_dict()}, file)
    go_on(network, average, range(stop, 9))

    file.seek(0)
    state = torch.load(file, weights_only=True)
    torch.manual_seed(9)
    again = nn.Sequential(*small()).apply(lambda m: m.reset_parameters() if hasattr(m, "reset_parameters") else None)
    resumed = average_of(again, **keys)
    again.load_state_dict(state["network"])
    resumed.load_state_dict(state["average"])
    go_on(again, resumed, range(stop, 9))
    assert_same(resumed.network(), average.network())
    assert resumed.updates == average.updates


def test_a_real_network_keeps_its_layout_and_its_ways() -> None:
    network = build_network(Model(backbone="resnet10t"), 3, 3, 32, 0).to(memory_format=torch.channels_last)
    average = average_of(network, ema=0.5)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.01)
    average.after_step()
    kept = average.network()
    strides = {name: p.stride() for name, p in network.named_parameters()}
    assert {name: p.stride() for name, p in kept.named_parameters()} == strides
    assert any(p.ndim == 4 and p.is_contiguous(memory_format=torch.channels_last) for p in kept.parameters())
    assert not any(p.requires_grad for p in kept.parameters())
    logits, embedding = kept.embed(torch.randn(2, 3, 32, 32))
    assert logits.shape == (2, kept.head.out_features) and embedding.shape == (2, kept.embedding_size)


def test_a_module_with_two_names_is_averaged_once() -> None:
    layer = nn.Linear(1, 1, bias=False)
    nn.init.constant_(layer.weight, 0.0)
    network = nn.Sequential(layer, layer)
    average = average_of(network, ema=0.5)
    nn.init.constant_(layer.weight, 1.0)
    average.after_step()
    assert [part.weight.item() for part in average.network()] == pytest.approx([0.9, 0.9])


def test_no_average_and_two_averages() -> None:
    assert build_average(nn.Linear(1, 1), Train()) is None
    with pytest.raises(RequestError, match=r"train.ema=0.9 and train.swa=0.5: .* Set one of them to 0"):
        check_average(Train(ema=0.9, swa=0.5))
