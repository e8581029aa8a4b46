"""Random changes of training images: whole batches, on the batch's own device, parameters drawn per image.

Common random numbers: every image always uses up the same PARAMETERS numbers of the generator, each at its own place,
so switching one augmentation on or off changes nothing about what the others draw, and two trials of a study differ
only by what their specs say. Numbers are drawn on the CPU and moved, so every device makes the same changes.

Order: geometry (one resampling for all of it), blur, contrast, brightness, gamma, noise, erasing. What is moved in from
outside the picture and what is erased is 0 (black). Knows no files, no labels, no networks.

B: images, C: channels, H, W: sides in pixels, P: PARAMETERS.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from harness.study.training import Augment

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
)
"""what each of an image's drawn numbers is for; new ones go to the end, so that old studies draw what they drew"""
PARAMETERS = 24
"""numbers drawn per image; more than are used yet"""

ERASE_AREA = (0.02, 0.25)
"""share of the picture that erasing blanks (random erasing, Zhong et al. 2020, with a smaller largest area)"""
ERASE_SHAPE = 3.0
"""height over width is between 1/3 and 3, log-uniform"""
SEED_STEPS = 2**24
"""a float32 in [0, 1) holds 24 random bits"""


def augment(x_BCHW: Tensor, spec: Augment, generator: torch.Generator) -> Tensor:
    """The batch changed at random as the spec says; x itself when every switch is off.

    x_BCHW: float32 in [0, 1] on any device; generator: on the CPU, moved on by B * PARAMETERS numbers in any case.
    Returns the same shape, in [0, 1], without gradient.
    """
    return apply(x_BCHW, draw(len(x_BCHW), generator), spec)


def draw(batch: int, generator: torch.Generator) -> Tensor:
    """(B, P) numbers in [0, 1), float32, on the CPU: all the randomness of one batch, whatever is switched on."""
    return torch.rand(batch, PARAMETERS, generator=generator)


@torch.no_grad()
def apply(x_BCHW: Tensor, u_BP: Tensor, spec: Augment) -> Tensor:
    """What `augment` does, with given draws: each image depends on its own row of u alone."""
    resampled = any((spec.rotate, spec.translate, spec.scale, spec.shear))
    flipped = bool(spec.hflip or spec.vflip)
    intensity = any((spec.brightness, spec.contrast, spec.gamma, spec.noise))
    if not (resampled or flipped or intensity or spec.blur or spec.erase):
        return x_BCHW
    u = dict(zip(PLACES, u_BP.to(x_BCHW.device, non_blocking=True).unbind(1), strict=False))
    x = x_BCHW
    if resampled:
        x = _resample(x, u, spec)
    elif flipped:
        x = _flip(x, u, spec)
    if spec.blur:
        x = _blur(x, u["blur"] * spec.blur, spec.blur)
    if spec.contrast:
        mean = x.mean(dim=(1, 2, 3), keepdim=True)
        x = mean + (x - mean) * _per_image(1 + _both_ways(u["contrast"]) * spec.contrast)
    if spec.brightness:
        x = x + _per_image(_both_ways(u["brightness"]) * spec.brightness)
    if spec.gamma:
        x = x.clamp(0, 1) ** _per_image(torch.exp(_both_ways(u["gamma"]) * spec.gamma))
    if spec.noise:
        x = x + _normal_field(x, u) * _per_image(u["noise"] * spec.noise)
    if intensity or spec.blur or resampled:
        x = x.clamp(0, 1)  # blur and resampling may leave the range by rounding
    if spec.erase:
        x = _erase(x, u, spec.erase)
    return x


def _both_ways(u_B: Tensor) -> Tensor:
    """[0, 1) to [-1, 1)."""
    return 2 * u_B - 1


def _per_image(value_B: Tensor) -> Tensor:
    return value_B.view(-1, 1, 1, 1)


def _flip(x: Tensor, u: dict[str, Tensor], spec: Augment) -> Tensor:
    """Exact flips by index: pixels are moved, never mixed."""
    if spec.hflip:
        x = torch.where(_per_image(u["hflip"] < spec.hflip), x.flip(3), x)
    if spec.vflip:
        x = torch.where(_per_image(u["vflip"] < spec.vflip), x.flip(2), x)
    return x


