"""The order of random changes on a batch, mixup and CutMix.

Random changes of training images: whole batches, on the batch's own device, parameters drawn per image.

Order: geometry (one resampling for all of it), blur, contrast and brightness, gamma, saturation, hue, the policy's
colours, noise, erasing. What is moved in from outside the picture and what is erased is 0 (black). Nothing is computed
for what is off, or for an image that a change leaves alone. Knows no files, no labels, no networks.

B: images, C: channels, H, W: sides in pixels, P: PARAMETERS.

Mixing pairs of training images: mixup and CutMix, with a share and a box of its own for every row of a batch.

All randomness comes from the given generator, NUMBERS numbers a row in any case, so that switching one on or off
changes nothing about what else is drawn. Knows no labels and no loss: a row's loss is share * loss(logits, own label)
+ (1 - share) * loss(logits, label of its partner).

B: images, C: channels, H, W: sides in pixels.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import betaincinv
from torch import Tensor

from harness.augment.policies import policy_matrices, recolour, slots
from harness.augment.sampling import amounts, at, draw
from harness.augment.transforms import (
    add_noise,
    area_of,
    blur,
    erase,
    gamma,
    hue,
    levels,
    matrices,
    move,
    on_rows,
    saturation,
)
from harness.config.spec import Augment


def augment(x_BCHW: Tensor, spec: Augment, generator: torch.Generator, sizes: Tensor | None = None) -> Tensor:
    """The batch changed at random as the spec says; x itself when every switch is off.

    x_BCHW: float32 in [0, 1] on any device; generator: on the CPU, moved on by B * PARAMETERS numbers in any case;
    sizes: (B, 2) int64 own height and width of images that stand in the middle of a padded canvas, None where they
    fill it. Padding stays as it is and takes no part in anything: an image comes out as it would without it, but for
    its noise. Returns the same shape, in [0, 1], without gradient.
    """
    return apply(x_BCHW, draw(len(x_BCHW), generator), spec, sizes)


@torch.no_grad()
def apply(x_BCHW: Tensor, u_BP: Tensor, spec: Augment, sizes: Tensor | None = None) -> Tensor:
    """What `augment` does, with given draws: each image depends on its own row of u alone."""
    amount, drawn = amounts(u_BP, spec), slots(u_BP, spec)
    if not amount and not drawn:
        return x_BCHW
    area = area_of(x_BCHW, sizes)

    source = matrices(amount, x_BCHW, area)
    policy = policy_matrices(drawn, spec, x_BCHW, area)
    if source is not None and policy is not None:
        source = source @ policy
    elif policy is not None:
        source = policy
    x = move(x_BCHW, amount.get("hflip"), amount.get("vflip"), source, area)

    if (sigma := amount.get("blur")) is not None:
        x = on_rows(x, sigma, sigma, area, lambda part, value, own: blur(part, value, spec.blur, own))
    x = levels(x, amount.get("contrast"), amount.get("brightness"), area)
    if source is not None or amount.keys() & {"blur", "contrast", "brightness"}:
        x.clamp_(0, 1)  # blur and resampling may leave the range by rounding
    if (exponent := amount.get("gamma")) is not None:
        x = on_rows(x, exponent, exponent, None, lambda part, value, _: gamma(part, value))
    if (factor := amount.get("saturation")) is not None:
        x = on_rows(x, factor, factor, None, lambda part, value, _: saturation(part, value))
    if (turn := amount.get("hue")) is not None:
        x = on_rows(x, turn, turn, None, lambda part, value, _: hue(part, value))
    x = recolour(x, drawn, spec, area)
    if (deviation := amount.get("noise")) is not None:
        seeded = torch.stack([deviation, at(u_BP, "noise_seed"), at(u_BP, "noise_seed_2")], dim=1)
        x = on_rows(x, deviation, seeded, None, lambda part, value, _: add_noise(part, *value.unbind(1))).clamp_(0, 1)
    if (erased := amount.get("erase")) is not None:
        x = erase(x, erased, u_BP, area)
    return x if area is None else torch.lerp(x_BCHW, x, area.inside)  # exact at 0 and 1


NUMBERS = 5
"""numbers drawn per row: partner, which of the two, share, and the middle of the box"""


@dataclass(frozen=True)
class Mix:
    """What becomes of each row of one batch."""

    partner: Tensor
    """(B,) int64, the row of the batch that it is mixed with: another one, and each row is one other's partner"""
    share: Tensor
    """(B,) float32 in [0, 1], the weight of the row's own label"""
    blend: Tensor | None
    """(B,) float32, mixup's weight of the row's own pixels: its share, or 1 in a row of CutMix; None without mixup"""
    box: Tensor | None
    """(B, 4) int64 top, bottom, left, right of what CutMix pastes; empty in a row of mixup; None without CutMix"""


