"""A network in stages from the input to the head: what train.freeze freezes; and in layers, for layer-wise rates.

Stages are a library's coarse groups (a ResNet's stem, layer1 to layer4; a transformer's blocks), layers its fine ones.
"""

import math
from dataclasses import dataclass

from torch import nn

from harness.errors import RequestError
from harness.models.backbones import groups
from harness.models.network import Network
from harness.models.pooling import pool_parameters

STOCHASTIC = ("Drop", "StochasticDepth")
"""parts of the names of modules that act at random in training"""


@dataclass(frozen=True)
class Stage:
    name: str
    """stem, head, or where it sits in the backbone: layer1, blocks.3"""
    parameters: int
    """numbers that training could change"""
    modules: tuple[str, ...]
    """the submodules of the network that belong to it whole, outermost ones only"""
    tensors: tuple[str, ...]
    """names of its parameters and buffers in the network"""


def stages(network: Network) -> list[Stage]:
    """From the input to the head. Every parameter and every buffer is in exactly one stage.

    The last is the head with what sits behind the last block of the backbone (a last norm, a pooling's exponent).
    Class tokens and position embeddings belong to the stem.
    """
    modules = [name for name, _ in network.named_modules() if name]
    number = _numbers(network, [*_tensors(network), *modules], coarse=True)
    tensors: dict[float, list[str]] = {}
    for name in _tensors(network):
        tensors.setdefault(number[name], []).append(name)
    owned = _whole_modules(network, number, set(tensors))
    sizes = {name: parameter.numel() for name, parameter in network.named_parameters()}
    found = []
    for place, key in enumerate(sorted(tensors)):
        name = "stem" if place == 0 else "head" if key == math.inf else _name(tensors, key)
        count = sum(sizes.get(tensor, 0) for tensor in tensors[key])
        found.append(Stage(name, count, tuple(owned.get(key, [])), tuple(tensors[key])))
    return found


def _tensors(network: nn.Module) -> list[str]:
    return [name for name, _ in network.named_parameters()] + [name for name, _ in network.named_buffers()]


def _numbers(network: Network, names: list[str], coarse: bool) -> dict[str, float]:
    """Group numbers by full name; whatever is not the backbone's is the head's."""
    pooling = pool_parameters(network)
    prefix = "backbone."
    inside = [name for name in names if name.startswith(prefix) and name not in pooling]
    found = groups(network.backbone, [name.removeprefix(prefix) for name in inside], coarse)
    return {**dict.fromkeys(names, math.inf), **dict(zip(inside, found, strict=True))}


def _whole_modules(network: Network, number: dict[str, float], keys: set[float]) -> dict[float, list[str]]:
    """By stage, the outermost submodules all of whose tensors and random parts belong to it."""
    owners: dict[str, set[float]] = {}
    for name, module in network.named_modules():
        direct = [tensor for tensor, _ in module.named_parameters(recurse=False)]
        direct += [tensor for tensor, _ in module.named_buffers(recurse=False)]
        found = {number[f"{name}.{tensor}".lstrip(".")] for tensor in direct}
        if not found and type(module).__name__.startswith(STOCHASTIC):
            found = {number[name] if number[name] in keys else math.inf}
        parts = name.split(".")
        for end in range(len(parts) + 1):
            owners.setdefault(".".join(parts[:end]), set()).update(found)
    owned: dict[float, list[str]] = {}
    for name, own in owners.items():
        outer = owners[name.rpartition(".")[0]]
        if name and len(own) == 1 and (len(outer) > 1 or "." not in name):
            owned.setdefault(next(iter(own)), []).append(name)
    return owned


def _name(tensors: dict[float, list[str]], key: float) -> str:
    """The shortest path that begins a tensor of a stage and no tensor of another one."""
    own = [name.removeprefix("backbone.") for name in tensors[key]]
    others = [name.removeprefix("backbone.") for other, names in tensors.items() if other != key for name in names]
    for tensor in own:
        parts = tensor.split(".")
        for end in range(1, len(parts)):
            path = ".".join(parts[:end])
            if not any(name.startswith(f"{path}.") for name in others):
                return path
    return own[0]


def freeze(network: Network, level: int) -> None:
    """Let the first `level` stages stand still and all others train: requires_grad. Raises RequestError as `require`
    does."""
    found = require_level(network, level)
    frozen = {tensor for stage in found[:level] for tensor in stage.tensors}
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(name not in frozen)


def training_mode(network: Network, level: int) -> None:
    """Training mode, but for the first `level` stages, whose batch-norm statistics, dropout and stochastic depth stand
    still: they are in evaluation mode."""
    network.train()
    for stage in require_level(network, level)[:level]:
        for name in stage.modules:
            network.get_submodule(name).eval()


def layers(network: Network) -> dict[str, int]:
    """For each parameter the number of its layer, 0 in the stem, the largest in the head.

    The numbers of timm.optim.param_groups_layer_decay for timm's models, so that layer n of L has the learning rate
    lr * layer_decay ** (L - n) (Clark et al. 2020, ELECTRA; Bao et al. 2022, BEiT).
    """
    names = [name for name, _ in network.named_parameters()]
    number = _numbers(network, names, coarse=False)
    order = {key: place for place, key in enumerate(sorted(set(number.values())))}
    return {name: order[number[name]] for name in names}


def require_level(network: Network, level: int) -> list[Stage]:
    """The stages. Raises RequestError with a table of them where `level` is larger than the number of stages but the
    head."""
    found = stages(network)
    if 0 <= level < len(found):
        return found
    table = "\n".join(f"  {line}" for line in stage_lines(found))
    raise RequestError(
        f"train.freeze: {level}, but this backbone has {len(found) - 1} stages before its head, which always trains. "
        f"Set train.freeze to a number from 0 to {len(found) - 1}:\n{table}"
    )


def stage_lines(found: list[Stage]) -> list[str]:
    """One line for each level of train.freeze: what it freezes and how many parameters it leaves to train."""
    left = sum(stage.parameters for stage in found)
    lines = [f"{'train.freeze':>12}  {'freezes up to':<24}  {'left to train':>13}"]
    lines.append(f"{0:>12}  {'nothing':<24}  {left:>13,}")
    for level, stage in enumerate(found[:-1], start=1):
        left -= stage.parameters
        lines.append(f"{level:>12}  {stage.name:<24}  {left:>13,}")
    return lines