def _resample(x: Tensor, u: dict[str, Tensor], spec: Augment) -> Tensor:
    """Flip, then zoom, shear, rotate about the centre, then shift, as one bilinear look-up.

    A positive angle turns counter-clockwise on screen, as torch.rot90 does. Zooming by 1 + scale and by its inverse
    are equally likely. The grid is that of align_corners=False, in which pixels are areas and a quarter turn of a
    square lands on pixel centres exactly.
    """
    height, width = x.shape[-2:]
    angle = _both_ways(u["rotate"]) * math.radians(spec.rotate)
    zoom = torch.exp(_both_ways(u["scale"]) * math.log1p(spec.scale))
    slant = torch.tan(_both_ways(u["shear"]) * math.radians(spec.shear))
    cos, sin = torch.cos(angle), torch.sin(angle)
    mirror_x = 1 - 2 * (u["hflip"] < spec.hflip).float()
    mirror_y = 1 - 2 * (u["vflip"] < spec.vflip).float()
    # grid_sample asks, for each output pixel, where it comes from: the inverses in inverse order, in pixels
    #   source = mirror * (1 / zoom) * unshear * unrotate * (output - shift), with y pointing down
    a, b = cos + slant * sin, slant * cos - sin
    aspect = width / height
    row_x = torch.stack([a, b / aspect], dim=1) * (mirror_x / zoom)[:, None]
    row_y = torch.stack([sin * aspect, cos], dim=1) * (mirror_y / zoom)[:, None]
    linear_B22 = torch.stack([row_x, row_y], dim=1)
    # a share of the side is twice that in coordinates that run from -1 to 1
    shift_B2 = 2 * spec.translate * _both_ways(torch.stack([u["translate_x"], u["translate_y"]], dim=1))
    offset_B21 = -linear_B22 @ shift_B2[:, :, None]
    grid = F.affine_grid(torch.cat([linear_B22, offset_B21], dim=2), list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def _blur(x: Tensor, sigma_B: Tensor, largest: float) -> Tensor:
    """Gaussian blur with a sigma (pixels) per image; the border is repeated outwards."""
    b, c, h, w = x.shape
    radius = max(1, math.ceil(3 * largest))
    offsets = torch.arange(-radius, radius + 1, device=x.device, dtype=x.dtype)
    # a sigma of nothing is the kernel 0..1..0, without dividing by 0
    kernel = torch.exp(-0.5 * (offsets / sigma_B[:, None].clamp(min=1e-3)) ** 2)
    kernel = (kernel / kernel.sum(dim=1, keepdim=True)).repeat_interleave(c, dim=0)
    flat = F.pad(x.reshape(1, b * c, h, w), (radius, radius, radius, radius), mode="replicate")
    flat = F.conv2d(flat, kernel[:, None, None, :], groups=b * c)
    return F.conv2d(flat, kernel[:, None, :, None], groups=b * c).reshape(b, c, h, w)


def _normal_field(x: Tensor, u: dict[str, Tensor]) -> Tensor:
    """Standard normal numbers in the shape of x, from each image's own two seeds.

    A counter-based generator: pixel i of an image gets hash(seed, i), so the field of an image does not depend on the
    rest of the batch or on the device. The hash is lowbias32 (Wellons 2018), turned normal by Box and Muller (1958).
    """
    b, pixels = len(x), x[0].numel()
    half = (pixels + 1) // 2
    counter = torch.arange(half, device=x.device, dtype=torch.int64)
    keys = [(u[name] * SEED_STEPS).to(torch.int64)[:, None] for name in ("noise_seed", "noise_seed_2")]
    first = _hash32(_hash32(counter + keys[0] * 0x9E3779B1) ^ _hash32(keys[1]))
    second = _hash32(first ^ 0x5BD1E995)
    uniform = (first >> 8).to(torch.float32).add(0.5) / SEED_STEPS
    angle = (second >> 8).to(torch.float32) * (2 * math.pi / SEED_STEPS)
    radius = torch.sqrt(-2 * torch.log(uniform))
    both = torch.cat([radius * torch.cos(angle), radius * torch.sin(angle)], dim=1)
    return both[:, :pixels].reshape(b, *x.shape[1:])


def _hash32(value: Tensor) -> Tensor:
    """A bijection of 32-bit whole numbers (held in int64) that leaves no pattern."""
    value = value & 0xFFFFFFFF
    value = ((value ^ (value >> 16)) * 0x7FEB352D) & 0xFFFFFFFF
    value = ((value ^ (value >> 15)) * 0x846CA68B) & 0xFFFFFFFF
    return value ^ (value >> 16)


def _erase(x: Tensor, u: dict[str, Tensor], probability: float) -> Tensor:
    """Blank one rectangle (0, black) in each image that draws it."""
    height, width = x.shape[-2:]
    low, high = ERASE_AREA
    area = (low + u["erase_area"] * (high - low)) * height * width
    shape = torch.exp(_both_ways(u["erase_shape"]) * math.log(ERASE_SHAPE))
    rows = torch.sqrt(area * shape).round().clamp(1, height)
    columns = torch.sqrt(area / shape).round().clamp(1, width)
    top = (u["erase_y"] * (height - rows + 1)).floor()
    left = (u["erase_x"] * (width - columns + 1)).floor()
    y = torch.arange(height, device=x.device).view(1, 1, -1, 1)
    z = torch.arange(width, device=x.device).view(1, 1, 1, -1)
    inside = (y >= _per_image(top)) & (y < _per_image(top + rows))
    inside = inside & (z >= _per_image(left)) & (z < _per_image(left + columns))
    return x.masked_fill(inside & _per_image(u["erase"] < probability), 0.0)