def draw_mix(
    batch: int,
    height: int,
    width: int,
    augment: Augment,
    generator: torch.Generator,
    device: str | torch.device = "cpu",
) -> Mix | None:
    """How the rows of a batch of images (B, C, H, W) are mixed; None when both alphas are 0.

    mixup (Zhang et al. 2018): share ~ Beta(alpha, alpha). CutMix (Yun et al. 2019): a box of the image's proportions
    with an area of 1 - share, its middle anywhere, cut off at the border; the share is then that of the pixels that
    were really kept. With both alphas above 0 each row draws which of the two it gets, half and half.
    generator: on the CPU, moved on by B * NUMBERS numbers in any case; device: where the result lies.
    """
    u = torch.rand(batch, NUMBERS, generator=generator, dtype=torch.float64)
    mixup, cutmix = augment.mixup, augment.cutmix
    if not (mixup or cutmix):
        return None
    pasted = u[:, 1] < (0.5 if mixup and cutmix else float(cutmix > 0))
    alpha = torch.where(pasted, cutmix, mixup).numpy()
    # by its inverse distribution function: one number for one share, however small alpha is
    share = torch.from_numpy(betaincinv(alpha, alpha, u[:, 2].numpy()))
    blend = torch.where(pasted, 1.0, share).float() if mixup else None
    box = None
    if cutmix:
        box = boxes(share, (u[:, 3] * height).long(), (u[:, 4] * width).long(), height, width)
        box = torch.where(pasted[:, None], box, 0)
        area = (box[:, 1] - box[:, 0]) * (box[:, 3] - box[:, 2])
        share = torch.where(pasted, 1 - area / (height * width), share)
    # without waiting for what the device still has to do
    partner, share = (part.to(device, non_blocking=True) for part in (_cycle(u[:, 0]), share.float()))
    blend, box = (part if part is None else part.to(device, non_blocking=True) for part in (blend, box))
    return Mix(partner, share, blend, box)


def boxes(share: Tensor, y: Tensor, x: Tensor, height: int, width: int) -> Tensor:
    """(B, 4) int64 top, bottom, left, right of boxes around y, x (B,) int64 whose area before they are cut off at the
    border is 1 - share (B,) of the image, in whole pixels."""
    side = torch.sqrt(1 - share)
    edges = []
    for middle, full in ((y, height), (x, width)):
        cut = (side * full).long()
        edges += [middle - cut // 2, middle + (cut + 1) // 2]
    limits = torch.tensor([height, height, width, width])
    return torch.minimum(torch.stack(edges, dim=1).clamp(min=0), limits)


def apply_mix(x_BCHW: Tensor, mix: Mix) -> Tensor:
    """The mixed images, a new tensor like x; mix lies on x's device."""
    weight = torch.ones(len(x_BCHW), 1, 1, 1, device=x_BCHW.device)
    if mix.blend is not None:
        weight = mix.blend.view(-1, 1, 1, 1)
    if mix.box is not None:
        top, bottom, left, right = mix.box.unsqueeze(2).unbind(1)
        rows = torch.arange(x_BCHW.shape[2], device=x_BCHW.device)
        columns = torch.arange(x_BCHW.shape[3], device=x_BCHW.device)
        in_rows = ((rows >= top) & (rows < bottom)).float()[:, None, :, None]
        in_columns = ((columns >= left) & (columns < right)).float()[:, None, None, :]
        weight = weight * (1 - in_rows * in_columns)
    # lerp returns its first argument exactly where the weight is 0, and its second where it is 1
    return torch.lerp(x_BCHW.index_select(0, mix.partner), x_BCHW, weight.to(x_BCHW.dtype))


def mixed_pictures(pixels: NDArray[np.uint8], augment: Augment, seed: int) -> NDArray[np.uint8]:
    """What these pictures (n, H, W, C) uint8 become as one batch; for looking at."""
    x = torch.from_numpy(np.array(pixels)).permute(0, 3, 1, 2).float().div_(255)
    mix = draw_mix(len(x), x.shape[2], x.shape[3], augment, torch.Generator().manual_seed(seed))
    x = x if mix is None else apply_mix(x, mix)
    return np.asarray(x.mul(255).round().permute(0, 2, 3, 1).to(torch.uint8).numpy())


def _cycle(u: Tensor) -> Tensor:
    """(B,) int64: each row's successor in a random order of all rows that closes to a ring."""
    order = torch.argsort(u)
    partner = torch.empty_like(order)
    partner[order] = order.roll(-1)
    return partner
