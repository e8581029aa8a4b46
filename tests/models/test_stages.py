"""Stages, freezing and layers, against timm's own numbers and by what training changes."""

import pytest
import timm
import torch
from timm.optim import param_groups_layer_decay

from harness.config.spec import Model
from harness.errors import RequestError
from harness.models.network import build_network
from harness.models.pooling import Pool
from harness.models.stages import freeze, layers, require_level, stages, training_mode


def build(name, **keys):
    return build_network(Model(backbone=name, **keys), 2, 1, 64, seed=0)


def test_the_stages_of_a_resnet():
    found = stages(build("resnet18"))
    assert [stage.name for stage in found] == ["stem", "layer1", "layer2", "layer3", "layer4", "head"]
    # by hand: a 7x7 stem from one channel to 64 with its norm; two blocks of two 3x3 convolutions with norms
    assert found[0].parameters == 49 * 64 + 2 * 64
    assert found[1].parameters == 4 * (9 * 64 * 64 + 2 * 64)
    assert found[5].parameters == 512 * 2 + 2
    assert found[2].modules == ("backbone.layer2",)
    assert set(found[0].modules) >= {"backbone.conv1", "backbone.bn1"}


def test_tokens_and_positions_are_of_the_stem_and_blocks_are_stages():
    found = stages(build("vit_tiny_patch16_224"))
    assert [stage.name for stage in found] == ["stem", *(f"blocks.{n}" for n in range(12)), "head"]
    assert {"backbone.cls_token", "backbone.pos_embed"} <= set(found[0].tensors)
    assert "backbone.norm.weight" in found[12].tensors


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("torchvision/resnet18", ["stem", "layer1", "layer2", "layer3", "layer4", "head"]),
        ("torchvision/mobilenet_v2", ["stem", *(f"features.{number}" for number in range(1, 19)), "head"]),
        ("torchvision/shufflenet_v2_x0_5", ["stem", "stage2", "stage3", "stage4", "conv5", "head"]),
    ],
)
def test_stages_without_a_word_of_the_library(name, expected):
    assert [stage.name for stage in stages(build(name))] == expected


def test_vgg_is_parted_at_its_poolings():
    with torch.device("meta"):
        for name, first in (("timm/vgg11", "features.3"), ("torchvision/vgg11", "features.3")):
            found = stages(build(name))
            assert [stage.name for stage in found[:3]] == ["stem", first, "features.6"]
            assert len(found) == 7


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "resnet10t", "convnext_atto", "mobilenetv3_small_050"])
def test_layer_decay_scales_are_those_of_timm(name):
    network = build(name)
    reference = timm.create_model(name, num_classes=2, in_chans=1, **({"img_size": 64} if "vit" in name else {}))
    classifier = reference.pretrained_cfg["classifier"]
    scales = {id(p): group["lr_scale"] for group in param_groups_layer_decay(reference, layer_decay=0.7)
              for p in group["params"]}  # fmt: skip
    expected = {
        name.replace(f"{classifier}.", "head.") if name.startswith(f"{classifier}.") else f"backbone.{name}": scales[
            id(p)
        ]
        for name, p in reference.named_parameters()
    }
    number = layers(network)
    assert {key: pytest.approx(0.7 ** (max(number.values()) - layer)) for key, layer in number.items()} == expected


def test_frozen_stages_stand_still_at_random_parts_too():
    network = build("convnext_atto", drop_path=0.5, dropout=0.5)
    x = torch.rand(4, 1, 64, 64)
    frozen = stages(network)[:4]
    training_mode(network, 4)
    for stage in frozen:
        modules = [network.get_submodule(name) for name in stage.modules]
        assert modules and not any(inner.training for module in modules for inner in module.modules())
    assert network.dropout.training and network.get_submodule("backbone.stages.3.blocks.1.drop_path").training
    once, again = (network.backbone.stages[:3](network.backbone.stem(x)) for _ in range(2))
    assert torch.equal(once, again)
    training_mode(network, 0)
    once, again = (network.backbone.stages[:3](network.backbone.stem(x)) for _ in range(2))
    assert not torch.equal(once, again)


def test_unfreezing_step_by_step():
    network = build("resnet10t")
    for level in (5, 3, 0):
        freeze(network, level)
        training_mode(network, level)
        for number, stage in enumerate(stages(network)):
            trains = {p.requires_grad for name, p in network.named_parameters() if name in stage.tensors}
            assert trains == {number >= level}
        assert network.get_submodule("backbone.layer3.0.bn1").training == (level < 4)
        assert network.get_submodule("backbone.bn1").training == (level == 0)


def test_the_head_cannot_be_frozen():
    network = build("resnet10t")
    assert len(require_level(network, 5)) == 6
    with pytest.raises(RequestError, match=r"(?s)train.freeze: 6, but .* 5 stages .*0 to 5.*left.*layer3 "):
        freeze(network, 6)


def test_a_pooling_with_a_weight_belongs_to_the_head():
    for name in ("resnet10t", "vit_tiny_patch16_224", "torchvision/densenet121"):
        network = build(name, pooling="gem")
        (exponent,) = [f"{key}.exponent" for key, module in network.named_modules() if isinstance(module, Pool)]
        assert exponent in stages(network)[-1].tensors
        assert layers(network)[exponent] == layers(network)["head.weight"]
        freeze(network, len(stages(network)) - 1)
        assert network.get_parameter(exponent).requires_grad
