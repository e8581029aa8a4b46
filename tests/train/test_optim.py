"""Parameter groups, optimisers, penalties and clipping against timm's, torch's and hand-computed numbers."""

import copy
import io

import pytest
import torch
from timm import create_model
from timm.models import group_parameters
from timm.optim import list_optimizers, param_groups_layer_decay, param_groups_weight_decay
from torch import nn
from torch.nn import functional
from torchvision.models import VisionTransformer

from harness.config.spec import Model, Optim
from harness.errors import RequestError
from harness.models.network import build_network
from harness.models.stages import layers
from harness.train.optim import add_l1, add_trainable, build_optimizer, check_optimizer, clip_gradients

X = torch.randn(12, 2, 6, 6, generator=torch.Generator().manual_seed(1))
Y = torch.randint(0, 3, (12,), generator=torch.Generator().manual_seed(2))


def small() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1, bias=False),
        nn.BatchNorm2d(4),
        nn.GELU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(16, 3),
    )


def step(network: nn.Module, optimizer: torch.optim.Optimizer, rate: float) -> float:
    loss = functional.cross_entropy(network(X), Y)
    optimizer.zero_grad()
    loss.backward()
    for group in optimizer.param_groups:
        group["lr"] = rate * group["scale"]
    optimizer.step()
    return float(loss.detach())


def one_step(optim: Optim, gradient: float) -> tuple[float, float]:
    layer = nn.Linear(1, 1)
    nn.init.constant_(layer.weight, 2.0)
    nn.init.constant_(layer.bias, 1.0)
    optimizer = build_optimizer(layer, optim)
    layer.weight.grad = torch.full_like(layer.weight, gradient)
    layer.bias.grad = torch.full_like(layer.bias, gradient)
    optimizer.step()
    return layer.weight.item(), layer.bias.item()


def test_adamw_decays_weights_but_not_biases() -> None:
    # first step: m/(1-b1) = g, v/(1-b2) = g^2, so the update is lr * sign(g); decay is lr * wd * w before it
    weight, bias = one_step(Optim(lr=0.1, weight_decay=0.5), gradient=4.0)
    assert weight == pytest.approx(2.0 - 0.1 * 0.5 * 2.0 - 0.1, abs=1e-5)
    assert bias == pytest.approx(1.0 - 0.1, abs=1e-5)


def test_sgd_with_nesterov_momentum() -> None:
    # first step: buffer = g + wd * w, update = lr * (g' + momentum * buffer)
    weight, bias = one_step(Optim(name="sgd", lr=0.1, weight_decay=0.5, momentum=0.9), gradient=4.0)
    assert weight == pytest.approx(2.0 - 0.1 * (5.0 + 0.9 * 5.0), abs=1e-5)
    assert bias == pytest.approx(1.0 - 0.1 * (4.0 + 0.9 * 4.0), abs=1e-5)
    assert one_step(Optim(name="sgd", lr=0.1, weight_decay=0.0, nesterov=False), 4.0)[0] == pytest.approx(2.0 - 0.4)
    assert one_step(Optim(name="sgd", lr=0.1, weight_decay=0.0, momentum=0.0), 4.0)[0] == pytest.approx(2.0 - 0.4)


PLAIN = {
    "adamw": lambda groups: torch.optim.AdamW(groups, lr=1e-2, betas=(0.8, 0.95), fused=False, foreach=False),
    "adam": lambda groups: torch.optim.Adam(groups, lr=1e-2, betas=(0.8, 0.95), fused=False, foreach=False),
    "sgd": lambda groups: torch.optim.SGD(groups, lr=1e-2, momentum=0.8, nesterov=True, fused=False, foreach=False),
}


@pytest.mark.parametrize("name", PLAIN)
def test_five_steps_are_those_of_torchs_plain_loop(name: str) -> None:
    ours, theirs = small(), small()
    optimizer = build_optimizer(ours, Optim(name=name, lr=1e-2, momentum=0.8, beta2=0.95, weight_decay=0.3))
    matrices = [p for p in theirs.parameters() if p.ndim > 1]
    vectors = [p for p in theirs.parameters() if p.ndim == 1]
    reference = PLAIN[name](
        [
            {"params": matrices, "weight_decay": 0.3, "scale": 1.0},
            {"params": vectors, "weight_decay": 0.0, "scale": 1.0},
        ]
    )
    for number in range(5):
        assert step(ours, optimizer, 1e-2 / (number + 1)) == pytest.approx(step(theirs, reference, 1e-2 / (number + 1)))
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def vit() -> nn.Module:
    return create_model("vit_tiny_patch16_224", img_size=32, embed_dim=12, depth=3, num_heads=2, num_classes=3)


