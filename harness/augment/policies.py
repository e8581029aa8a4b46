"""Ready-made augmentation: RandAugment (Cubuk et al. 2020) and TrivialAugment (Mueller and Hutter 2021).

Both draw changes from one list. Those of geometry become matrices, multiplied into the one resampling that all geometry
shares, about the middle of the image; those of colour are made after it, in the drawn order, each on the images that
drew it. Colour changes are the papers' (Pillow's, on 8-bit levels) up to rounding: means, histograms and extremes are
those of the image's own area. On grey images `colour` is one more identity.

B: images, C: channels, H, W: sides in pixels, S: slots, the changes that one image draws.
"""

import math
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from harness.augment.sampling import at
from harness.augment.transforms import COLOURS, Area, mean_level, on_rows, per_image, shifted, sides, to_grey, turned
from harness.config.spec import Augment

GEOMETRY = ("rotate", "shear_x", "shear_y", "translate_x", "translate_y")
COLOUR = ("brightness", "colour", "contrast", "sharpness", "posterize", "solarize", "autocontrast", "equalize")
CHANGES = ("identity", *GEOMETRY, *COLOUR)
SIGNED = (*GEOMETRY, "brightness", "colour", "contrast", "sharpness")
STRENGTHS = 31
"""TrivialAugment draws one of so many strengths, evenly spaced from nothing to the largest"""


@dataclass(frozen=True)
class Reach:
    """The largest changes of a policy, at strength 1."""

    rotate: float
    """degrees"""
    shear: float
    """pixels per pixel"""
    translate: float
    """share of the side"""
    blend: float
    """of brightness, colour, contrast and sharpness, relative"""
    posterize: int
    """bits taken away, of 8"""


REACH = {
    "randaugment": Reach(30.0, 0.3, 150 / 331, 0.9, 4),
    # the paper's "wide" space; its 32 pixels are a share of the 224 that they were meant for
    "trivialaugment": Reach(135.0, 0.99, 32 / 224, 0.99, 6),
}


@dataclass(frozen=True)
class Slot:
    """One change of every image."""

    change: Tensor
    """(B,) int64, a place in CHANGES"""
    strength: Tensor
    """(B,) float32 in [-1, 1], negative only where the change goes both ways"""


def slots(u_BP: Tensor, spec: Augment) -> list[Slot]:
    """What each image draws, in the order in which it is made."""
    found = []
    signed = torch.tensor([name in SIGNED for name in CHANGES])
    for slot in range({"none": 0, "randaugment": spec.policy_ops, "trivialaugment": 1}[spec.policy]):
        change = (at(u_BP, f"policy_change_{slot}") * len(CHANGES)).long()
        strength = torch.full((len(u_BP),), spec.policy_magnitude)
        if spec.policy == "trivialaugment":
            strength *= (at(u_BP, f"policy_strength_{slot}") * STRENGTHS).floor() / (STRENGTHS - 1)
        negative = signed[change] & (at(u_BP, f"policy_sign_{slot}") < 0.5)
        found.append(Slot(change, torch.where(negative, -strength, strength)))
    return found


def policy_matrices(drawn: list[Slot], spec: Augment, x_BCHW: Tensor, area: Area | None) -> Tensor | None:
    """(B, 3, 3) of all changes of geometry in their order; None without a policy."""
    source = None
    _, _, height, width = sides(x_BCHW, area)
    for slot in drawn:
        reach = REACH[spec.policy]
        by = {name: slot.strength * (slot.change == CHANGES.index(name)) for name in GEOMETRY}
        turn = turned(
            by["rotate"] * math.radians(reach.rotate), by["shear_x"] * reach.shear, by["shear_y"] * reach.shear
        )
        right, down = by["translate_x"] * reach.translate * width, by["translate_y"] * reach.translate * height
        one = turn @ shifted(right, down)
        source = one if source is None else source @ one
    return source


def recolour(x: Tensor, drawn: list[Slot], spec: Augment, area: Area | None) -> Tensor:
    """All changes of colour in their order; x, in [0, 1], may be overwritten."""
    for slot in drawn:
        for name in COLOUR:
            chosen, values = slot.change == CHANGES.index(name), _value(name, slot.strength, REACH[spec.policy])
            x = on_rows(x, chosen, values, area, partial(colour_change, name))
    return x


