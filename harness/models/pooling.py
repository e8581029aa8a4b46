"""From a feature map or a sequence of tokens to one embedding: mean, maximum, both, or GeM. Knows no library."""

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
