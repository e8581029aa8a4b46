"""torchvision's and timm's classification backbones behind one table: the only file that imports their models.

A name is `resnet18`, or `timm/resnet18` and `torchvision/resnet18` where one library is meant. Without a prefix timm
is asked first: it adapts every model to the number of input channels and to the image size by itself.
"""

import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from harness.errors import RequestError, nearest

LIBRARIES = ("timm", "torchvision")


def list_backbones(pattern: str | None = None) -> list[str]:
    """Names with their library, e.g. 'timm/resnet10t'; only those that contain `pattern`."""
    import timm
    from torchvision import models

    names = [f"timm/{name}" for name in timm.list_models()]
    names += [f"torchvision/{name}" for name in models.list_models(module=models)]
    return [name for name in names if pattern is None or pattern.lower() in name.lower()]


def resolve(name: str) -> tuple[str, str]:
    """(library, model name). Raises RequestError with the nearest known names."""
    import timm
    from torchvision import models

    library, slash, rest = name.partition("/")
    if slash and library not in LIBRARIES:
        raise RequestError(f"model.backbone: {name!r}: the library is {' or '.join(LIBRARIES)}, not {library!r}.")
    known = {"timm": timm.list_models, "torchvision": lambda: models.list_models(module=models)}
    for candidate in (library,) if slash else LIBRARIES:
        model = rest if slash else name
        if model in known[candidate]():
            return candidate, model
        if candidate == "timm" and model.partition(".")[0] in known["timm"]():  # resnet18.a1_in1k: a weights tag
            return candidate, model
    near = nearest(rest if slash else name, {*known["timm"](), *known["torchvision"]()})
    raise RequestError(
        f"model.backbone: no backbone named {name!r}.{near} "
        f"`harness models list --filter {name.split('/')[-1][:6]}` shows names."
    )


def check_weights_file(weights: str) -> None:
    """Raises RequestError when `weights` is a path and no file is there."""
    if weights not in ("none", "pretrained") and not Path(weights).is_file():
        raise RequestError(
            f"model.weights: no file at {weights}. Write none, pretrained, or the path of a .pth or .safetensors file."
        )


def build_backbone(name: str, weights: str, channels: int, size: int, drop_path: float = 0.0) -> tuple[nn.Module, int]:
    """A backbone that maps x_BCHW (B, channels, size, size) to pooled embeddings (B, D), and D.

    `weights` is 'none', 'pretrained' (the library's file from its own cache) or a path. Raises RequestError when the
    name, the weights or the size do not fit.
    """
    library, model = resolve(name)
    check_weights_file(weights)
    build = _timm if library == "timm" else _torchvision
    backbone = build(model, weights, channels, size, drop_path)
    return backbone, _embedding_size(backbone, name, channels, size)


def _embedding_size(backbone: nn.Module, name: str, channels: int, size: int) -> int:
    """D, by showing the backbone one empty image: also proves that it takes this size."""
    training = backbone.training
    backbone.eval()
    try:
        with torch.no_grad():
            out = backbone(torch.zeros(1, channels, size, size))
    except (RuntimeError, AssertionError, ValueError) as error:
        reason = (str(error).strip().splitlines() or ["no reason given"])[0]
        raise RequestError(
            f"model.backbone: {name} cannot take images of {size} x {size}: {reason} "
            f"Set data.decode.size to a size it takes, such as {_native_size(backbone)}."
        ) from error
    backbone.train(training)
    return int(out.shape[1])


def _native_size(backbone: nn.Module) -> int:
    config: Any = getattr(backbone, "pretrained_cfg", None) or {}
    return int((config.get("input_size") or (3, 224, 224))[-1])


def _timm(model: str, weights: str, channels: int, size: int, drop_path: float) -> nn.Module:
    options: dict[str, Any] = {"num_classes": 0, "in_chans": channels}
    if drop_path > 0:
        options["drop_path_rate"] = drop_path
    if weights != "none":
        options["pretrained"] = True
    if weights not in ("none", "pretrained"):
        # timm's own loader reads safetensors and weights-only files, and adapts stem and position embeddings
        options["pretrained_cfg_overlay"] = {"file": weights, "hf_hub_id": None, "url": ""}
    try:
        random_state = torch.get_rng_state()
        network = _create_timm(model, size, options)
        if weights not in ("none", "pretrained"):
            torch.set_rng_state(random_state)
            plain = _create_timm(model, size, {**options, "pretrained": False, "pretrained_cfg_overlay": None})
            _check_loaded(network, plain)
        return network
    except TypeError as error:
        if "drop_path_rate" in str(error):
            raise RequestError(f"model.drop_path: {model} has no stochastic depth. Set model.drop_path=0.") from error
        raise
    except (OSError, RuntimeError, ValueError, KeyError) as error:
        raise _weights_refused(f"timm/{model}", weights, error) from error


