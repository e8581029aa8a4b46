"""Images on their way to the network: one tensor of equal sizes, or images of their own sizes, padded batch by batch.

An image of its own size is laid in the middle of a canvas whose sides are multiples of STRIDE; around it stands the
training rows' mean grey level, which normalisation turns into 0: neutral. For scoring, a batch holds one size of
canvas, which depends on the image alone, so what else is predicted with it changes nothing but the last digits of sums.
For training, a batch holds images of similar sizes on the largest canvas among them.

n: images, B: images of a batch, S, H, W: sides.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from harness.ragged import Pixels, Ragged

STRIDE = 32
"""what common networks divide an image's sides by"""
WINDOW = 16
"""batches whose images are sorted by size together: more waste less padding, fewer shuffle better"""


@dataclass(frozen=True)
class Square:
    """n images of one size, on the device."""

    x: Tensor
    """(n, channels, S, S) uint8"""

    def batch(self, rows: Tensor) -> Tensor:
        """(B, channels, S, S) uint8 on the device."""
        return self.x[rows.to(self.x.device)]

    def epoch(self, order: Tensor, batch_size: int, seed: int) -> list[Tensor]:
        """An epoch's batches: the rows of `order` (n,), in which rows may be repeated, as they come."""
        return batches(order, batch_size)

    def in_order(self, batch_size: int) -> Sequence[Tensor]:
        return torch.split(torch.arange(len(self.x)), batch_size)


@dataclass(frozen=True)
class Varied:
    """n images of their own sizes, moved to the device batch by batch."""

    pixels: Ragged
    neutral: NDArray[np.uint8]
    """(channels,) what padding is filled with"""
    device: str

    def batch(self, rows: Tensor) -> Tensor:
        """(B, channels, H, W) uint8 on the device, H and W the largest canvas of these images."""
        own = self.pixels.sizes[rows.numpy()]
        height, width = canvas(own).max(axis=0).tolist()
        out = np.empty((len(rows), height, width, self.pixels.channels), np.uint8)
        out[:] = self.neutral
        for place, row in enumerate(rows.tolist()):
            h, w = own[place].tolist()
            top, left = (height - h) // 2, (width - w) // 2
            out[place, top : top + h, left : left + w] = self.pixels[row]
        return torch.from_numpy(out).permute(0, 3, 1, 2).contiguous().to(self.device)

    def epoch(self, order: Tensor, batch_size: int, seed: int) -> list[Tensor]:
        """An epoch's batches: the rows of `order` (n,), in which rows may be repeated, by similar sizes."""
        return similar_batches(self.pixels.sizes, order, batch_size, seed)

    def in_order(self, batch_size: int) -> Sequence[Tensor]:
        """Batches of one canvas size each, whose height and width are each image's own."""
        _, kind = np.unique(canvas(self.pixels.sizes), axis=0, return_inverse=True)
        groups = [torch.from_numpy(np.flatnonzero(kind.ravel() == one)) for one in range(int(kind.max(initial=-1)) + 1)]
        return [part for group in groups for part in torch.split(group, batch_size)]


Images = Square | Varied


def load_images(pixels: Pixels, mean: tuple[float, ...], device: str = "cpu") -> Images:
    """mean: per channel of pixel / 255 over the training rows."""
    if isinstance(pixels, Ragged):
        return Varied(pixels, np.round(np.array(mean) * 255).astype(np.uint8), device)
    return Square(to_batch(pixels, device))


def to_batch(pixels: NDArray[np.uint8], device: str = "cpu") -> Tensor:
    """(n, H, W, C) uint8 -> (n, C, H, W) uint8 on the device, contiguous."""
    return torch.from_numpy(np.array(pixels, copy=True)).permute(0, 3, 1, 2).contiguous().to(device)


def canvas(sizes: NDArray[np.int64]) -> NDArray[np.int64]:
    """(n, 2) sides rounded up to multiples of STRIDE."""
    return -(-sizes // STRIDE) * STRIDE


def batches(order: Tensor, batch_size: int) -> list[Tensor]:
    """The rows of one epoch in their order; a last batch of a single row joins the one before (batch norm)."""
    return _no_single(list(torch.split(order, batch_size)))


def similar_batches(sizes: NDArray[np.int64], order: Tensor, batch_size: int, seed: int) -> list[Tensor]:
    """The rows of one epoch, each batch of similar sizes (n, 2), batches in random order.

    The shuffled rows are cut into windows of WINDOW batches; each window is halved again and again, by height, width or
    area, whichever pads least, until what is left is a batch.
    """
    generator = torch.Generator().manual_seed(seed)
    rows = order.numpy()
    parts: list[NDArray[np.int64]] = []
    for start in range(0, len(rows), WINDOW * batch_size):
        parts += _halved(rows[start : start + WINDOW * batch_size], canvas(sizes), batch_size)
    shuffled = torch.randperm(len(parts), generator=generator).tolist()
    return _no_single([torch.from_numpy(parts[one].copy()) for one in shuffled])


def _halved(rows: NDArray[np.int64], sides: NDArray[np.int64], batch_size: int) -> list[NDArray[np.int64]]:
    if len(rows) <= batch_size:
        return [rows]
    middle = batch_size * max(1, round(len(rows) / batch_size / 2))
    keys = (sides[rows, 0], sides[rows, 1], sides[rows].prod(axis=1))
    cuts = [np.split(rows[np.argsort(key, kind="stable")], [middle]) for key in keys]
    best = min(cuts, key=lambda halves: sum(_filled(half, sides) for half in halves))
    return [part for half in best for part in _halved(half, sides, batch_size)]


def _filled(rows: NDArray[np.int64], sides: NDArray[np.int64]) -> int:
    """Pixels of a batch of these images, padding included."""
    return int(len(rows) * sides[rows].max(axis=0).prod())


def _no_single(parts: list[Tensor]) -> list[Tensor]:
    """Batch norm cannot learn from one image: a batch of one joins the one before it, or after it."""
    for place, part in enumerate(parts):
        if len(part) == 1 and len(parts) > 1:
            into = place - 1 if place else 1
            parts[into] = torch.cat([parts[into], part])
            del parts[place]
            break
    return parts


def statistics(pixels: Pixels) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel of pixel / 255, over training rows only; padding takes no part."""
    if isinstance(pixels, Ragged):
        counts = np.zeros((pixels.channels, 256), dtype=np.int64)
        for row in range(len(pixels)):
            counts += _histogram(pixels[row])
    else:
        counts = _histogram(pixels)
    levels = np.arange(256) / 255
    share = counts / counts.sum(1, keepdims=True)
    mean = share @ levels
    std = np.sqrt(np.maximum(share @ levels**2 - mean**2, 1e-6))
    return tuple(mean.tolist()), tuple(std.tolist())


def _histogram(x: NDArray[np.uint8]) -> NDArray[np.int64]:
    """(channels, 256) how often each level occurs in (..., channels)."""
    return np.stack([np.bincount(x[..., c].ravel(), minlength=256) for c in range(x.shape[-1])])
