"""Where a network last looks at places of the image: the layer that Grad-CAM asks.

A convolutional network's is its last feature map. A transformer that reads its class token has it earlier: behind the
last attention no other token matters any more, so the tokens that this attention is given are asked (for timm's and
torchvision's ViTs the first norm of the last block). Nothing is known of a library here: modules are watched while one
image goes through, and of the maps whose every place has a gradient the last one is taken that has SIDE places along
each side. Small images leave the very last map 2 x 2 places, too few to point at anything: on the built-in data set at
64 pixels a ResNet's last map pointed at the bleed in 2 % of the images, the last one of 8 x 8 places in 77 %.

B: images, C: channels, h, w: sides of the map, N: tokens.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from harness.errors import RequestError
from harness.models.network import Network

INNER = ("attn", "attention", "mlp", "conv_dw", "drop", "ls1", "ls2")
"""parts of names of modules inside a block, which hold a piece of a map and not the map"""
SIDE = 7
"""places along a side that a map should have; 224 pixels leave most networks 7"""
TOUCHED = 0.9
"""share of the places that must have a gradient; rectifiers may leave some without"""


@dataclass(frozen=True)
class Layout:
    """How a tensor holds a map: bchw, bhwc, or bnc with `prefix` tokens (class, registers) before those of places."""

    kind: str
    height: int
    width: int
    prefix: int = 0

    @property
    def side(self) -> int:
        return min(self.height, self.width)

    def to_map(self, x: Tensor) -> Tensor:
        """(B, C, h, w)"""
        if self.kind == "bchw":
            return x
        if self.kind == "bhwc":
            return x.permute(0, 3, 1, 2)
        tokens = x[:, self.prefix :].transpose(1, 2)
        return tokens.reshape(*tokens.shape[:2], self.height, self.width)

    def put_back(self, maps: Tensor, x: Tensor) -> Tensor:
        """`x` with `maps` (B, C, h, w) in the places of its own; a copy, for what comes next may work in place."""
        if self.kind == "bchw":
            return maps.clone()
        if self.kind == "bhwc":
            return maps.permute(0, 2, 3, 1).clone()
        return torch.cat([x[:, : self.prefix], maps.flatten(2).transpose(1, 2)], dim=1)


@dataclass(frozen=True)
class FeatureMap:
    name: str
    """of the module in the network"""
    layout: Layout


def find_feature_map(network: Network, x_BCHW: Tensor) -> FeatureMap:
    """The last map of SIDE places a side that the answer to `x_BCHW` depends on, place by place; where all are smaller,
    the last of the largest. Raises RequestError where there is none."""
    seen: list[tuple[str, Tensor, Layout]] = []

    def watch(name: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Any) -> Tensor | None:
            layout = layout_of(output, x_BCHW) if isinstance(output, Tensor) else None
            if layout is None or not output.requires_grad:
                return None
            seen.append((name, output, layout))
            copy: Tensor = output.clone()
            return copy  # what comes next may work in place

        return hook

    handles = [
        module.register_forward_hook(watch(name))
        for name, module in network.named_modules()
        if name and not any(part.startswith(INNER) for part in name.split("."))
    ]
    try:
        with torch.enable_grad():
            answer = network(x_BCHW[:1].detach().requires_grad_()).square().sum()
            tensors = [tensor for _, tensor, _ in seen]
            gradients = torch.autograd.grad(answer, tensors, allow_unused=True) if seen else ()
    finally:
        for handle in handles:
            handle.remove()
    best: FeatureMap | None = None
    for (name, _, layout), gradient in zip(reversed(seen), reversed(gradients), strict=True):
        if gradient is None or (layout.to_map(gradient).abs().amax(dim=1) > 0).float().mean() < TOUCHED:
            continue
        if best is None or layout.side > best.layout.side:
            best = FeatureMap(name, layout)
        if best.layout.side >= SIDE or best.layout.kind == "bnc":  # tokens stay as many as they were at the start
            break
    if best is not None:
        return best
    raise RequestError(
        f"--explain: {type(network.backbone).__name__} has no feature map and no tokens of places that could be asked "
        "for a heat map. Predict without --explain, or build a bundle of other members."
    )


def layout_of(x: Tensor, image_BCHW: Tensor) -> Layout | None:
    """How `x` holds a map of the places of an image, or None where it holds none: one place is no map."""
    height, width = image_BCHW.shape[2:]
    if x.ndim == 4:
        found = [
            Layout(kind, h, w)
            for kind, h, w in (("bchw", *x.shape[2:]), ("bhwc", *x.shape[1:3]))
            if h * w > 1 and abs(h * width - w * height) <= max(height, width)  # the image's own proportions
        ]
        # both fit only where channels are as many as a side is long: more common is channels first
        return found[0] if found else None
    if x.ndim == 3 and height == width and x.shape[1] > 4:
        side = math.isqrt(x.shape[1])
        return Layout("bnc", side, side, x.shape[1] - side * side)
    return None


@contextmanager
def exposed(network: Network, where: FeatureMap) -> Iterator[nn.Identity]:
    """A module that the map goes through as (B, C, h, w) on its way, for whoever explains layers of that shape."""
    probe = nn.Identity()

    def hook(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        return where.layout.put_back(probe(where.layout.to_map(output)), output)

    handle = network.get_submodule(where.name).register_forward_hook(hook)
    try:
        yield probe
    finally:
        handle.remove()
