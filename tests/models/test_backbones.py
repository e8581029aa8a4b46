"""Both libraries through one table: every row passes the same cases."""

import pytest
import torch

from harness.config.spec import Model
from harness.errors import RequestError
from harness.models.backbones import list_backbones, resolve
from harness.models.network import build_network


@pytest.mark.parametrize(
    "name",
    [
        "resnet10t",
        "timm/mobilenetv3_small_050",
        "torchvision/resnet18",
        "torchvision/mobilenet_v3_small",
        "vit_tiny_patch16_224",
    ],
)
@pytest.mark.parametrize("channels", [1, 3])
def test_contract_of_a_backbone(name, channels):
    network = build_network(Model(backbone=name), 3, channels, 64, seed=1).eval()
    x = torch.rand(2, channels, 64, 64)
    logits, embedding = network.embed(x)
    assert logits.shape == (2, 3)
    assert embedding.shape == (2, network.embedding_size)
    assert torch.equal(network(x), logits)
    again = build_network(Model(backbone=name), 3, channels, 64, seed=1).eval()
    assert torch.equal(again(x), logits)
    other = build_network(Model(backbone=name), 3, channels, 64, seed=2).eval()
    assert not torch.equal(other(x), logits)


def test_building_leaves_the_random_state_alone():
    torch.manual_seed(5)
    build_network(Model(backbone="resnet10t"), 2, 1, 64, seed=1)
    first = torch.rand(1)
    torch.manual_seed(5)
    assert torch.equal(first, torch.rand(1))


def test_names():
    assert resolve("resnet18") == ("timm", "resnet18", "")
    assert resolve("resnet18.a1_in1k") == ("timm", "resnet18", "a1_in1k")
    assert resolve("torchvision/resnet18") == ("torchvision", "resnet18", "")
    assert resolve("squeezenet1_1") == ("torchvision", "squeezenet1_1", "")
    assert {"timm/resnet10t", "torchvision/resnet18"} <= set(list_backbones("resnet"))
    with pytest.raises(RequestError, match=r"resnet10x.*Did you mean.*resnet10t"):
        resolve("resnet10x")
    with pytest.raises(RequestError, match="timm or torchvision"):
        resolve("keras/resnet18")


@pytest.mark.parametrize("name", ["timm/resnet10t", "torchvision/resnet18"])
@pytest.mark.parametrize("ending", [".pth", ".safetensors"])
def test_weights_from_a_file_are_the_weights(tmp_path, name, ending):
    source = build_network(Model(backbone=name), 2, 3, 64, seed=3)
    state = {key: tensor.contiguous() for key, tensor in source.backbone.state_dict().items()}
    path = tmp_path / f"w{ending}"
    if ending == ".pth":
        torch.save(state, path)
    else:
        from safetensors.torch import save_file

        save_file(state, path)
    loaded = build_network(Model(backbone=name, weights=str(path)), 5, 3, 64, seed=4)
    x = torch.rand(2, 3, 64, 64)
    assert torch.equal(source.eval().embed(x)[1], loaded.eval().embed(x)[1])
    grey = build_network(Model(backbone=name, weights=str(path)), 5, 1, 64, seed=4).eval()
    level = torch.rand(2, 1, 64, 64)  # a grey picture looks alike to both: the stem is summed over colours
    torch.testing.assert_close(grey.embed(level)[1], source.embed(level.expand(-1, 3, -1, -1))[1], atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("name", ["timm/resnet10t", "torchvision/resnet18"])
def test_weights_that_do_not_fit_are_refused(tmp_path, name):
    torch.save({"conv1.weight": torch.zeros(1)}, tmp_path / "w.pth")
    with pytest.raises(RequestError, match=r"model.weights.*does not fit"):
        build_network(Model(backbone=name, weights=str(tmp_path / "w.pth")), 2, 1, 64, seed=0)
    with pytest.raises(RequestError, match=r"no file at gone.pth"):
        build_network(Model(backbone=name, weights="gone.pth"), 2, 1, 64, seed=0)


def test_pretrained_weights_out_of_reach_say_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    with pytest.raises(RequestError, match=r"(?s)HF_HUB_OFFLINE is set.*timm/resnet10t.c3_in1k.*model.weights=PATH"):
        build_network(Model(backbone="resnet10t", weights="pretrained"), 2, 1, 64, seed=0)


def test_a_size_that_is_too_small_is_refused():
    with pytest.raises(RequestError, match=r"cannot take images of 32 x 32.*data.decode.size"):
        build_network(Model(backbone="torchvision/inception_v3"), 2, 3, 32, seed=0)


def test_an_image_that_no_memory_holds_is_told_as_such_and_not_as_a_wrong_size():
    with pytest.raises(RequestError, match=r"one image of 900000 x 900000 through timm/resnet10t needs more memory"):
        build_network(Model(backbone="resnet10t"), 2, 1, 900_000, seed=1)
