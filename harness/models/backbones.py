"""torchvision's and timm's classification backbones behind one table.

A name is `resnet18`, or `timm/resnet18` and `torchvision/resnet18` where one library is meant, or `resnet18.a1_in1k`
where timm's tag of weights is. Without a prefix timm is asked first: it adapts every model to the number of input
channels and to the image size by itself.
"""

from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from harness.errors import RequestError, nearest
from harness.hardware import is_out_of_memory
from harness.models import timm_backbones, torchvision_backbones
from harness.models.pooling import PooledFeatures, generic_groups
from harness.models.weights import Source, check_file, kind_of, locate, require_file

LIBRARIES = ("timm", "torchvision")


class Backbone(NamedTuple):
    """What a name means."""

    library: str
    model: str
    tag: str = ""
    """of the weights, where the name has one"""

    @property
    def name(self) -> str:
        return f"{self.library}/{self.model}"


def list_backbones(pattern: str | None = None) -> list[str]:
    """Names with their library, e.g. 'timm/resnet10t'; only those that contain `pattern`."""
    names = [f"timm/{name}" for name in sorted(timm_backbones.names())]
    names += [f"torchvision/{name}" for name in sorted(torchvision_backbones.names())]
    return [name for name in names if pattern is None or pattern.lower() in name.lower()]


def resolve(name: str) -> Backbone:
    """Raises RequestError with the nearest known names."""
    library, slash, rest = name.partition("/")
    if slash and library not in LIBRARIES:
        raise RequestError(f"model.backbone: {name!r}: the library is {' or '.join(LIBRARIES)}, not {library!r}.")
    model, _, tag = (rest if slash else name).partition(".")
    known = {"timm": timm_backbones.names(), "torchvision": torchvision_backbones.names()}
    for candidate in (library,) if slash else LIBRARIES:
        if model in known[candidate]:
            found = Backbone(candidate, model, tag)
            _require_tag(found, tag, "model.backbone")
            return found
    near = nearest(model, {*known["timm"], *known["torchvision"]})
    raise RequestError(
        f"model.backbone: no backbone named {name!r}.{near} `harness models list --filter {model[:6]}` shows names."
    )


def weight_tags(backbone: Backbone) -> list[str]:
    """Tags of the weights that the library publishes, the default one first."""
    found: list[str] = _library(backbone).tags(backbone.model)
    return found


def _library(backbone: Backbone) -> Any:
    """The module of the library; both have the same functions."""
    return timm_backbones if backbone.library == "timm" else torchvision_backbones


def _require_tag(backbone: Backbone, tag: str, key: str) -> None:
    known = weight_tags(backbone) if tag else []
    if tag in known or not tag:
        return
    other = resolve(f"torchvision/{backbone.model}") if backbone.model in torchvision_backbones.names() else None
    if other is not None and backbone.library == "timm" and tag in weight_tags(other):
        raise RequestError(f"{key}: {tag} are torchvision's weights: set model.backbone=torchvision/{backbone.model}.")
    raise RequestError(
        f"{key}: {backbone.library} publishes no weights {tag} of {backbone.model}.{nearest(tag, known)} "
        f"Its tags: {', '.join(known) or 'none'}."
    )


def weights_source(backbone: Backbone, weights: str) -> Source:
    """Where the library publishes what `pretrained` or a tag means. RequestError where there is no such thing."""
    tag = backbone.tag if weights == "pretrained" else weights
    _require_tag(backbone, tag, "model.weights")
    if backbone.tag and tag != backbone.tag:
        raise RequestError(
            f"model.weights: {weights}, but model.backbone names {backbone.tag}. Set model.backbone={backbone.model}, "
            "or model.weights=pretrained."
        )
    source: Source | None = _library(backbone).source(backbone.model, tag)
    if source is None:
        raise RequestError(
            f"model.weights: {backbone.library} publishes no weights of {backbone.model}. Set model.weights=none, or "
            "the path of a file."
        )
    return source


def weights_file(backbone: Backbone, weights: str) -> Path | None:
    """The file that `model.weights` means; None for none and study:NAME. RequestError where there is none."""
    kind = kind_of(weights)
    if kind in ("none", "study"):
        return None
    return require_file(weights) if kind == "file" else locate(weights_source(backbone, weights), backbone.name)


