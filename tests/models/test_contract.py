"""One set of cases that the backbones of every family pass, small ones for real, large ones on the meta device."""

import itertools

import pytest
import torch

from harness.config.spec import Model
from harness.models.network import build_network
from harness.models.stages import freeze, layers, stages, training_mode
from harness.train.checkpoint import FoldMeta, digest, load_fold, save_weights

SMALL = [
    "timm/resnet10t",
    "timm/densenet121",
    "timm/efficientnet_b0",
    "timm/mobilenetv2_050",
    "timm/mobilenetv3_small_050",
    "timm/convnext_atto",
    "timm/vit_tiny_patch16_224",
    "timm/deit_tiny_patch16_224",
    "timm/deit_tiny_distilled_patch16_224",
    "timm/swin_s3_tiny_224",
    "timm/regnety_002",
    "timm/pit_ti_224",
    "torchvision/resnet18",
    "torchvision/densenet121",
    "torchvision/efficientnet_b0",
    "torchvision/mobilenet_v2",
    "torchvision/mobilenet_v3_small",
    "torchvision/shufflenet_v2_x0_5",
    "torchvision/mnasnet0_5",
    "torchvision/regnet_y_400mf",
]
LARGE = [
    *(f"timm/resnet{depth}" for depth in (18, 34, 50, 101, 152)),
    *(f"torchvision/resnet{depth}" for depth in (50, 152)),
    "timm/vgg16_bn",
    "torchvision/vgg16",
    "torchvision/swin_t",
    "torchvision/vit_b_16",
    "torchvision/convnext_tiny",
    "timm/swin_base_patch4_window7_224",
    "timm/convnext_large",
    "timm/deit_base_patch16_224",
    "timm/visformer_tiny",  # position embeddings of later stages hang on the network itself
    "timm/rdnet_tiny",  # has no coarse groups of its own
]
SIDE = 64


def tensors(network):
    return {**dict(network.named_parameters()), **dict(network.named_buffers())}


def check_stages(network):
    """The stages part the network's parameters and buffers; layers rise with them."""
    found = stages(network)
    names = [name for stage in found for name in stage.tensors]
    assert sorted(names) == sorted(tensors(network))
    assert len(set(names)) == len(names)
    assert sum(stage.parameters for stage in found) == sum(p.numel() for p in network.parameters())
    assert found[0].name == "stem" and found[-1].name == "head" and len(found) >= 4
    assert len({stage.name for stage in found} - {""}) == len(found)
    assert all(name in found[-1].tensors for name in tensors(network) if name.startswith("head."))
    number = layers(network)
    assert set(number) == {name for name, _ in network.named_parameters()}
    assert set(number.values()) == set(range(max(number.values()) + 1))
    spans = [[number[name] for name in stage.tensors if name in number] for stage in found]
    assert spans[0][0] == 0
    assert all(max(before) <= min(after) for before, after in itertools.pairwise(spans))
    assert {number[f"head.{part}"] for part in ("weight", "bias")} == {max(number.values())}
    return found


@pytest.mark.parametrize("name", SMALL)
def test_a_backbone_keeps_the_contract(name, tmp_path):
    torch.manual_seed(0)
    model = Model(backbone=name)
    with torch.device("cpu" if "regnet" in name else "meta"):  # shapes are all that is asked of three channels
        colour = build_network(model, 3, 3, SIDE, seed=1).eval()
        logits, embedding = colour.embed(torch.rand(2, 3, SIDE, SIDE))
    assert logits.shape == (2, 3) and embedding.shape == (2, colour.embedding_size)

    network = build_network(model, 2, 1, SIDE, seed=1)
    found = check_stages(network)
    level = len(found) // 2
    freeze(network, level)
    training_mode(network, level)
    before = {key: tensor.detach().clone() for key, tensor in tensors(network).items()}
    trained = [p for p in network.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=0.1, momentum=0.9, weight_decay=0.1)
    x, y = torch.rand(4, 1, SIDE, SIDE), torch.tensor([0, 1, 0, 1])
    torch.nn.functional.cross_entropy(network(x), y).backward()
    optimizer.step()
    changed = {key for key, tensor in tensors(network).items() if not torch.equal(tensor, before[key])}
    still = {key for stage in found[:level] for key in stage.tensors}
    assert not changed & still
    assert changed >= {key for key, p in network.named_parameters() if key not in still and p.ndim > 1}
    statistics = {key for key in before if key.endswith("running_mean")} - still
    assert changed >= statistics

    meta = FoldMeta(
        study="s", trial=0, fold=0, model=model.model_dump(mode="json"),
        decode={"size": SIDE, "channels": 1}, classes=("a", "b"), mean=(0.5,), std=(0.2,),
        encoder_id=digest(network), data_hash="d", folds_hash="f",
    )  # fmt: skip
    save_weights(tmp_path / "w.safetensors", network, meta)
    loaded, _ = load_fold(tmp_path / "w.safetensors")
    with torch.no_grad():
        assert torch.equal(loaded(x), network.eval()(x))


@pytest.mark.parametrize("name", LARGE)
def test_a_large_backbone_has_its_stages(name):
    with torch.device("meta"):
        network = build_network(Model(backbone=name), 2, 1, 224, seed=1)
    check_stages(network)
