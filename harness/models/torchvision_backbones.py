"""torchvision's classification models: the only file that imports them."""

from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from harness.errors import RequestError
from harness.models.pooling import Pool, PooledFeatures, replace_module
from harness.models.weights import Source, load_tensors, read_state

AUXILIARY = ("AuxLogits", "aux1", "aux2")


@cache
def names() -> frozenset[str]:
    """Every classification model's name."""
    from torchvision import models

    return frozenset(models.list_models(module=models))


def tags(model: str) -> list[str]:
    """Tags of published weights, the default one first."""
    from torchvision import models

    weights = models.get_model_weights(model)
    default = weights.DEFAULT.name
    found: list[str] = [entry.name for entry in weights]
    return sorted(found, key=lambda tag: (tag != default, tag))


def source(model: str, tag: str) -> Source:
    """Where the weights of a tag are published; '' is the default tag."""
    from torchvision import models

    chosen = models.get_model_weights(model)[tag or tags(model)[0]]
    return Source(chosen.name, url=chosen.url)


def about(model: str, tag: str = "") -> dict[str, Any]:
    """input (channels, height, width), mean, std, license and tag of the published weights, as far as known."""
    from torchvision import models

    chosen = models.get_model_weights(model)[tag or tags(model)[0]]
    transforms = chosen.transforms()
    side = transforms.crop_size[0]
    return {
        "input": (3, side, side),
        "mean": tuple(transforms.mean),
        "std": tuple(transforms.std),
        "license": "?",
        "tag": chosen.name,
    }


def build(model: str, file: Path | None, channels: int, size: int, drop_path: float) -> nn.Module:
    """The model without its classifier, with the weights of a file or new ones.

    Raises RequestError where it has no stochastic depth and some is asked for, or no classifier to take away; OSError,
    RuntimeError, ValueError or KeyError where the file does not fit.
    """
    from torchvision import models

    options: dict[str, Any] = {}
    if model.startswith("vit_"):
        options["image_size"] = size
    if model.startswith("maxvit"):
        options["input_size"] = (size, size)
    if model in ("inception_v3", "googlenet"):
        options.update(aux_logits=False, init_weights=file is None, transform_input=False)
    network: nn.Module = models.get_model(model, weights=None, **options)
    if file is not None:
        _load(network, model, file, size)
    _set_drop_path(network, model, drop_path)
    _drop_classifier(network, model)
    if channels != 3:
        _adapt_stem(network, channels, summed=file is not None)
    return network


def _set_drop_path(network: nn.Module, model: str, drop_path: float) -> None:
    """Scale the library's own rates, which rise with depth, so that the last block's is `drop_path`."""
    depths: list[Any] = [module for module in network.modules() if type(module).__name__ == "StochasticDepth"]
    largest = max((module.p for module in depths), default=0.0)
    if drop_path > 0 and largest == 0:
        raise RequestError(f"model.drop_path: torchvision/{model} has no stochastic depth. Set model.drop_path=0.")
    for module in depths:
        module.p = module.p / largest * drop_path if largest else 0.0


def _load(network: nn.Module, model: str, file: Path, size: int) -> None:
    """Every tensor but the classifier's must be there and fit; a ViT's position embeddings are resized."""
    state = read_state(file)
    if model.startswith("vit_") and "encoder.pos_embedding" in state:
        from torchvision.models.vision_transformer import interpolate_embeddings

        state = interpolate_embeddings(size, int(network.patch_size), state)  # type: ignore[arg-type]
    own = network.state_dict()
    last = _classifier(network)
    fitting = {k: v for k, v in state.items() if k in own and v.shape == own[k].shape}
    missing = [name for name in own if name not in fitting and not name.startswith(f"{last}.")]
    if missing:
        raise ValueError(f"{len(missing)} tensors are missing or of another shape, such as {missing[0]}")
    strange = [name for name in state if name not in own and not name.startswith(AUXILIARY)]
    if strange:
        raise ValueError(f"the file has {len(strange)} tensors that the model has not, such as {strange[0]}")
    for name in set(state) - set(fitting):  # of the classifier; what remains keeps its note of versions
        del state[name]
    load_tensors(network, state, strict=False)


def _classifier(network: nn.Module) -> str:
    """The name of the last layer with weights."""
    layers: list[str] = [n for n, module in network.named_modules() if isinstance(module, nn.Linear | nn.Conv2d)]
    return layers[-1]


