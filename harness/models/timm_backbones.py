"""timm's classification models: the only file that imports them."""

import re
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from harness.errors import RequestError
from harness.models.pooling import Pool, PooledFeatures, replace_module
from harness.models.weights import Source

PREVIOUS = 99999.0
"""how timm writes: with the group before"""
UNMATCHED = (float("inf"),)


@cache
def names() -> frozenset[str]:
    """Every architecture's name, without tags."""
    import timm

    return frozenset(timm.list_models())


def tags(model: str) -> list[str]:
    """Tags of published weights, the default one first."""
    from timm.models import get_arch_pretrained_cfgs

    found = [name.partition(".")[2] for name, cfg in get_arch_pretrained_cfgs(model).items() if _is_published(cfg)]
    default = _config(model, "").tag or ""
    return sorted({tag for tag in found if tag}, key=lambda tag: (tag != default, tag))


def source(model: str, tag: str) -> Source | None:
    """Where the weights of a tag are published; '' is the default tag. None where there are none."""
    config = _config(model, tag)
    if not _is_published(config):
        return None
    repository = config.hf_hub_id or ""
    files = (config.hf_hub_filename,) if config.hf_hub_filename else ("model.safetensors", "pytorch_model.bin")
    return Source(config.tag or "pretrained", repository, files if repository else (), config.url or "")


def about(model: str, tag: str = "") -> dict[str, Any]:
    """input (channels, height, width), mean, std, license and tag of the published weights, as far as timm says."""
    config = _config(model, tag)
    return {
        "input": tuple(config.input_size),
        "mean": tuple(config.mean),
        "std": tuple(config.std),
        "license": config.license or "?",
        "tag": config.tag or "",
    }


def _is_published(config: Any) -> bool:
    return bool(config.hf_hub_id or config.url)


def _config(model: str, tag: str) -> Any:
    from timm.models import get_pretrained_cfg

    return get_pretrained_cfg(f"{model}.{tag}" if tag else model, allow_unregistered=True)


def build(model: str, file: Path | None, channels: int, size: int, drop_path: float) -> nn.Module:
    """The model without its classifier, with the weights of a file or new ones.

    Raises RequestError where it has no stochastic depth and some is asked for; OSError, RuntimeError, ValueError or
    KeyError where the file does not fit.
    """
    options: dict[str, Any] = {"num_classes": 0, "in_chans": channels}
    if drop_path > 0:
        options["drop_path_rate"] = drop_path
    if file is None:
        network = _create(model, size, options)
    else:
        # timm's own loader reads safetensors and weights-only files, and adapts stem and position embeddings; its
        # custom loaders are for the .npz files of the original authors
        overlay = {"file": str(file), "hf_hub_id": None, "url": "", "custom_load": file.suffix == ".npz"}
        random_state = torch.get_rng_state()
        network = _create(model, size, {**options, "pretrained": True, "pretrained_cfg_overlay": overlay})
        torch.set_rng_state(random_state)
        _require_loaded(network, _create(model, size, options))
    depths: list[Any] = [module for module in network.modules() if type(module).__name__ == "DropPath"]
    if drop_path > 0 and not any(module.drop_prob for module in depths):
        raise _no_drop_path(model)
    for module in depths if drop_path == 0 else []:
        module.drop_prob = 0.0  # some models have a default of their own
    return network


def _create(model: str, size: int, options: dict[str, Any]) -> nn.Module:
    import timm

    network: nn.Module
    try:
        try:
            network = timm.create_model(model, img_size=size, **options)  # transformers are built for one size
        except TypeError as error:
            if "img_size" not in str(error):
                raise
            network = timm.create_model(model, **options)
    except TypeError as error:
        if "drop_path_rate" in str(error):
            raise _no_drop_path(model) from error
        raise
    return network


def _no_drop_path(model: str) -> RequestError:
    return RequestError(f"model.drop_path: timm/{model} has no stochastic depth. Set model.drop_path=0.")


