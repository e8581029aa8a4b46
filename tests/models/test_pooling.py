"""Poolings against the libraries' own and against hand-computed means; heads; stochastic depth; channels."""

import pytest
import timm
import torch
from torch import nn

from harness.config.spec import Model
from harness.errors import RequestError
from harness.models import timm_backbones, torchvision_backbones
from harness.models.backbones import _embedding_size, resolve
from harness.models.network import build_network
from harness.models.pooling import Pool, PooledFeatures
from harness.train.checkpoint import FoldMeta, load_fold, save_weights

MAPS = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]], [[0.0, 0.0], [0.0, 8.0]]]])
"""(1, 2, 2, 2)"""


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("avg", [2.5, 2.0]),
        ("max", [4.0, 8.0]),
        ("avgmax", [3.25, 5.0]),
        ("gem", [25.0 ** (1 / 3), 128.0 ** (1 / 3)]),  # cubes: (1 + 8 + 27 + 64) / 4 and 512 / 4
    ],
)
def test_a_pool_by_hand(kind, expected):
    torch.testing.assert_close(Pool(kind, (2, 3))(MAPS), torch.tensor([expected]), atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(Pool(kind, (1, 2))(MAPS.movedim(1, -1)), torch.tensor([expected]), atol=1e-4, rtol=1e-5)
    tokens = MAPS.flatten(2).transpose(1, 2)
    torch.testing.assert_close(Pool(kind, (1,))(tokens), torch.tensor([expected]), atol=1e-4, rtol=1e-5)


def test_gem_learns_its_exponent_and_keeps_the_precision_of_its_input():
    pool = Pool("gem", (2, 3))
    pool(MAPS.clamp(min=0.1)).sum().backward()
    assert pool.exponent.grad is not None and pool.exponent.grad.item() > 0  # a larger exponent is nearer the maximum
    assert pool((MAPS * 100).half()).dtype == torch.float16
    assert pool((MAPS * 100).half()).isfinite().all()


@pytest.mark.parametrize("kind", ["avg", "max", "avgmax"])
@pytest.mark.parametrize("name", ["resnet10t", "mobilenetv3_small_050", "convnext_atto", "vit_tiny_patch16_224"])
def test_poolings_of_timm(name, kind):
    """The same network with timm's own option for its pooling."""
    network = build_network(Model(backbone=name, pooling=kind), 2, 3, 64, seed=0).eval()
    size = {"img_size": 64, "fc_norm": False} if "vit" in name else {}
    reference = timm.create_model(name, num_classes=0, global_pool=kind, **size).eval()
    reference.load_state_dict(network.backbone.state_dict())
    x = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(network.embed(x)[1], reference(x))


@pytest.mark.parametrize(
    "name",
    ["swin_tiny_patch4_window7_224", *(f"torchvision/{name}" for name in (
        "resnet18", "densenet121", "mobilenet_v2", "mobilenet_v3_small", "mnasnet0_5", "shufflenet_v2_x0_5",
        "efficientnet_b0", "regnet_y_400mf",
    ))],
)  # fmt: skip
def test_the_mean_is_what_these_do_of_their_own_accord(name):
    network = build_network(Model(backbone=name), 2, 1, 64, 3).eval()
    library, model, _ = resolve(name)
    x = torch.rand(2, 1, 64, 64)
    with torch.no_grad():
        own = network.embed(x)[1]
        door = timm_backbones if library == "timm" else torchvision_backbones
        network.pool = door.set_pooling(network.backbone, model, "avg")
        torch.testing.assert_close(network.embed(x)[1], own)
        (pool,) = [module for module in network.modules() if isinstance(module, Pool)]
        pool.kind = "max"
        assert (network.embed(x)[1] - own).abs().max() > 1e-3 * own.abs().max()


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "mobilenetv3_small_050", "torchvision/mobilenet_v2"])
def test_a_checkpoint_brings_its_pooling_and_its_head_back(name, tmp_path):
    model = Model(backbone=name, pooling="gem", head="mlp", hidden=5, drop_path=0.0)
    network = build_network(model, 2, 1, 64, 0).eval()
    for module in network.modules():
        if isinstance(module, Pool):
            torch.nn.init.constant_(module.exponent, 4.5)
    meta = FoldMeta(
        study="s", trial=0, fold=0, model=model.model_dump(mode="json"), decode={"size": 64, "channels": 1},
        classes=("a", "b"), mean=(0.5,), std=(0.2,), encoder_id="", data_hash="d", folds_hash="f",
    )  # fmt: skip
    save_weights(tmp_path / "w.safetensors", network, meta)
    x = torch.rand(2, 1, 64, 64)
    with torch.no_grad():
        assert torch.equal(load_fold(tmp_path / "w.safetensors")[0](x), network(x))


