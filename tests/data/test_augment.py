"""Augmentation: each image by its own draws, exact where it can be, in range, and comparable between trials."""

import math

import pytest
import torch

from harness.data.augment import PARAMETERS, PLACES, _normal_field, apply, augment, draw
from harness.study.training import Augment

EVERYTHING = Augment(
    hflip=0.5,
    vflip=0.5,
    rotate=20.0,
    translate=0.1,
    scale=0.2,
    shear=10.0,
    brightness=0.2,
    contrast=0.3,
    gamma=0.3,
    noise=0.1,
    blur=1.5,
    erase=0.5,
)
SWITCHES = sorted(EVERYTHING.model_dump())


def only(name: str) -> Augment:
    return Augment(**{name: getattr(EVERYTHING, name)})


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pictures(batch: int = 6, channels: int = 1, height: int = 16, width: int = 16) -> torch.Tensor:
    return torch.rand(batch, channels, height, width, generator=generator(99))


def forced(batch: int, **values: float) -> torch.Tensor:
    """Draws in the middle (no change where both ways are possible), but for the named places."""
    u = torch.full((batch, PARAMETERS), 0.5)
    for name, value in values.items():
        u[:, PLACES.index(name)] = value
    return u


@pytest.mark.parametrize("name", [*SWITCHES, "everything"])
@pytest.mark.parametrize("channels", [1, 3])
def test_shape_and_range_hold_and_something_changes(name, channels):
    spec = EVERYTHING if name == "everything" else only(name)
    x = pictures(8, channels, 16, 12)
    before = x.clone()
    out = augment(x, spec, generator())
    assert out.shape == x.shape and out.dtype == torch.float32
    assert out.min() >= 0 and out.max() <= 1
    assert not torch.equal(out, x) and torch.equal(x, before)