def _require_loaded(network: nn.Module, plain: nn.Module) -> None:
    """timm skips tensors that a file lacks without a word: a matrix that still has its random start was not loaded."""
    start = dict(plain.named_parameters())
    own = {name: p for name, p in network.named_parameters() if p.ndim > 1}
    missing = [name for name, p in own.items() if torch.equal(p, start[name]) and p.abs().sum() > 0]
    if missing:
        raise ValueError(f"{len(missing)} of {len(own)} weight tensors are not in the file, such as {missing[0]}")


def set_pooling(network: nn.Module, model: str, kind: str) -> PooledFeatures | None:
    """Pool a model in another way: inside of it where it has a module for that (then None), or from outside.

    Raises RequestError where timm says of neither where the feature map or the tokens are.
    """
    from timm.layers import SelectAdaptivePool2d

    own = [(name, module) for name, module in network.named_modules() if isinstance(module, SelectAdaptivePool2d)]
    if len(own) == 1:
        name, module = own[0]
        dims = (1, 2) if getattr(module.pool, "dim", None) == (1, 2) else (2, 3)
        replace_module(network, name, Pool(kind, dims, keepdim=not isinstance(module.flatten, nn.Flatten)))
        return None
    if isinstance(getattr(network, "num_prefix_tokens", None), int) and hasattr(network, "forward_features"):
        if getattr(network, "attn_pool", None) is not None:
            network.register_module("attn_pool", None)  # nothing goes through it any more
        has_norm = isinstance(getattr(network, "fc_norm", None), nn.Module)
        return PooledFeatures(kind, (1,), _tokens, norm="fc_norm" if has_norm else "")
    raise RequestError(
        f"model.pooling: {kind}: timm/{model} has no feature map and no plain sequence of tokens that could be pooled "
        "in another way than its own. Set model.pooling=native."
    )


def _tokens(backbone: nn.Module, x_BCHW: Tensor) -> Tensor:
    """(B, N, C) without class tokens and registers; a feature map that keeps its two dimensions is laid out."""
    features: Tensor = backbone.forward_features(x_BCHW)  # type: ignore[operator]
    if features.ndim == 4:
        features = features.flatten(1, 2)
    prefix = backbone.num_prefix_tokens
    return features[:, int(prefix) :] if prefix else features  # type: ignore[arg-type]


def groups(network: nn.Module, tensor_names: list[str], coarse: bool) -> list[float] | None:
    """For each name a number that rises from the input to the head, by timm's own grouping; inf: not in any group.

    None where the model has no such grouping. `coarse`: stages; otherwise blocks, the layers of layer decay.
    """
    matcher = getattr(network, "group_matcher", None)
    if matcher is None or (coarse and type(network).__name__ == "VGG"):  # each of VGG's layers would be a stage
        return None
    try:
        rules = matcher(coarse=coarse)
    except (AssertionError, NotImplementedError):
        return None
    ordinals = [_ordinal(rules, name) for name in tensor_names]
    numbers: dict[tuple[float, ...], float] = {}
    number = -1
    for ordinal in sorted(set(ordinals)):
        if ordinal[-1] != PREVIOUS or number < 0:
            number += 1
        numbers[ordinal] = float("inf") if ordinal == UNMATCHED else number
    return [numbers[ordinal] for ordinal in ordinals]


def _ordinal(rules: Any, name: str) -> tuple[float, ...]:
    """timm.models._manipulate.group_with_matcher's rule for one name."""
    if not isinstance(rules, dict):
        found = rules(name)
        return tuple(map(float, found)) if isinstance(found, tuple | list) else (float(found),)
    for number, rule in enumerate(rules.values()):
        if rule is None:
            continue
        for pattern, suffix in rule if isinstance(rule, tuple | list) else [(rule, None)]:
            match = re.match(pattern, name)
            if match:
                own = [float(part) for part in match.groups() if part is not None]
                return (float(number), *own, *(map(float, suffix) if suffix else ()))
    return UNMATCHED


def family(model: str) -> str:
    """The module of timm that a model is defined in: resnet, vision_transformer."""
    from timm.models import model_entrypoint

    return str(model_entrypoint(model).__module__).rpartition(".")[2]
