"""Random changes of training images: whole batches, on the batch's own device, parameters drawn per image.

Order: geometry (one resampling for all of it), blur, contrast and brightness, gamma, saturation, hue, the policy's
colours, noise, erasing. What is moved in from outside the picture and what is erased is 0 (black). Nothing is computed
for what is off, or for an image that a change leaves alone. Knows no files, no labels, no networks.

B: images, C: channels, H, W: sides in pixels, P: PARAMETERS.
"""

import torch
from torch import Tensor

from harness.config.spec import Augment
from harness.data.augment_area import area_of, on_rows
from harness.data.augment_colour import gamma, hue, levels, saturation
from harness.data.augment_corruptions import add_noise, blur, erase
from harness.data.augment_draws import amounts, at, draw
from harness.data.augment_geometry import matrices, move
from harness.data.augment_policy import policy_matrices, recolour, slots


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