def swin() -> nn.Module:
    return create_model("swin_tiny_patch4_window7_224", img_size=56, embed_dim=12, depths=(1, 2), num_heads=(1, 2))


def resnet() -> nn.Module:
    return create_model("resnet10t", num_classes=3)


def by_parameter(groups: list[dict], key: str) -> dict[int, float]:
    return {id(p): group[key] for group in groups for p in group["params"]}


@pytest.mark.parametrize("network", [vit, swin, resnet])
def test_layer_decay_is_timms(network) -> None:
    model = network()
    layers = group_parameters(model, model.group_matcher(coarse=False), reverse=True)
    spared = model.no_weight_decay() if hasattr(model, "no_weight_decay") else ()
    wanted = param_groups_layer_decay(model, weight_decay=0.05, layer_decay=0.7, no_weight_decay_list=spared)
    optimizer = build_optimizer(model, Optim(lr=0.02, weight_decay=0.05, layer_decay=0.7), layers)
    assert by_parameter(optimizer.param_groups, "scale") == pytest.approx(by_parameter(wanted, "lr_scale"))
    assert by_parameter(optimizer.param_groups, "weight_decay") == by_parameter(wanted, "weight_decay")
    assert len({group["scale"] for group in optimizer.param_groups}) >= 4
    assert all(group["lr"] == 0.02 * group["scale"] for group in optimizer.param_groups)
    assert [group["scale"] for group in optimizer.param_groups] == sorted(g["scale"] for g in optimizer.param_groups)


@pytest.mark.parametrize("backbone", ["deit_tiny_patch16_224", "resnet10t"])
def test_layer_decay_of_a_whole_network_is_timms(backbone: str) -> None:
    network = build_network(Model(backbone=backbone), 3, 3, 32, 0)
    optim = Optim(lr=1.0, layer_decay=0.6, head_lr=5.0)
    scales = by_parameter(build_optimizer(network, optim, layers(network)).param_groups, "scale")
    mine = {name: scales[id(p)] for name, p in network.named_parameters()}
    model = create_model(backbone, num_classes=3)
    spared = model.no_weight_decay() if hasattr(model, "no_weight_decay") else ()
    groups = param_groups_layer_decay(model, layer_decay=0.6, no_weight_decay_list=spared)
    wanted = by_parameter(groups, "lr_scale")
    classifier = model.get_classifier()
    body = {
        f"backbone.{n}": wanted[id(p)] for n, p in model.named_parameters() if p not in set(classifier.parameters())
    }
    assert mine == pytest.approx({**body, "head.weight": 5.0, "head.bias": 5.0})
    assert wanted[id(classifier.weight)] == 1.0


@pytest.mark.parametrize("network", [vit, swin, resnet])
def test_without_layers_the_groups_are_timms(network) -> None:
    model = network()
    spared = model.no_weight_decay() if hasattr(model, "no_weight_decay") else ()
    wanted = param_groups_weight_decay(model, weight_decay=0.05, no_weight_decay_list=spared)
    optimizer = build_optimizer(model, Optim(weight_decay=0.05))
    assert by_parameter(optimizer.param_groups, "weight_decay") == by_parameter(wanted, "weight_decay")
    assert {group["scale"] for group in optimizer.param_groups} == {1.0}


def test_the_tokens_inside_a_network_are_spared() -> None:
    network = nn.Module()
    network.backbone, network.other = vit(), VisionTransformer(32, 16, 1, 2, 8, 8, num_classes=2)
    decay = {p: g["weight_decay"] for g in build_optimizer(network, Optim()).param_groups for p in g["params"]}
    spared = {name for name, p in network.named_parameters() if p.ndim > 1 and decay[p] == 0}
    assert spared == {"backbone.cls_token", "backbone.pos_embed", "other.class_token", "other.encoder.pos_embedding"}


