"""Weights through the libraries' own caches, offline: real files in their layout, tensors that arrive, and refusals."""

import hashlib
import time

import pytest
import torch
from safetensors.torch import save_file

from harness.config.spec import Model
from harness.errors import RequestError
from harness.models import weights
from harness.models.backbones import build_backbone, check_weights, resolve, weights_source
from harness.models.network import build_network
from harness.models.timm_backbones import tags


@pytest.fixture(autouse=True)
def offline(tmp_path, monkeypatch):
    """Empty caches of both libraries, and no network."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return tmp_path


def state_of(name, seed):
    """What the library would publish: its own model whole, with a classifier for 1,000 classes."""
    library, model, _ = resolve(name)
    torch.manual_seed(seed)
    if library == "timm":
        import timm

        return timm.create_model(model).state_dict()
    import torchvision

    return torchvision.models.get_model(model).state_dict()


def put_into_hub(root, name, state, tag=""):
    """A file in the layout of the Hugging Face hub's cache: a blob by its hash, a snapshot that links to it, a ref."""
    repository = weights_source(resolve(name), tag or "pretrained").repository
    folder = root / "hf" / "hub" / f"models--{repository.replace('/', '--')}"
    snapshot = folder / "snapshots" / ("0" * 40)
    for part in (snapshot, folder / "blobs", folder / "refs"):
        part.mkdir(parents=True)
    save_file({key: tensor.contiguous() for key, tensor in state.items()}, snapshot / "new")
    blob = folder / "blobs" / hashlib.sha256((snapshot / "new").read_bytes()).hexdigest()
    (snapshot / "new").rename(blob)
    (snapshot / "model.safetensors").symlink_to(blob)
    (folder / "refs" / "main").write_text("0" * 40)
    return blob


def put_into_torch_hub(root, monkeypatch, state):
    """A file in torch hub's cache. Its name carries its own hash: nobody can make one for a published name."""
    folder = root / "torch" / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    torch.save(state, folder / "new")
    digest = hashlib.sha256((folder / "new").read_bytes()).hexdigest()
    path = (folder / "new").rename(folder / f"resnet18-{digest[:8]}.pth")
    source = weights.Source("IMAGENET1K_V1", url=f"https://download.pytorch.org/models/{path.name}")
    monkeypatch.setattr("harness.models.torchvision_backbones.source", lambda model, tag: source)
    return path