def _create_timm(model: str, size: int, options: dict[str, Any]) -> nn.Module:
    import timm

    network: nn.Module
    try:
        network = timm.create_model(model, img_size=size, **options)  # transformers are built for one size
    except TypeError as error:
        if "img_size" not in str(error):
            raise
        network = timm.create_model(model, **options)
    return network


def _check_loaded(network: nn.Module, plain: nn.Module) -> None:
    """timm skips tensors that a file lacks without a word: a matrix that still has its random start was not loaded."""
    start = dict(plain.named_parameters())
    own = {name: p for name, p in network.named_parameters() if p.ndim > 1}
    missing = [name for name, p in own.items() if torch.equal(p, start[name]) and p.abs().sum() > 0]
    if missing:
        raise ValueError(f"{len(missing)} of {len(own)} weight tensors are not in the file, such as {missing[0]}")


def _torchvision(model: str, weights: str, channels: int, size: int, drop_path: float) -> nn.Module:
    from torchvision import models

    options: dict[str, Any] = {"stochastic_depth_prob": drop_path} if drop_path > 0 else {}
    if model.startswith("vit_"):
        options["image_size"] = size
    if model in ("inception_v3", "googlenet"):
        options.update(aux_logits=False, init_weights=True, transform_input=False)
    if drop_path > 0 and not any(model.startswith(family) for family in ("convnext", "efficientnet", "swin", "maxvit")):
        raise RequestError(f"model.drop_path: torchvision/{model} has no stochastic depth. Set model.drop_path=0.")
    try:
        if weights == "pretrained":
            options.pop("image_size", None)
            network: nn.Module = models.get_model(model, weights="DEFAULT", **options)
        else:
            network = models.get_model(model, weights=None, **options)
            if weights != "none":
                _load_torchvision(network, weights)
    except (OSError, RuntimeError, ValueError, KeyError) as error:
        raise _weights_refused(f"torchvision/{model}", weights, error) from error
    _drop_classifier(network)
    if channels != 3:
        _adapt_stem(network, channels, summed=weights != "none")
    return network


def _load_torchvision(network: nn.Module, weights: str) -> None:
    """Every tensor but the classifier's must be there and fit."""
    state = read_state(Path(weights))
    own = network.state_dict()
    classifier = [name for name in own if name.split(".")[0] in ("fc", "classifier", "head", "heads")]
    fitting = {k: v for k, v in state.items() if k in own and (k not in classifier or v.shape == own[k].shape)}
    missing = [name for name in own if name not in fitting and name not in classifier]
    if missing:
        raise ValueError(f"{len(missing)} tensors are missing, such as {missing[0]}")
    network.load_state_dict(fitting, strict=False)


def read_state(path: Path) -> dict[str, Tensor]:
    """A state dict from .safetensors or a weights-only .pth: no code in the file is run."""
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return dict(load_file(path))
    state: Any = torch.load(path, map_location="cpu", weights_only=True)
    return dict(state.get("state_dict", state.get("model", state)))


def _drop_classifier(network: nn.Module) -> None:
    """Replace the last linear layer by the identity, so that the network returns embeddings."""
    last = [name for name, module in network.named_modules() if isinstance(module, nn.Linear | nn.Conv2d)][-1]
    parent = network.get_submodule(last.rpartition(".")[0])
    if isinstance(network.get_submodule(last), nn.Conv2d):  # squeezenet classifies by convolution
        raise RequestError("model.backbone: this torchvision model has no linear classifier to replace; use timm's.")
    setattr(parent, last.rpartition(".")[2], nn.Identity())


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
    setattr(network.get_submodule(name.rpartition(".")[0]), name.rpartition(".")[2], new)


def _weights_refused(name: str, weights: str, error: Exception) -> RequestError:
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    if weights == "pretrained":
        hub = Path(os.environ.get("HF_HOME", "~/.cache/huggingface")).expanduser() / "hub"
        torch_hub = Path(torch.hub.get_dir()) / "checkpoints"
        return RequestError(
            f"model.weights: the pretrained weights of {name} are neither in a cache ({hub}, {torch_hub}) nor can they "
            f"be downloaded ({reason}). Download them elsewhere and set model.weights=PATH, or set model.weights=none."
        )
    return RequestError(f"model.weights: {weights} does not fit {name}: {reason}")