def test_the_head_has_its_own_rate() -> None:
    network = build_network(Model(), 3, 3, 32, 0)
    for parameter in network.backbone.parameters():
        parameter.requires_grad_(False)
    next(network.backbone.parameters()).requires_grad_(True)
    optimizer = build_optimizer(network, Optim(lr=0.1, head_lr=10.0))
    rates = {p: group["lr"] for group in optimizer.param_groups for p in group["params"]}
    # Only what can be trained reaches the optimiser: a frozen weight must not even decay.
    assert {name for name, p in network.named_parameters() if p in rates} == {
        name for name, p in network.named_parameters() if p.requires_grad
    }
    assert rates[network.head.bias] == pytest.approx(1.0)
    assert rates[next(network.backbone.parameters())] == 0.1


LAYERS = {"0.weight": 0, "1.weight": 1, "1.bias": 1, "5.weight": 2, "5.bias": 2}


def thaw(network: nn.Sequential, part: int) -> None:
    for parameter in network[part].parameters():
        parameter.requires_grad_(True)


def test_gradual_unfreezing_resumes_bit_for_bit() -> None:
    optim = Optim(layer_decay=0.5)

    def begin() -> tuple[nn.Sequential, torch.optim.Optimizer]:
        network = small().requires_grad_(False)
        thaw(network, 5)
        return network, build_optimizer(network, optim, LAYERS)

    network, optimizer = begin()
    for part in (1, 0):
        step(network, optimizer, 1e-2)
        thaw(network, part)
        before = [id(p) for group in optimizer.param_groups for p in group["params"]]
        add_trainable(optimizer, network, optim, LAYERS)
        assert [id(p) for group in optimizer.param_groups for p in group["params"]][: len(before)] == before
    step(network, optimizer, 1e-2)
    assert [group["scale"] for group in optimizer.param_groups] == [1, 1, 0.5, 0.25]
    file, weights = io.BytesIO(), copy.deepcopy(network.state_dict())
    torch.save(optimizer.state_dict(), file)
    step(network, optimizer, 3e-3)

    again, resumed = begin()
    for part in (1, 0):
        thaw(again, part)
        add_trainable(resumed, again, optim, LAYERS)
    again.load_state_dict(weights)
    file.seek(0)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    step(again, resumed, 3e-3)
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name


def usable() -> list[str]:
    names = []
    for name in list_optimizers():
        try:
            check_optimizer(name)
            names.append(name)
        except RequestError:
            pass
    return names


def listed(node):
    """The same nest with lists for tuples, as the resume state keeps it."""
    if isinstance(node, dict):
        return {key: listed(value) for key, value in node.items()}
    return [listed(value) for value in node] if isinstance(node, list | tuple) else node


def test_most_of_timms_optimisers_can_be_used() -> None:
    names = usable()
    assert len(names) > 60
    assert {"lamb", "lion", "nadamw", "adafactor", "adan", "rmsprop", "madgrad"} <= set(names)


@pytest.mark.parametrize("name", usable())
def test_each_optimiser_trains_and_resumes_bit_for_bit(name: str) -> None:
    optim = Optim(name=name, lr=1e-2)
    network = small()
    thawed = network[0].requires_grad_(False)
    optimizer = build_optimizer(network, optim)
    start = copy.deepcopy(network.state_dict())
    losses = [step(network, optimizer, 1e-2) for _ in range(4)]
    thawed.requires_grad_(True)
    add_trainable(optimizer, network, optim)
    losses += [step(network, optimizer, 1e-2) for _ in range(4)]
    file, weights = io.BytesIO(), copy.deepcopy(network.state_dict())
    torch.save(listed(optimizer.state_dict()), file)
    losses += [step(network, optimizer, 5e-3) for _ in range(3)]
    assert losses[-1] < losses[0]
    for key, parameter in network.named_parameters():
        assert torch.isfinite(parameter).all() and not torch.equal(parameter, start[key]), key

    again = small()
    again[0].requires_grad_(False)
    resumed = build_optimizer(again, optim)
    again[0].requires_grad_(True)
    add_trainable(resumed, again, optim)
    again.load_state_dict(weights)
    file.seek(0)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    assert [step(again, resumed, 5e-3) for _ in range(3)] == losses[-3:]
    for key, tensor in network.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[key]), key


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("fusedlamb", "needs the package apex"),
        ("bnbadam", "needs the package bitsandbytes"),
        ("adahessian", "second derivatives"),
        ("kron", "more than tensors"),
        ("adammw", "Did you mean adamw"),
        ("lookahead_adam", "there is no optimiser lookahead_adam"),
        ("AdamW", "there is no optimiser AdamW. Did you mean adamw"),
    ],
)
def test_what_cannot_be_used_is_refused_with_its_reason(name: str, reason: str) -> None:
    with pytest.raises(RequestError, match=f"optim.name: .*{reason}"):
        build_optimizer(small(), Optim(name=name))