@pytest.mark.parametrize("name", [*SWITCHES, "everything"])
def test_a_batch_is_its_images_one_by_one(name):
    spec = EVERYTHING if name == "everything" else only(name)
    x, u = pictures(5, 3), draw(5, generator(1))
    alone = torch.cat([apply(x[i : i + 1], u[i : i + 1], spec) for i in range(5)])
    torch.testing.assert_close(apply(x, u, spec), alone, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", SWITCHES)
def test_equal_images_in_one_batch_come_out_different(name):
    x = pictures(1).expand(16, -1, -1, -1)
    out = augment(x, only(name), generator(2))
    assert len(torch.unique(out.flatten(1), dim=0)) >= (2 if name in ("hflip", "vflip") else 6)


def test_all_off_is_the_same_object_and_uses_up_the_same_numbers():
    x, off, on = pictures(), generator(), generator()
    assert augment(x, Augment(), off) is x
    augment(x, EVERYTHING, on)
    assert torch.equal(torch.rand(4, generator=off), torch.rand(4, generator=on))


def test_the_same_generator_gives_the_same_batch_and_the_next_another():
    one = generator(5)
    first, second = augment(pictures(), EVERYTHING, one), augment(pictures(), EVERYTHING, one)
    assert torch.equal(first, augment(pictures(), EVERYTHING, generator(5)))
    assert not torch.equal(first, second)


@pytest.mark.parametrize("name", SWITCHES)
def test_what_one_switch_draws_does_not_depend_on_the_others(name):
    """Every other switch on, but at its neutral draw: the result is that of the one switch alone."""
    x, u = pictures(), draw(6, generator(3))
    place = [i for i, at in enumerate(PLACES) if at.split("_")[0] == name]
    neutral = forced(6, hflip=1.0, vflip=1.0, noise=0.0, blur=0.0, erase=1.0)
    neutral[:, place] = u[:, place]
    # an index flip and a resampled flip agree but for rounding
    torch.testing.assert_close(apply(x, neutral, EVERYTHING), apply(x, u, only(name)), rtol=0, atol=2e-5)


@pytest.mark.parametrize(("name", "axis"), [("hflip", 3), ("vflip", 2)])
def test_flips_are_exact(name, axis):
    x = pictures(4, 3, 9, 7)
    assert torch.equal(augment(x, Augment(**{name: 1.0}), generator()), x.flip(axis))
    # folded into a resampling of no turn they move the same pixels
    resampled = apply(x, forced(4), Augment(**{name: 1.0}, rotate=10.0))
    torch.testing.assert_close(resampled, x.flip(axis), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("degrees", "quarters"), [(90.0, 1), (180.0, 2)])
def test_quarter_turns_are_rot90(degrees, quarters):
    x = pictures(2, 1, 8, 8)
    turned = apply(x, forced(2, rotate=1.0), Augment(rotate=degrees))
    torch.testing.assert_close(turned, torch.rot90(x, quarters, (2, 3)), rtol=0, atol=1e-5)
    back = apply(x, forced(2, rotate=0.0), Augment(rotate=degrees))
    torch.testing.assert_close(back, torch.rot90(x, -quarters, (2, 3)), rtol=0, atol=1e-5)


def test_a_turn_keeps_proportions_in_a_picture_that_is_not_square():
    x = torch.zeros(1, 1, 21, 41)
    x[0, 0, 10, 14:27] = 1.0
    turned = apply(x, forced(1, rotate=1.0), Augment(rotate=90.0))
    torch.testing.assert_close(turned[0, 0, 4:17, 20], torch.ones(13), rtol=0, atol=1e-4)
    assert turned.sum() == pytest.approx(13.0, abs=1e-3)


def test_a_shift_by_whole_pixels_moves_pixels_and_fills_with_black():
    x = pictures(1, 1, 8, 8)
    moved = apply(x, forced(1, translate_x=1.0, translate_y=0.5), Augment(translate=0.25))
    torch.testing.assert_close(moved[..., 2:], x[..., :-2], rtol=0, atol=1e-5)
    assert moved[..., :2].abs().max() == 0


def test_zoom_is_by_the_stated_factor_either_way():
    x = torch.zeros(1, 1, 64, 64)
    x[..., 24:40, 24:40] = 1.0
    larger = apply(x, forced(1, scale=1.0), Augment(scale=0.5))
    smaller = apply(x, forced(1, scale=0.0), Augment(scale=0.5))
    assert larger.sum() == pytest.approx(16 * 16 * 1.5**2, rel=0.02)
    # two thirds of 16 pixels end between pixels
    assert smaller.sum() == pytest.approx(16 * 16 / 1.5**2, rel=0.05)


def test_intensity_changes_are_the_stated_ones():
    x = pictures(2) * 0.5 + 0.25
    torch.testing.assert_close(apply(x, forced(2, brightness=1.0), Augment(brightness=0.1)), x + 0.1)
    mean = x.mean(dim=(1, 2, 3), keepdim=True)
    contrast = apply(x, forced(2, contrast=0.0), Augment(contrast=0.2))
    torch.testing.assert_close(contrast, mean + 0.8 * (x - mean))
    torch.testing.assert_close(apply(x, forced(2, gamma=1.0), Augment(gamma=0.5)), x ** math.exp(0.5))


def test_blur_keeps_flat_areas_and_spreads_a_point_by_its_sigma():
    flat = torch.full((1, 1, 9, 9), 0.3)
    torch.testing.assert_close(apply(flat, forced(1, blur=1.0), Augment(blur=2.0)), flat)
    point = torch.zeros(1, 1, 31, 31)
    point[..., 15, 15] = 1.0
    out = apply(point, forced(1, blur=1.0), Augment(blur=2.0))[0, 0]
    at = torch.arange(31.0) - 15
    assert out.sum() == pytest.approx(1.0, abs=1e-5)
    assert (out.sum(dim=0) * at**2).sum() == pytest.approx(4.0, rel=0.05)


def test_noise_is_normal_without_pattern_and_its_own_for_each_image():
    x = torch.full((64, 1, 64, 64), 0.5)
    u = dict(zip(PLACES, draw(64, generator(4)).unbind(1), strict=False))
    field = _normal_field(x, u).flatten(1)
    n = field.numel()
    assert field.mean().abs() < 5 / math.sqrt(n)
    assert field.var() == pytest.approx(1.0, abs=5 * math.sqrt(2 / n))
    assert (field**4).mean() == pytest.approx(3.0, abs=5 * math.sqrt(96 / n))
    for lag in (1, 2, 64, 2048):
        assert (field[:, lag:] * field[:, :-lag]).mean().abs() < 5 / math.sqrt(n - 64 * lag)
    correlation = torch.corrcoef(field) - torch.eye(64)
    assert correlation.abs().max() < 6 / math.sqrt(4096)


def test_erasing_blanks_one_rectangle_of_the_stated_size():
    x = torch.ones(200, 1, 40, 30)
    out = augment(x, Augment(erase=1.0), generator(6))
    blank = (out == 0).float()
    share = blank.mean(dim=(1, 2, 3))
    assert share.min() > 0.01 and share.max() < 0.27
    rows, columns = blank.amax(dim=3).sum(dim=2), blank.amax(dim=2).sum(dim=2)
    assert torch.equal(rows * columns, blank.sum(dim=(2, 3)))
    half = augment(x, Augment(erase=0.5), generator(6))
    erased = (half == 0).flatten(1).any(dim=1)
    assert 70 < erased.sum() < 130
    assert torch.equal(half[erased], out[erased])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_devices_agree():
    x, u = pictures(8, 3, 32, 32), draw(8, generator(7))
    on_device = apply(x.cuda(), u, EVERYTHING).cpu()
    torch.testing.assert_close(on_device, apply(x, u, EVERYTHING), rtol=0, atol=2e-3)
