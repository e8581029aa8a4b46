"""Augmentation: each image by its own draws, exact where it can be, in range, and comparable between trials."""

import math

import pytest
import torch

from harness.augment.pipeline import apply, augment
from harness.augment.sampling import GATED, PARAMETERS, PLACES, amounts, at, draw
from harness.augment.transforms import normal_field
from harness.config.spec import Augment

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
    saturation=0.5,
    hue=0.2,
    noise=0.1,
    blur=1.5,
    erase=0.5,
)
SWITCHES = sorted(name for name, value in EVERYTHING if value not in (0, "none") and value != getattr(Augment(), name))
OF_COLOUR = ("saturation", "hue")


def only(name: str) -> Augment:
    return Augment(**{name: getattr(EVERYTHING, name)})


ALONE = {
    **{name: only(name) for name in SWITCHES},
    "everything": EVERYTHING,
    "half": EVERYTHING.model_copy(update={"probability": 0.5}),
    "randaugment": Augment(policy="randaugment", policy_ops=3, policy_magnitude=0.6),
    "trivialaugment": Augment(policy="trivialaugment", policy_magnitude=1.0),
    "both": EVERYTHING.model_copy(update={"policy": "randaugment"}),
}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pictures(batch: int = 6, channels: int = 1, height: int = 16, width: int = 16) -> torch.Tensor:
    return torch.rand(batch, channels, height, width, generator=generator(99))


def forced(batch: int, **values: float) -> torch.Tensor:
    """Draws in the middle (no change where both ways are possible, no change by a policy), but for the named places."""
    u = torch.full((batch, PARAMETERS), 0.5)
    u[:, [i for i, place in enumerate(PLACES) if place.startswith("policy_change")]] = 0.0
    for name, value in values.items():
        u[:, PLACES.index(name)] = value
    return u


@pytest.mark.parametrize("name", ALONE)
@pytest.mark.parametrize("channels", [1, 3])
def test_shape_and_range_hold_and_something_changes(name, channels):
    x = pictures(8, channels, 16, 12)
    before = x.clone()
    out = augment(x, ALONE[name], generator())
    assert out.shape == x.shape and out.dtype == torch.float32
    assert out.min() >= 0 and out.max() <= 1
    assert torch.equal(x, before)
    assert torch.equal(out, x) == (channels == 1 and name in OF_COLOUR)


@pytest.mark.parametrize("name", ALONE)
@pytest.mark.parametrize("channels", [1, 3])
def test_a_batch_is_its_images_one_by_one(name, channels):
    x, u = pictures(7, channels), draw(7, generator(1))
    alone = torch.cat([apply(x[i : i + 1], u[i : i + 1], ALONE[name]) for i in range(7)])
    torch.testing.assert_close(apply(x, u, ALONE[name]), alone, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ALONE)
def test_the_order_in_memory_changes_nothing(name):
    x, u = pictures(7, 3), draw(7, generator(1))
    last = x.contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(apply(last, u, ALONE[name]), apply(x, u, ALONE[name]), rtol=0, atol=1e-6)


def test_the_split_into_batches_changes_nothing():
    x, one, other = pictures(8, 3), generator(4), generator(4)
    parts = [augment(x[a:b], EVERYTHING, one) for a, b in ((0, 3), (3, 8))]
    torch.testing.assert_close(torch.cat(parts), augment(x, EVERYTHING, other), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", SWITCHES)
def test_equal_images_in_one_batch_come_out_different(name):
    x = pictures(1, 3).expand(16, -1, -1, -1)
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
    x, u = pictures(6, 3), draw(6, generator(3))
    place = [i for i, at in enumerate(PLACES) if at.split("_")[0] == name]
    neutral = forced(6, hflip=1.0, vflip=1.0, noise=0.0, blur=0.0, erase=1.0)
    neutral[:, place] = u[:, place]
    for policy in ("none", "randaugment", "trivialaugment"):
        spec = EVERYTHING.model_copy(update={"policy": policy})
        torch.testing.assert_close(apply(x, neutral, spec), apply(x, u, only(name)), rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", GATED)
def test_each_change_is_made_with_the_stated_probability(name):
    u = draw(4000, generator(8))
    always, half = amounts(u, only(name)), amounts(u, only(name).model_copy(update={"probability": 0.5}))
    assert always.keys() == half.keys()
    for place, value in half.items():
        made = value != 0
        assert made.float().mean() == pytest.approx(0.5, abs=0.04)
        # who is changed is changed as much as without the coin
        assert torch.equal(value[made], always[place][made])
    assert amounts(u, only(name).model_copy(update={"probability": 0.0})) == {}


def test_changes_are_made_independently_of_each_other():
    made = amounts(draw(4000, generator(9)), EVERYTHING.model_copy(update={"probability": 0.5}))
    table = torch.stack([made["translate_x" if name == "translate" else name] != 0 for name in GATED]).float()
    assert (torch.corrcoef(table) - torch.eye(len(GATED))).abs().max() < 0.08
    # a shift goes both ways or not at all
    assert torch.equal(made["translate_x"] != 0, made["translate_y"] != 0)


def test_an_image_whose_coins_all_say_no_is_exactly_the_same():
    x, u = pictures(64, 3), draw(64, generator(10))
    spec = Augment(rotate=20.0, brightness=0.2, blur=1.0, hue=0.1, probability=0.3)
    coins = [PLACES.index(f"make_{name}") for name in ("rotate", "brightness", "blur", "hue")]
    untouched = (u[:, coins] >= 0.3).all(dim=1)
    same = (apply(x, u, spec) == x).flatten(1).all(dim=1)
    assert 5 < untouched.sum() < 30 and same[untouched].all()
    # a blur too weak to be seen comes now and then
    assert same[~untouched].float().mean() < 0.1


def test_flips_and_erasing_have_probabilities_of_their_own():
    x, u = pictures(), draw(6, generator(11))
    spec = Augment(hflip=0.5, vflip=0.5, erase=0.5)
    assert torch.equal(apply(x, u, spec.model_copy(update={"probability": 0.0})), apply(x, u, spec))


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
    u = draw(64, generator(4))
    field = normal_field(x, at(u, "noise_seed"), at(u, "noise_seed_2")).flatten(1)
    n = field.numel()
    assert field.mean().abs() < 5 / math.sqrt(n)
    assert field.var() == pytest.approx(1.0, abs=5 * math.sqrt(2 / n))
    assert (field**4).mean() == pytest.approx(3.0, abs=5 * math.sqrt(96 / n))
    for lag in (1, 2, 64, 2048):
        assert (field[:, lag:] * field[:, :-lag]).mean().abs() < 5 / math.sqrt(n - 64 * lag)
    correlation = torch.corrcoef(field) - torch.eye(64)
    assert correlation.abs().max() < 6 / math.sqrt(4096)


def test_noise_depends_on_both_of_its_seeds():
    x = torch.zeros(3, 1, 64, 64)
    field = normal_field(x, torch.tensor([0.2, 0.2, 0.7]), torch.tensor([0.4, 0.9, 0.4])).flatten(1)
    assert (torch.corrcoef(field) - torch.eye(3)).abs().max() < 5 / 64


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
