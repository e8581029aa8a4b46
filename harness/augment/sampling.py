"""All the randomness of augmentation: which numbers an image draws, and by how much each change changes it.

Common random numbers: every image always uses up the same PARAMETERS numbers of the generator, each at its own place,
so switching one augmentation on or off changes nothing about what the others draw, and two trials of a study differ
only by what their specs say. Everything here is small and on the CPU, whatever the device of the images.

B: images, P: PARAMETERS.
"""

import math

import torch
from torch import Tensor

from harness.config.spec import Augment

SLOTS = 8
"""the most changes that a policy makes to one image"""
GATED = (
    "rotate",
    "translate",
    "scale",
    "shear",
    "brightness",
    "contrast",
    "gamma",
    "saturation",
    "hue",
    "noise",
    "blur",
)
"""the changes that are made with augment.probability"""
PLACES = (
    "hflip",
    "vflip",
    "rotate",
    "translate_x",
    "translate_y",
    "scale",
    "shear",
    "brightness",
    "contrast",
    "gamma",
    "noise",
    "noise_seed",
    "noise_seed_2",
    "blur",
    "erase",
    "erase_area",
    "erase_shape",
    "erase_x",
    "erase_y",
    "saturation",
    "hue",
    *(f"make_{name}" for name in GATED),
    *(f"policy_{what}_{slot}" for slot in range(SLOTS) for what in ("change", "strength", "sign")),
)
"""what each of an image's drawn numbers is for; new ones go to the end"""
PARAMETERS = 64
"""numbers drawn per image; more than are used yet, so that a new change needs no other numbers of the old ones"""


def changes_anything(spec: Augment) -> bool:
    """Whether any change is switched on."""
    gated = spec.probability > 0 and any(getattr(spec, name) for name in GATED)
    return gated or spec.policy != "none" or any((spec.hflip, spec.vflip, spec.erase))


def draw(batch: int, generator: torch.Generator) -> Tensor:
    """(B, P) numbers in [0, 1), float32, on the CPU: all the randomness of one batch, whatever is switched on."""
    return torch.rand(batch, PARAMETERS, generator=generator)


_COLUMNS = {place: column for column, place in enumerate(PLACES)}


def at(u_BP: Tensor, place: str) -> Tensor:
    """(B,) the numbers in [0, 1) that are drawn for this."""
    return u_BP[:, _COLUMNS[place]]


def both_ways(u_B: Tensor) -> Tensor:
    """[0, 1) to [-1, 1)."""
    return 2 * u_B - 1


def amounts(u_BP: Tensor, spec: Augment) -> dict[str, Tensor]:
    """Change -> (B,) how much of it each image gets, for the changes that are switched on and no others.

    Flips and erasing: 1 or 0. Rotation and shear in radians, translation as a share of the side, scale and gamma as
    logarithms, noise as a standard deviation, blur as a sigma in pixels, the others as their keys say. 0: the image is
    left as it is.
    """
    found: dict[str, Tensor] = {}
    for name in ("hflip", "vflip", "erase"):
        if probability := getattr(spec, name):
            found[name] = (at(u_BP, name) < probability).float()
    if not spec.probability:
        return found
    for name in GATED:
        largest = getattr(spec, name)
        if not largest:
            continue
        if name in ("rotate", "shear"):
            largest = math.radians(largest)
        elif name == "scale":
            largest = math.log1p(largest)  # zooming by 1 + scale and by its inverse are equally likely
        for place in ("translate_x", "translate_y") if name == "translate" else (name,):
            drawn = at(u_BP, place)
            value = largest * (drawn if name in ("noise", "blur") else both_ways(drawn))
            found[place] = value if spec.probability == 1 else value * (at(u_BP, f"make_{name}") < spec.probability)
    return found
