"""Blocks of a backbone, and how its features become one embedding: pooling.

From a feature map or a sequence of tokens to one embedding: mean, maximum, both, or GeM. Knows no library.

Which block of a backbone a tensor belongs to, where the library itself does not say. Knows no library.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

LEAST = 1e-6
"""GeM takes roots: values below this count as this"""

Features = Callable[[nn.Module, Tensor], Tensor]
"""features(backbone, x_BCHW) -> what to pool: (B, C, H, W), (B, H, W, C) or (B, N, C)"""


class Pool(nn.Module):
    """The reduction of a tensor over its places `dims`: (B, C, H, W) by (2, 3), (B, H, W, C) and (B, N, C) by theirs.

    kind: avg; max; avgmax, the mean of both; or gem, the generalised mean (mean x^p)^(1/p) with one learnt exponent p
    that starts at 3 (Radenovic, Tolias and Chum 2019, eq. 3), for which values below LEAST count as LEAST.
    """

    def __init__(self, kind: str, dims: tuple[int, ...], keepdim: bool = False) -> None:
        super().__init__()
        self.kind, self.dims, self.keepdim = kind, dims, keepdim
        self.exponent = nn.Parameter(torch.full((1,), 3.0)) if kind == "gem" else None

    def forward(self, x: Tensor) -> Tensor:
        if self.exponent is not None:  # in fp32: a cube leaves the range of fp16
            exponent = self.exponent.float()
            powers = x.float().clamp(min=LEAST).pow(exponent)
            return powers.mean(self.dims, self.keepdim).pow(1.0 / exponent).to(x.dtype)
        if self.kind == "avg":
            return x.mean(self.dims, self.keepdim)
        if self.kind == "max":
            return x.amax(self.dims, self.keepdim)
        return 0.5 * (x.mean(self.dims, self.keepdim) + x.amax(self.dims, self.keepdim))


class PooledFeatures(nn.Module):
    """Pooling from outside of a backbone, where the library has no module for it: features, pool, the last norm."""

    def __init__(self, kind: str, dims: tuple[int, ...], features: Features, norm: str = "") -> None:
        super().__init__()
        self.pool = Pool(kind, dims)
        self.features = features
        self.norm = norm
        """name of a norm of the backbone that comes after pooling, '' where there is none"""

    def forward(self, backbone: nn.Module, x_BCHW: Tensor) -> Tensor:
        """(B, D)"""
        pooled: Tensor = self.pool(self.features(backbone, x_BCHW))
        if self.norm:
            pooled = getattr(backbone, self.norm)(pooled)
        return pooled


def pool_parameters(module: nn.Module) -> set[str]:
    """Names of the parameters that belong to pooling, wherever in a network it sits."""
    return {f"{name}.exponent".lstrip(".") for name, m in module.named_modules() if isinstance(m, Pool) and m.exponent}


def replace_module(network: nn.Module, name: str, new: nn.Module) -> None:
    """Put `new` where the submodule `name` is."""
    parent, _, child = name.rpartition(".")
    setattr(network.get_submodule(parent), child, new)


CONTAINERS = ("features", "layers", "trunk_output", "encoder", "blocks", "stages", "dense_stages", "transformers")
"""submodules that only hold the blocks of a network one after another"""
HEADS = ("head", "heads", "fc")


def generic_groups(backbone: nn.Module, names: list[str], coarse: bool) -> list[float]:
    """For each name of a tensor or module a number that rises from the input (0) to the head (inf).

    The order is that of definition, which in torchvision is that of the forward pass. A stage is a composite block, or
    a run of single layers up to a pooling (VGG); norms belong to what comes before them, tokens and position embeddings
    to the stem. Not `coarse`: the blocks within the stages.
    """
    numbered = _numbered(backbone, coarse)
    return [_number(name, numbered) for name in names]


def _number(name: str, numbered: list[tuple[str, float]]) -> float:
    if name.split(".")[0] in HEADS:
        return float("inf")
    return next((n for unit, n in reversed(numbered) if name == unit or name.startswith(f"{unit}.")), 0.0)


def _units(module: nn.Module, prefix: str = "") -> list[tuple[str, nn.Module]]:
    """The blocks and single layers of a network, its containers opened."""
    found: list[tuple[str, nn.Module]] = []
    for name, child in module.named_children():
        path = f"{prefix}{name}"
        found += _units(child, f"{path}.") if name in CONTAINERS else [(path, child)]
    return found


def _numbered(backbone: nn.Module, coarse: bool) -> list[tuple[str, float]]:
    numbered: list[tuple[str, float]] = []
    number, open_run = 0, True
    """open_run: single layers may still join the current number"""
    for place, (name, unit) in enumerate(_units(backbone)):
        if any(True for _ in unit.children()):
            parts = [] if coarse or not _holds_blocks(unit) else list(unit.named_children())
            number += place > 0 and any(p.ndim > 1 for p in unit.parameters())
            numbered.append((name, number))
            for inner, (child, _) in enumerate(parts):
                number += inner > 0
                numbered.append((f"{name}.{child}", number))
            open_run = False
            continue
        weight = getattr(unit, "weight", None)
        if isinstance(weight, nn.Parameter) and weight.ndim > 1 and not open_run:
            number, open_run = number + 1, True
        numbered.append((name, number))
        if "Pool" in type(unit).__name__:
            open_run = False
    return numbered


def _holds_blocks(unit: nn.Module) -> bool:
    """A sequence whose parts are themselves composite: a stage of residual blocks."""
    if not isinstance(unit, nn.Sequential | nn.ModuleList | nn.ModuleDict):
        return False
    return sum(any(True for _ in child.children()) for child in unit.children()) > 1