def _drop_classifier(network: nn.Module, model: str) -> None:
    """Replace the last linear layer, and the dropout before it, by the identity: the network returns embeddings."""
    last = _classifier(network)
    if isinstance(network.get_submodule(last), nn.Conv2d):  # squeezenet classifies by convolution
        raise RequestError(
            f"model.backbone: torchvision/{model} classifies by a convolution and gives no embedding. Choose another "
            "small network, such as mobilenetv3_small_100."
        )
    layers = [name for name, module in network.named_modules() if not any(True for _ in module.children())]
    before = layers[layers.index(last) - 1]
    if isinstance(network.get_submodule(before), nn.Dropout):  # model.dropout is the one before the head
        replace_module(network, before, nn.Identity())
    replace_module(network, last, nn.Identity())


def _adapt_stem(network: nn.Module, channels: int, summed: bool) -> None:
    """Make the first convolution take `channels`: learnt weights are summed over colours (scaled for more than one)."""
    name, stem = next((n, m) for n, m in network.named_modules() if isinstance(m, nn.Conv2d))
    new = nn.Conv2d(
        channels,
        stem.out_channels,
        stem.kernel_size,  # type: ignore[arg-type]
        stem.stride,  # type: ignore[arg-type]
        stem.padding,  # type: ignore[arg-type]
        stem.dilation,  # type: ignore[arg-type]
        stem.groups,
        stem.bias is not None,
    )
    if summed:
        with torch.no_grad():
            new.weight.copy_(stem.weight.sum(1, keepdim=True).expand(-1, channels, -1, -1) / channels)
            if stem.bias is not None and new.bias is not None:
                new.bias.copy_(stem.bias)
    replace_module(network, name, new)


def set_pooling(network: nn.Module, model: str, kind: str) -> PooledFeatures | None:
    """Pool a model in another way: inside of it where it has a module for that (then None), or from outside.

    Raises RequestError where neither is possible.
    """
    for prefix, features, dims in (
        ("densenet", _densenet_map, (2, 3)),
        ("mobilenet_v2", _mobilenet_map, (2, 3)),
        ("mnasnet", _mnasnet_map, (2, 3)),
        ("shufflenet", _shufflenet_map, (2, 3)),
        ("vit_", _vit_tokens, (1,)),
    ):
        if model.startswith(prefix):
            return PooledFeatures(kind, dims, features)
    own = [name for name, module in network.named_modules() if isinstance(module, nn.AdaptiveAvgPool2d)]
    last = own[-1] if own else ""
    size = getattr(network.get_submodule(last), "output_size", None)
    if last not in ("avgpool", "classifier.0") or size not in (1, (1, 1)):
        raise RequestError(
            f"model.pooling: {kind}: torchvision/{model} has no pooling of its feature map to one place that could be "
            "replaced. Set model.pooling=native, or use timm's model."
        )
    replace_module(network, last, Pool(kind, (2, 3), keepdim=True))
    return None


def _densenet_map(backbone: nn.Module, x_BCHW: Tensor) -> Tensor:
    return F.relu(backbone.get_submodule("features")(x_BCHW))


def _mobilenet_map(backbone: nn.Module, x_BCHW: Tensor) -> Tensor:
    features: Tensor = backbone.get_submodule("features")(x_BCHW)
    return features


def _mnasnet_map(backbone: nn.Module, x_BCHW: Tensor) -> Tensor:
    features: Tensor = backbone.get_submodule("layers")(x_BCHW)
    return features


def _shufflenet_map(backbone: nn.Module, x_BCHW: Tensor) -> Tensor:
    for name in ("conv1", "maxpool", "stage2", "stage3", "stage4", "conv5"):
        x_BCHW = backbone.get_submodule(name)(x_BCHW)
    return x_BCHW


def _vit_tokens(backbone: Any, x_BCHW: Tensor) -> Tensor:
    """The patches' tokens (B, N, C), without the class token; as in VisionTransformer.forward."""
    x = backbone._process_input(x_BCHW)
    x = torch.cat([backbone.class_token.expand(len(x), -1, -1), x], dim=1)
    tokens: Tensor = backbone.encoder(x)[:, 1:]
    return tokens


def family(model: str) -> str:
    """The module of torchvision that a model is defined in: resnet, vision_transformer."""
    from torchvision import models

    return str(models.get_model_builder(model).__module__).rpartition(".")[2]
