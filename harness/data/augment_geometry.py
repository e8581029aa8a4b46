"""Moving pixels: flips by index, and everything else as one resampling.

A change of geometry is a matrix (B, 3, 3) that says, for each pixel of the result, where in the picture it comes from:
in pixels, from the middle of the image, x to the right and y down. Matrices are multiplied on the CPU, whoever asks for
the changes, and the picture is looked up once. What is moved in from outside the picture is 0 (black).

B: images, C: channels, H, W: sides in pixels.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from harness.data.augment_area import Area, on_rows, sides


def matrices(amount: dict[str, Tensor], x_BCHW: Tensor, area: Area | None) -> Tensor | None:
    """(B, 3, 3) of an image's rotation, translation, scale and shear; None when all of them are off.

    Zoom, shear and turn are about the middle of the image, in this order, and the shift comes after them. A positive
    angle turns counter-clockwise on screen, as torch.rot90 does.
    """
    parts = [amount.get(name) for name in ("rotate", "translate_x", "translate_y", "scale", "shear")]
    if all(part is None for part in parts):
        return None
    angle, right, down, zoom, slant = (torch.zeros(len(x_BCHW)) if part is None else part for part in parts)
    _, _, height, width = sides(x_BCHW, area)
    turn = turned(angle, torch.tan(slant), torch.zeros_like(slant))
    turn[:, :2] /= torch.exp(zoom)[:, None, None]
    return turn @ shifted(right * width, down * height)


def turned(angle: Tensor, shear_x: Tensor, shear_y: Tensor) -> Tensor:
    """(B, 3, 3) the matrix of: shear along x or along y (pixels per pixel), then turn (radians)."""
    # from the result back to the picture: unshear * unturn
    cos, sin = torch.cos(angle), torch.sin(angle)
    source = torch.eye(3).repeat(len(angle), 1, 1)
    source[:, 0, 0], source[:, 0, 1] = cos + shear_x * sin, shear_x * cos - sin
    source[:, 1, 0], source[:, 1, 1] = sin + shear_y * cos, cos - shear_y * sin
    return source


def shifted(right: Tensor, down: Tensor) -> Tensor:
    """(B, 3, 3) the matrix of a shift by so many pixels."""
    source = torch.eye(3).repeat(len(right), 1, 1)
    source[:, 0, 2], source[:, 1, 2] = -right, -down
    return source


def move(
    x_BCHW: Tensor, hflip: Tensor | None, vflip: Tensor | None, source: Tensor | None, area: Area | None
) -> Tensor:
    """The images flipped, then moved by their matrices; a new tensor.

    hflip, vflip: (B,) 1 or 0, or None; source: (B, 3, 3) or None. An image whose matrix changes nothing is flipped by
    index: its pixels are moved, never mixed.
    """
    moved = torch.zeros(len(x_BCHW), dtype=torch.bool)
    if source is not None:
        moved = (source != torch.eye(3)).flatten(1).any(dim=1)
        source = _mirrored(source, hflip, vflip)
        if moved.all():
            return resample(x_BCHW, source, area)
    x = x_BCHW.clone(memory_format=torch.contiguous_format)  # what comes is often channels last
    if hflip is not None:
        x = on_rows(x, hflip.bool() & ~moved, hflip, area, lambda part, _, own: flipped(part, 3, own))
    if vflip is not None:
        x = on_rows(x, vflip.bool() & ~moved, vflip, area, lambda part, _, own: flipped(part, 2, own))
    return x if source is None else on_rows(x, moved, source, area, resample)


def _mirrored(source: Tensor, hflip: Tensor | None, vflip: Tensor | None) -> Tensor:
    """The matrices with the flips before everything else."""
    mirror = torch.ones(len(source), 3, 1)
    for flip, axis in ((hflip, 0), (vflip, 1)):
        if flip is not None:
            mirror[:, axis, 0] -= 2 * flip
    return mirror * source


def flipped(x: Tensor, axis: int, area: Area | None) -> Tensor:
    """Mirrored along axis 2 or 3, about the middle of each image's own area."""
    if area is None:
        return x.flip(axis)
    start, length = area.box[:, axis - 2], area.box[:, axis]
    places = (2 * start + length - 1)[:, None] - torch.arange(x.shape[axis])
    # what falls outside the canvas is padding
    places = places.clamp(0, x.shape[axis] - 1).to(x.device, non_blocking=True)
    shape = (-1, 1, 1, x.shape[3]) if axis == 3 else (-1, 1, x.shape[2], 1)
    return x.gather(axis, places.view(shape).expand(-1, *x.shape[1:]))


def resample(x: Tensor, source: Tensor, area: Area | None) -> Tensor:
    """The images looked up where their matrices (B, 3, 3) say, bilinearly; 0 outside.

    The grid is that of align_corners=False, in which pixels are areas and a quarter turn of a square lands on pixel
    centres exactly.
    """
    height, width = x.shape[2:]
    if area is not None:
        x = x * area.inside
        top, left, own_height, own_width = sides(x, area)
        # from the middle of the canvas to that of the image, and back
        right, down = left + (own_width - width) / 2, top + (own_height - height) / 2
        source = shifted(-right, -down) @ source @ shifted(right, down)
    # grid_sample counts from -1 to 1 along each side
    unit = torch.tensor([2 / width, 2 / height, 1.0])
    theta = (unit[:, None] * source / unit)[:, :2].to(x.device, non_blocking=True)
    grid = F.affine_grid(theta, list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