def check_weights(name: str, weights: str) -> None:
    """Weights are there, unharmed and finite, before anything is built. Raises RequestError."""
    file = weights_file(resolve(name), weights)
    if file is not None:
        check_file(file)


def build_backbone(
    name: str, weights: str, channels: int, size: int, drop_path: float = 0.0, pooling: str = "native"
) -> tuple[nn.Module, PooledFeatures | None, int]:
    """A backbone that maps x_BCHW (B, channels, size, size) to pooled embeddings (B, D); and D.

    The second is None, or what pools the backbone's features from outside where `pooling` asks for that. `weights` as
    in model.weights; for `study:` the start is random. Raises RequestError when name, weights, pooling, drop_path or
    size do not fit.
    """
    backbone = resolve(name)
    file = weights_file(backbone, weights)
    library = _library(backbone)
    try:
        network: nn.Module = library.build(backbone.model, file, channels, size, drop_path)
    except RequestError:
        raise
    except Exception as error:  # libraries raise what they like where a file or a number of channels does not fit
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        if file is not None:
            raise RequestError(f"model.weights: {file} does not fit {backbone.name}: {reason}") from error
        raise RequestError(
            f"model.backbone: {backbone.name} cannot be built for {channels} channels and images of {size} x {size}: "
            f"{reason}"
        ) from error
    pool = None if pooling == "native" else library.set_pooling(network, backbone.model, pooling)
    return network, pool, _embedding_size(network, pool, backbone, channels, size)


def embed(backbone: nn.Module, pool: PooledFeatures | None, x_BCHW: Tensor) -> Tensor:
    """(B, D)"""
    embedding: Tensor = backbone(x_BCHW) if pool is None else pool(backbone, x_BCHW)
    return embedding.flatten(1)  # some keep a height and a width of 1


def _embedding_size(
    network: nn.Module, pool: PooledFeatures | None, backbone: Backbone, channels: int, size: int
) -> int:
    """D, by showing the backbone one empty image: also proves that it takes this size."""
    training = network.training
    network.eval()
    size_errors: tuple[type[Exception], ...] = (RuntimeError, AssertionError, ValueError, MemoryError)
    if pool is None:  # so do some backbones answer a wrong size; in pooling of our own it is a mistake of ours
        size_errors = (*size_errors, AttributeError)
    try:
        with torch.no_grad():
            x = torch.zeros(1, channels, size, size)
            out = network(x) if pool is None else pool(network, x)
    except size_errors as error:
        if is_out_of_memory(error):
            raise RequestError(
                f"model.backbone: one image of {size} x {size} through {backbone.name} needs more memory than this "
                "machine has free. Set a smaller data.decode.size, or choose a smaller backbone."
            ) from error
        reason = (str(error).strip().splitlines() or ["no reason given"])[0]
        raise RequestError(
            f"model.backbone: {backbone.name} cannot take images of {size} x {size}: {reason} "
            f"Set data.decode.size to a size it takes, such as {native_size(backbone)}."
        ) from error
    if out[0].numel() != out.shape[1]:
        raise RequestError(
            f"model.backbone: {backbone.name} is an encoder without pooling: it gives {tuple(out.shape[1:])} numbers "
            "an image, no embedding. Choose another, such as vit_small_patch16_224."
        )
    network.train(training)
    return int(out.shape[1])


def native_size(backbone: Backbone) -> int:
    """The side of the images that the library's default weights were trained on."""
    return int(about(backbone)["input"][-1])


def about(backbone: Backbone) -> dict[str, Any]:
    """Of the published weights (the named tag's or the default's): input (channels, height, width), mean, std, license
    ('?' where the library does not say) and tag."""
    found: dict[str, Any] = _library(backbone).about(backbone.model, backbone.tag)
    return found


def family(backbone: Backbone) -> str:
    """The module of the library that defines it."""
    return str(_library(backbone).family(backbone.model))


def groups(network: nn.Module, names: list[str], coarse: bool) -> list[float]:
    """For each name of a tensor or module a number that rises from the input to the head; inf: part of the head.

    timm's own grouping where a model has one, otherwise by the order of its blocks.
    """
    found = timm_backbones.groups(network, names, coarse)
    return generic_groups(network, names, coarse) if found is None else found
