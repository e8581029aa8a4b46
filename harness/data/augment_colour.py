"""Changes of grey levels and colours, pixel by pixel, with a strength of its own for every image.

Each function takes images in [0, 1] (B, C, H, W) and (B,) strengths on the CPU. Means are those of the image's own
area. Images of other than three channels have no colour: hue and saturation leave them as they are. Grey pixels of
colour images keep their levels exactly.

B: images, C: channels, H, W: sides in pixels.
"""

import torch
from torch import Tensor

from harness.data.augment_area import Area

COLOURS = 3
RED, BLUE = 0.299, 0.114
"""weights of a grey level (ITU-R BT.601); green has the rest"""


def per_image(value_B: Tensor, x: Tensor) -> Tensor:
    """(B, 1, 1, 1) on x's device."""
    return value_B.to(x.device, x.dtype, non_blocking=True).view(-1, 1, 1, 1)


def mean_level(x: Tensor, area: Area | None) -> Tensor:
    """(B, 1, 1, 1) over all channels and pixels of the image."""
    if area is None:
        return x.mean(dim=(1, 2, 3), keepdim=True)
    pixels = per_image(area.box[:, 2:].prod(dim=1), x)
    return (x * area.inside).sum(dim=(1, 2, 3), keepdim=True) / (pixels * x.shape[1])


def levels(x: Tensor, contrast: Tensor | None, brightness: Tensor | None, area: Area | None) -> Tensor:
    """x stretched by 1 + contrast about its mean, then shifted by brightness; x is overwritten, nothing is clipped."""
    if contrast is not None:
        mean, change = mean_level(x, area), per_image(contrast, x)
        shift = -mean * change
        if brightness is not None:
            shift += per_image(brightness, x)
        return x.mul_(1 + change).add_(shift)
    return x if brightness is None else x.add_(per_image(brightness, x))


def gamma(x: Tensor, exponent: Tensor) -> Tensor:
    """x ** exp(exponent); x is overwritten."""
    return x.pow_(per_image(torch.exp(exponent), x))


def to_grey(x: Tensor) -> Tensor:
    """(B, 1, H, W) of (B, 3, H, W); exactly the level of a pixel whose channels are equal."""
    green = x[:, 1:2]
    return green + RED * (x[:, 0:1] - green) + BLUE * (x[:, 2:3] - green)


def saturation(x: Tensor, change: Tensor) -> Tensor:
    """Each pixel's distance from its grey level times 1 + change, clipped to [0, 1]; x is overwritten."""
    if x.shape[1] != COLOURS:
        return x
    return x.add_((x - to_grey(x)) * per_image(change, x)).clamp_(0, 1)


def hue(x: Tensor, turn: Tensor) -> Tensor:
    """The colour circle turned by this share of itself, brightness and saturation (HSV) kept."""
    if x.shape[1] != COLOURS:
        return x
    red, green, blue = x.unbind(1)
    value = torch.maximum(torch.maximum(red, green), blue)
    chroma = value - torch.minimum(torch.minimum(red, green), blue)
    # sixths of the circle from red, by the channel that is the largest (Smith 1978); grey has chroma 0 and any angle.
    # Interpolating by masks of 0 and 1 is exact and, on a CPU, several times as fast as torch.where.
    unit = chroma.clamp(min=1e-12).reciprocal_()
    from_red, from_green, from_blue = ((value - channel).mul_(unit) for channel in (red, green, blue))
    sixths = (from_green - from_red).add_(4)
    sixths.lerp_((from_red - from_blue).add_(2), (from_green == 0).to(x.dtype))
    sixths.lerp_(from_blue - from_green, (from_red == 0).to(x.dtype))
    sixths.add_(per_image(turn, x)[:, 0], alpha=6)
    # back, in closed form for each channel: value - chroma * clip(2 - |k - 2|, 0, 1), k = n + sixths mod 6
    out = torch.empty_like(x)
    for channel, n in enumerate((5, 3, 1)):
        k = (sixths + n).div_(6)
        k.sub_(k.floor()).mul_(6).sub_(2).abs_().neg_().add_(2).clamp_(0, 1)
        torch.sub(value, k.mul_(chroma), out=out[:, channel])
    return out