def _value(name: str, strength: Tensor, reach: Reach) -> Tensor:
    """What `colour_change` is given at this strength."""
    if name == "posterize":
        return 8 - (strength * reach.posterize).round()
    if name == "solarize":
        return 256 * (1 - strength)
    return 1 + strength * reach.blend


def colour_change(name: str, x: Tensor, value: Tensor, area: Area | None) -> Tensor:
    """The images after one of COLOUR; x may be overwritten.

    value: (B,) on the CPU: the bits that posterize leaves, the grey level of 255 from which solarize inverts, the
    factor of brightness, colour, contrast and sharpness (1: no change); the others have none.
    """
    if name == "brightness":
        return x.mul_(per_image(value, x)).clamp_(max=1)
    if name == "colour":
        return _blend(to_grey(x), x, value) if x.shape[1] == COLOURS else x
    if name == "contrast":
        return _blend(mean_level(to_grey(x) if x.shape[1] == COLOURS else x, area), x, value)
    if name == "sharpness":
        return _blend(smooth(x, area), x, value)
    if name == "posterize":
        step = per_image(2 ** (8 - value), x)
        return x.mul_(255).round_().div_(step).floor_().mul_(step).div_(255)
    if name == "solarize":
        return x.lerp_(1 - x, (x >= per_image(value / 255, x)).to(x.dtype))
    return autocontrast(x, area) if name == "autocontrast" else equalize(x, area)


def _blend(other: Tensor, x: Tensor, factor: Tensor) -> Tensor:
    """other + (x - other) * factor, in [0, 1]."""
    return torch.lerp(other.expand_as(x), x, per_image(factor, x)).clamp_(0, 1)


def smooth(x: Tensor, area: Area | None) -> Tensor:
    """Pillow's SMOOTH: the mean of 3 x 3 pixels in which the middle counts five times; the border is left as it is."""
    out = x.clone()
    if min(x.shape[2:]) < 3:
        return out
    middle = out[:, :, 1:-1, 1:-1]
    b, c, h, w = x.shape
    kernel = torch.tensor([[1.0, 1, 1], [1, 5, 1], [1, 1, 1]]).div_(13).to(x.device, x.dtype, non_blocking=True)
    smoothed = F.conv2d(x.reshape(1, b * c, h, w), kernel.expand(b * c, 1, 3, 3), groups=b * c).view_as(middle)
    if area is not None:
        # not next to the padding: where the eight neighbours are the image's own too
        own = (F.avg_pool2d(area.inside, 3, stride=1) > 0.99).to(x.dtype)
        smoothed = torch.lerp(middle, smoothed, own)
    middle.copy_(smoothed)
    return out


def autocontrast(x: Tensor, area: Area | None) -> Tensor:
    """Each channel stretched so that its darkest pixel is 0 and its brightest 1; a flat channel is left as it is."""
    if area is None:
        low, high = x.amin(dim=(2, 3), keepdim=True), x.amax(dim=(2, 3), keepdim=True)
    else:
        low = x.masked_fill(area.inside == 0, 1).amin(dim=(2, 3), keepdim=True)
        high = (x * area.inside).amax(dim=(2, 3), keepdim=True)
    flat = high <= low
    low = low.masked_fill(flat, 0)
    return x.sub_(low).div_((high - low).masked_fill(flat, 1)).clamp_(0, 1)


def equalize(x: Tensor, area: Area | None) -> Tensor:
    """Each channel's grey levels spread so that each is about equally frequent, by Pillow's table of 256 levels."""
    b, c, h, w = x.shape
    level = x.mul(255).round_().clamp_(0, 255).long()
    # padding is counted apart, as a level of its own
    counted = level if area is None else level.masked_fill(area.inside == 0, 256)
    count = torch.zeros(b, c, 257, dtype=torch.int64, device=x.device)
    count.scatter_add_(2, counted.view(b, c, h * w), count.new_ones(1).expand(b, c, h * w))
    count, levels = count[:, :, :256], torch.arange(256, device=x.device)
    highest = torch.where(count > 0, levels, 0).amax(dim=2, keepdim=True)
    step = (count.sum(dim=2, keepdim=True) - count.gather(2, highest)) // 255
    table = (count.cumsum(dim=2) - count + step // 2) // step.clamp(min=1)
    # too few pixels, or too few levels, to spread: the table of no change
    table = torch.where(step > 0, table.clamp_(0, 255), levels).to(x.dtype).div_(255)
    return table.gather(2, level.view(b, c, h * w)).view_as(x)