def test_the_tokens_of_a_torchvision_transformer():
    with torch.device("meta"):
        network = build_network(Model(backbone="torchvision/vit_b_32", pooling="gem"), 2, 3, 64, 0)
        assert network.embed(torch.zeros(2, 3, 64, 64))[1].shape == (2, 768)


@pytest.mark.parametrize("name", ["torchvision/vgg11", "pit_ti_224"])
def test_what_cannot_be_pooled_is_refused(name):
    with pytest.raises(RequestError, match=r"model.pooling: gem: .*model.pooling=native"), torch.device("meta"):
        build_network(Model(backbone=name, pooling="gem"), 2, 3, 224, 0)


def test_a_mistake_in_our_own_pooling_is_not_told_as_a_wrong_size():
    backbone = timm.create_model("test_resnet", num_classes=0)
    pool = PooledFeatures("gem", (2, 3), lambda network, x: network.forward_features(x), norm="gone")
    with pytest.raises(AttributeError, match="gone"):
        _embedding_size(backbone, pool, resolve("test_resnet"), 3, 32)


def test_an_mlp_head_and_its_dropout():
    network = build_network(Model(backbone="resnet10t", head="mlp", hidden=7, dropout=0.5), 3, 1, 64, 0)
    assert [tuple(p.shape) for p in network.head.parameters()] == [(7, 512), (7,), (3, 7), (3,)]
    assert network.classes == 3
    logits, embedding = network.eval().embed(torch.rand(2, 1, 64, 64))
    by_hand = nn.functional.gelu(embedding @ network.head[0].weight.T + network.head[0].bias)
    torch.testing.assert_close(logits, by_hand @ network.head[2].weight.T + network.head[2].bias)


@pytest.mark.parametrize("name", ["torchvision/mobilenet_v3_small", "torchvision/efficientnet_b0"])
def test_no_dropout_but_the_one_that_was_asked_for(name):
    network = build_network(Model(backbone=name), 2, 1, 64, 0)
    assert not [key for key, m in network.named_modules() if isinstance(m, nn.Dropout) and m.p > 0]


@pytest.mark.parametrize(
    ("name", "kind", "field"),
    [
        ("convnext_atto", "DropPath", "drop_prob"),
        ("torchvision/swin_t", "StochasticDepth", "p"),
        ("torchvision/efficientnet_b0", "StochasticDepth", "p"),
    ],
)
def test_stochastic_depth_rises_to_what_was_asked_for(name, kind, field):
    def rates(drop_path):
        network = build_network(Model(backbone=name, drop_path=drop_path), 2, 1, 64, 0)
        return [getattr(m, field) for m in network.modules() if type(m).__name__ == kind]

    rising = rates(0.3)
    assert rising == sorted(rising) and rising[-1] == pytest.approx(0.3, rel=0.1)
    assert not any(rates(0.0))


@pytest.mark.parametrize("name", ["vgg11", "torchvision/resnet18", "densenet121"])
def test_networks_without_stochastic_depth_refuse_it(name):
    with pytest.raises(RequestError, match=r"model.drop_path: .* no stochastic depth"):
        build_network(Model(backbone=name, drop_path=0.1), 2, 1, 64, 0)


@pytest.mark.parametrize("name", ["resnet10t", "torchvision/resnet18", "vit_tiny_patch16_224"])
def test_any_number_of_channels(name):
    network = build_network(Model(backbone=name), 2, 5, 64, 0).eval()
    assert network(torch.rand(1, 5, 64, 64)).shape == (1, 2)