def test_a_momentum_that_an_optimiser_cannot_have_is_refused() -> None:
    with pytest.raises(RequestError, match=r"optim.name: nlars does not go with optim.momentum=0 and .*Nesterov"):
        build_optimizer(small(), Optim(name="nlars", momentum=0.0))


def test_the_betas_and_the_momentum_reach_timms_optimisers() -> None:
    optim = Optim(name="lamb", momentum=0.7, beta2=0.8)
    assert build_optimizer(small(), optim).param_groups[0]["betas"] == (0.7, 0.8)
    optim = Optim(name="sgdw", momentum=0.7, nesterov=False)
    group = build_optimizer(small(), optim).param_groups[0]
    assert (group["momentum"], group["nesterov"]) == (0.7, False)


def test_l1_is_the_gradient_of_its_term_in_the_loss() -> None:
    ours, theirs = small(), small()
    with torch.no_grad():
        ours[5].weight[0, :4] = theirs[5].weight[0, :4] = 0.0
    optimizer = build_optimizer(ours, Optim(l1=0.01, weight_decay=0.0))
    functional.cross_entropy(ours(X), Y).backward()
    add_l1(optimizer)
    penalty = theirs[0].weight.abs().sum() + theirs[5].weight.abs().sum()
    (functional.cross_entropy(theirs(X), Y) + 0.01 * penalty).backward()
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad)


def test_clipping_is_by_value_first_then_by_norm() -> None:
    def clipped(norm: float, value: float) -> list[float]:
        parameter, unused = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(2))
        parameter.grad = torch.tensor([6.0, -8.0])
        clip_gradients(torch.optim.SGD([parameter, unused]), norm, value)
        assert unused.grad is None
        return parameter.grad.tolist()

    assert clipped(0.0, 0.0) == [6.0, -8.0]
    assert clipped(0.0, 7.0) == [6.0, -7.0]
    assert clipped(5.0, 0.0) == pytest.approx([3.0, -4.0])
    assert clipped(2.5, 6.0) == pytest.approx([2.5 / 2**0.5, -2.5 / 2**0.5])
    assert clipped(100.0, 100.0) == [6.0, -8.0]


@pytest.mark.parametrize("name", ["adamw", "adam", "sgd"])
def test_a_fused_step_clips_as_torch_does(name: str) -> None:
    """Within the step, against torch's own clipping before it."""
    optim = Optim(name=name, lr=0.01)
    ours, theirs = small(), small()
    mine, usual = build_optimizer(ours, optim), build_optimizer(theirs, optim)
    for number in range(6):
        for network, optimizer in ((ours, mine), (theirs, usual)):
            optimizer.zero_grad()
            (functional.cross_entropy(network(X), Y) * 10 ** (number - 3)).backward()
        before = [p.grad.clone() for p in ours.parameters()]
        clip_gradients(mine, 0.5, 0.0, in_step=True)
        assert all(torch.equal(a, p.grad) for a, p in zip(before, ours.parameters(), strict=True))
        nn.utils.clip_grad_norm_(theirs.parameters(), 0.5)
        mine.step()
        usual.step()
        for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)
    norms = [float(nn.utils.get_total_norm([p.grad for p in network.parameters()])) for network in (ours, theirs)]
    assert norms == pytest.approx([0.5, 0.5], rel=1e-4)  # the last gradients were clipped, and by the step itself
