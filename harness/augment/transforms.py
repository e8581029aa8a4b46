"""Random changes of a batch of images: padding, geometry, colour, blur, noise and erasing.

Which images of a batch are changed, and where in its canvas each of them lies.

Images of their own sizes stand in the middle of a padded canvas. Augmentation must not see the padding: a mean, a
histogram, a turn about the middle, a share of the side are the image's own. Where all images fill their canvas there is
no Area but None.

B: images, C: channels, H, W: sides of the canvas.

Moving pixels: flips by index, and everything else as one resampling.

A change of geometry is a matrix (B, 3, 3) that says, for each pixel of the result, where in the picture it comes from:
in pixels, from the middle of the image, x to the right and y down. Matrices are multiplied on the CPU, whoever asks for
the changes, and the picture is looked up once. What is moved in from outside the picture is 0 (black).

B: images, C: channels, H, W: sides in pixels.

Changes of grey levels and colours, pixel by pixel, with a strength of its own for every image.

Each function takes images in [0, 1] (B, C, H, W) and (B,) strengths on the CPU. Means are those of the image's own
area. Images of other than three channels have no colour: hue and saturation leave them as they are. Grey pixels of
colour images keep their levels exactly.

B: images, C: channels, H, W: sides in pixels.

Blur, noise and erasing, with a strength of its own for every image.

B: images, C: channels, H, W: sides in pixels.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from harness.augment.sampling import at, both_ways


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
