"""Which images of a batch are changed, and where in its canvas each of them lies.

Images of their own sizes stand in the middle of a padded canvas. Augmentation must not see the padding: a mean, a
histogram, a turn about the middle, a share of the side are the image's own. Where all images fill their canvas there is
no Area but None.

B: images, C: channels, H, W: sides of the canvas.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Area:
    """Each image's own rectangle, inside a canvas."""

    box: Tensor
    """(B, 4) int64 on the CPU: top, left, height, width"""
    inside: Tensor
    """(B, 1, H, W) float32 on the images' device: 1, and 0 in the padding"""


def area_of(x_BCHW: Tensor, sizes: Tensor | None) -> Area | None:
    """Areas of images in the middle of their canvas (rounded to the upper left); None where all of them fill it.

    sizes: (B, 2) int64 own height and width, or None.
    """
    if sizes is None:
        return None
    own, canvas = sizes.cpu(), torch.tensor(x_BCHW.shape[2:])
    if bool((own == canvas).all()):
        return None
    box = torch.cat([(canvas - own) // 2, own], dim=1)
    top, left, height, width = box.to(x_BCHW.device, non_blocking=True).view(-1, 4, 1, 1, 1).unbind(1)
    rows, columns = _places(x_BCHW)
    inside = (rows >= top) & (rows < top + height) & (columns >= left) & (columns < left + width)
    return Area(box, inside.float())


def on_rows(
    x_BCHW: Tensor,
    chosen_B: Tensor,
    values: Tensor,
    area: Area | None,
    change: Callable[[Tensor, Tensor, Area | None], Tensor],
) -> Tensor:
    """x, which may be overwritten, with change(images, values, area) in the place of the chosen images, so that no work
    is done for the others.

    chosen_B: bool, or numbers of which 0 is no, on the CPU, so that nothing waits for the device; values: (B, ...) what
    the change is told of each image, on the CPU.
    """
    rows = torch.nonzero(chosen_B).squeeze(1)
    if len(rows) == len(x_BCHW):
        return change(x_BCHW, values, area)
    if len(rows):
        places = rows.to(x_BCHW.device, non_blocking=True)
        own = None if area is None else Area(area.box[rows], area.inside[places])
        x_BCHW.index_copy_(0, places, change(x_BCHW.index_select(0, places), values[rows], own))
    return x_BCHW


def sides(x_BCHW: Tensor, area: Area | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """top, left, height, width, each (B,) float32 on the CPU."""
    if area is not None:
        top, left, height, width = area.box.float().unbind(1)
        return top, left, height, width
    full = torch.ones(len(x_BCHW))
    return 0 * full, 0 * full, x_BCHW.shape[2] * full, x_BCHW.shape[3] * full


def border_repeated(x_BCHW: Tensor, area: Area | None) -> Tensor:
    """The padding of each image filled with its nearest pixels."""
    if area is None:
        return x_BCHW
    top, left, height, width = area.box.to(x_BCHW.device, non_blocking=True).view(-1, 4, 1, 1, 1).unbind(1)
    rows, columns = _places(x_BCHW)
    rows = torch.minimum(torch.maximum(rows, top), top + height - 1).expand(-1, *x_BCHW.shape[1:])
    columns = torch.minimum(torch.maximum(columns, left), left + width - 1).expand(-1, *x_BCHW.shape[1:])
    return x_BCHW.gather(2, rows).gather(3, columns)


def _places(x_BCHW: Tensor) -> tuple[Tensor, Tensor]:
    """Row numbers (H, 1) and column numbers (W,) of the canvas."""
    height, width = x_BCHW.shape[2:]
    return torch.arange(height, device=x_BCHW.device).view(-1, 1), torch.arange(width, device=x_BCHW.device)