def assert_arrived(name, state, asked="pretrained"):
    network = build_network(Model(backbone=name, weights=asked), 2, 3, 64, seed=5).eval()
    for key, tensor in network.backbone.state_dict().items():
        assert torch.equal(tensor, state[key]), key
    assert network(torch.rand(2, 3, 64, 64)).shape == (2, 2)
    grey = build_network(Model(backbone=name, weights=asked), 2, 1, 64, seed=5).eval()
    level = torch.rand(1, 1, 64, 64)
    with torch.no_grad():
        colour = network.embed(level.expand(-1, 3, -1, -1))[1]
        torch.testing.assert_close(grey.embed(level)[1], colour, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("name", ["resnet10t", "mobilenetv3_small_050"])
def test_timm_weights_arrive_from_the_hubs_cache(offline, name):
    state = state_of(name, 3)
    put_into_hub(offline, name, state)
    check_weights(name, "pretrained")
    assert_arrived(name, state)


def test_a_tag_is_another_file(offline):
    state = state_of("resnet18", 3)
    put_into_hub(offline, "resnet18", state, "a2_in1k")
    for name, asked in (("resnet18", "a2_in1k"), ("resnet18.a2_in1k", "pretrained"), ("timm/resnet18", "a2_in1k")):
        check_weights(name, asked)
        assert_arrived(name, state, asked)
    with pytest.raises(RequestError, match="a1_in1k"):
        check_weights("resnet18", "pretrained")
    with pytest.raises(RequestError, match=r"model.backbone names a2_in1k"):
        check_weights("resnet18.a2_in1k", "a1_in1k")


def test_a_transformers_positions_are_resized(offline):
    state = state_of("vit_tiny_patch16_224", 3)
    put_into_hub(offline, "vit_tiny_patch16_224", state)
    backbone, _, _ = build_backbone("vit_tiny_patch16_224", "pretrained", 3, 96)
    assert backbone.pos_embed.shape == (1, 37, 192)
    assert torch.equal(backbone.pos_embed[:, 0], state["pos_embed"][:, 0])
    assert torch.equal(backbone.blocks[3].attn.qkv.weight, state["blocks.3.attn.qkv.weight"])


def test_torchvision_weights_arrive_from_torch_hubs_cache(offline, monkeypatch):
    state = state_of("torchvision/resnet18", 3)
    path = put_into_torch_hub(offline, monkeypatch, state)
    check_weights("torchvision/resnet18", "pretrained")
    assert_arrived("torchvision/resnet18", state)
    with path.open("r+b") as file:  # one byte of a tensor
        file.seek(-5000, 2)
        file.write(b"\x55")
    with pytest.raises(RequestError, match=r"resnet18-.*damaged: its SHA-256"):
        check_weights("torchvision/resnet18", "pretrained")


def test_a_damaged_file_of_the_hub_is_refused(offline):
    blob = put_into_hub(offline, "resnet10t", state_of("resnet10t", 3))
    with blob.open("r+b") as file:
        file.seek(-64, 2)
        file.write(b"\x55" * 8)
    with pytest.raises(RequestError, match=r"damaged: its SHA-256"):
        check_weights("resnet10t", "pretrained")


@pytest.mark.parametrize("ending", [".pth", ".safetensors"])
def test_weights_that_are_not_finite_are_refused(tmp_path, ending):
    state = {"a": torch.ones(2), "b": torch.tensor([1.0, float("nan")])}
    path = tmp_path / f"w{ending}"
    if ending == ".pth":
        torch.save(state, path)
    else:
        save_file(state, path)
    with pytest.raises(RequestError, match=r"1 tensors with values that are not finite, such as b"):
        check_weights("resnet10t", str(path))


@pytest.mark.parametrize("content", [b"", b"no weights at all", b"PK\x03\x04 cut off"])
@pytest.mark.parametrize("ending", [".pth", ".safetensors"])
def test_files_that_are_no_weights_are_refused(tmp_path, content, ending):
    path = tmp_path / f"w{ending}"
    path.write_bytes(content)
    with pytest.raises(RequestError, match=r"model.weights: .*w\..* cannot be read as weights"):
        check_weights("resnet10t", str(path))


def test_a_file_with_the_tensors_of_another_network_is_refused(tmp_path):
    save_file({k: t.contiguous() for k, t in state_of("resnet10t", 0).items()}, tmp_path / "w.safetensors")
    for name in ("resnet18", "torchvision/resnet18", "mobilenetv3_small_050"):
        with pytest.raises(RequestError, match=r"w.safetensors does not fit .*resnet18|does not fit .*mobilenet"):
            build_network(Model(backbone=name, weights=str(tmp_path / "w.safetensors")), 2, 1, 64, seed=0)


def test_missing_weights_say_what_to_download_and_where_to_put_it(offline):
    with pytest.raises(RequestError) as refused:
        check_weights("resnet18", "pretrained")
    for text in (
        "HF_HUB_OFFLINE is set",
        "hf download timm/resnet18.a1_in1k model.safetensors",
        "models--timm--resnet18.a1_in1k",
        str(offline / "hf" / "hub"),
        "https://huggingface.co/timm/resnet18.a1_in1k/resolve/main/model.safetensors",
        "model.weights=none",
    ):
        assert text in str(refused.value)
    with pytest.raises(RequestError) as refused:
        check_weights("torchvision/resnet50", "pretrained")
    for text in (
        "https://download.pytorch.org/models/resnet50-11ad3fa6.pth",
        str(offline / "torch" / "hub" / "checkpoints"),
    ):
        assert text in str(refused.value)


def test_no_retries_where_nothing_answers(offline, monkeypatch):
    """One try to connect, no waiting between tries: the hub's own client makes several of each."""
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    asleep = []
    monkeypatch.setattr(time, "sleep", asleep.append)
    with pytest.raises(RequestError, match=r"cannot be downloaded.*refused"):
        check_weights("resnet10t", "pretrained")
    assert not asleep


def test_tags():
    assert tags("resnet18")[0] == "a1_in1k"
    with pytest.raises(RequestError, match=r"no weights a1_in2k of resnet18. Did you mean a1_in1k"):
        check_weights("resnet18", "a1_in2k")
    with pytest.raises(RequestError, match=r"set model.backbone=torchvision/resnet50"):
        check_weights("resnet50", "IMAGENET1K_V2")
    with pytest.raises(RequestError, match=r"no weights IMAGENET1K_V9 of resnet50.*IMAGENET1K_V1"):
        check_weights("torchvision/resnet50", "IMAGENET1K_V9")
    with pytest.raises(RequestError, match=r"model.backbone: timm publishes no weights nonsense"):
        resolve("resnet18.nonsense")


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("none", "none"), ("pretrained", "pretrained"), ("a1_in1k", "tag"), ("study:base/3", "study"),
        ("w.pth", "file"), ("runs/best", "file"), ("IMAGENET1K_V1", "tag"), ("~/w.safetensors", "file"),
    ],
)  # fmt: skip
def test_what_a_word_means(text, kind):
    assert weights.kind_of(text) == kind
