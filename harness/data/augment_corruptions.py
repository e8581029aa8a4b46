"""Blur, noise and erasing, with a strength of its own for every image.

B: images, C: channels, H, W: sides in pixels.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from harness.data.augment_area import Area, border_repeated, sides
from harness.data.augment_colour import per_image
from harness.data.augment_draws import at, both_ways

ERASE_AREA = (0.02, 0.25)
"""share of the picture that erasing blanks (random erasing, Zhong et al. 2020, with a smaller largest area)"""
ERASE_SHAPE = 3.0
"""height over width is between 1/3 and 3, log-uniform"""
SEED_STEPS = 2**24
"""a float32 in [0, 1) holds 24 random bits"""


def blur(x: Tensor, sigma_B: Tensor, largest: float, area: Area | None) -> Tensor:
    """Gaussian blur with a sigma (pixels) per image; the border is repeated outwards. largest: of all images that are
    ever blurred together, which sets how far the kernel reaches."""
    b, c, h, w = x.shape
    radius = max(1, math.ceil(3 * largest))
    offsets = torch.arange(-radius, radius + 1, dtype=torch.float32)
    # a sigma of nothing is the kernel 0..1..0, without dividing by 0
    kernel = torch.exp(-0.5 * (offsets / sigma_B[:, None].clamp(min=1e-3)) ** 2)
    kernel = (kernel / kernel.sum(dim=1, keepdim=True)).repeat_interleave(c, dim=0).to(x.device, non_blocking=True)
    flat = border_repeated(x, area).reshape(1, b * c, h, w)
    flat = F.pad(flat, (radius, radius, radius, radius), mode="replicate")
    flat = F.conv2d(flat, kernel[:, None, None, :], groups=b * c)
    return F.conv2d(flat, kernel[:, None, :, None], groups=b * c).reshape(b, c, h, w)


def add_noise(x: Tensor, deviation_B: Tensor, seed_B: Tensor, seed_2_B: Tensor) -> Tensor:
    """x with normal noise of this deviation from each image's own seeds; x is overwritten, nothing is clipped."""
    return x.add_(normal_field(x, seed_B, seed_2_B).mul_(per_image(deviation_B, x)))


def normal_field(x: Tensor, seed_B: Tensor, seed_2_B: Tensor) -> Tensor:
    """Standard normal numbers in the shape of x (B, ...), which is not read; seeds: float32 in [0, 1), on the CPU.

    A counter-based generator: pixel i of an image gets hash(seed, i), so the field of an image does not depend on the
    rest of the batch or on the device. The hash is lowbias32 (Wellons 2018), turned normal by Box and Muller (1958).
    """
    b, pixels = len(x), x[0].numel()
    half = (pixels + 1) // 2
    first, second = ((seed * SEED_STEPS).to(torch.int64)[:, None] for seed in (seed_B, seed_2_B))
    keys = torch.cat([_to_int32(first * 0x9E3779B1), _hash32(_to_int32(second))], dim=1)
    key_1, key_2 = keys.to(x.device, non_blocking=True).unsqueeze(2).unbind(1)
    bits = torch.arange(half, device=x.device, dtype=torch.int32) + key_1
    bits = _hash32(_hash32(bits).bitwise_xor_(key_2))
    more = _hash32(bits ^ 0x5BD1E995)
    out = torch.empty(b, 2 * half, device=x.device)
    cos, sin = out[:, :half], out[:, half:]
    # the upper 24 bits, as a number above 0 and below 1, and as an angle
    radius = (bits >> 8).bitwise_and_(0xFFFFFF).to(torch.float32).add_(0.5).div_(SEED_STEPS).log_().mul_(-2).sqrt_()
    angle = (more >> 8).to(torch.float32).mul_(2 * math.pi / SEED_STEPS)
    torch.cos(angle, out=cos).mul_(radius)
    torch.sin(angle, out=sin).mul_(radius)
    return out[:, :pixels].reshape(x.shape)


def _to_int32(value: Tensor) -> Tensor:
    """The lower 32 bits of whole numbers, as int32."""
    value = value & 0xFFFFFFFF
    return (value - ((value >> 31) << 32)).to(torch.int32)


def _hash32(value: Tensor) -> Tensor:
    """A bijection of 32-bit whole numbers that leaves no pattern; value, int32 whose products wrap, is overwritten."""
    value ^= (value >> 16).bitwise_and_(0xFFFF)
    value *= 0x7FEB352D
    value ^= (value >> 15).bitwise_and_(0x1FFFF)
    value *= 0x846CA68B - 2**32
    value ^= (value >> 16).bitwise_and_(0xFFFF)
    return value


def erase(x: Tensor, erased_B: Tensor, u_BP: Tensor, area: Area | None) -> Tensor:
    """One rectangle of each chosen image (1, not 0) blanked (0, black); x is overwritten."""
    top, left, height, width = sides(x, area)
    low, high = ERASE_AREA
    size = (low + at(u_BP, "erase_area") * (high - low)) * height * width
    shape = torch.exp(both_ways(at(u_BP, "erase_shape")) * math.log(ERASE_SHAPE))
    rows = torch.minimum(torch.sqrt(size * shape).round().clamp(min=1), height)
    columns = torch.minimum(torch.sqrt(size / shape).round().clamp(min=1), width)
    top = top + (at(u_BP, "erase_y") * (height - rows + 1)).floor()
    left = left + (at(u_BP, "erase_x") * (width - columns + 1)).floor()
    # of images that keep everything, no row
    edges = torch.stack([top, top + rows * erased_B, left, left + columns], dim=1).to(x.device, non_blocking=True)
    first_row, last_row, first_column, last_column = edges.unsqueeze(2).unbind(1)
    y, z = torch.arange(x.shape[2], device=x.device), torch.arange(x.shape[3], device=x.device)
    in_rows = (y >= first_row) & (y < last_row)
    in_columns = (z >= first_column) & (z < last_column)
    return x.mul_(~(in_rows[:, None, :, None] & in_columns[:, None, None, :]))
