"""Changes of grey levels and colours against torchvision's, on 8-bit pictures, image by image with other strengths."""

import pytest
import torch
from scipy.stats import chisquare, kstest
from torchvision.transforms import v2
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as reference

from harness.augment.pipeline import apply
from harness.augment.policies import CHANGES, COLOUR, SIGNED, colour_change, slots
from harness.augment.sampling import PARAMETERS, PLACES, draw
from harness.augment.transforms import hue, saturation, to_grey
from harness.config.spec import Augment

FACTORS = [0.05, 0.4, 1.0, 1.3, 1.95]
B = len(FACTORS)


def pictures(channels):
    """(5, channels, 40, 30) uint8: smooth pictures of other ranges, one of them flat in its first channel."""
    generator = torch.Generator().manual_seed(3)
    x = torch.nn.functional.interpolate(torch.rand(B, channels, 6, 5, generator=generator), (40, 30), mode="bicubic")
    x = x.clamp(0, 1) * torch.tensor([0.5, 0.7, 1.0, 0.9, 1.0]).view(-1, 1, 1, 1)
    x = x + torch.tensor([0.1, 0.2, 0.0, 0.05, 0.0]).view(-1, 1, 1, 1)
    x[3, 0] = 0.4
    x[2, :, :3] = 0.0
    return (x * 255).round().to(torch.uint8)


def levels(x):
    return (x * 255).round().to(torch.int64)


def assert_levels(ours, theirs, name=""):
    """Equal up to what torchvision rounds: once, or twice where it rounds a grey level on the way."""
    within = {"posterize": 0, "solarize": 0, "equalize": 0, "colour": 2, "contrast": 2}.get(name, 1)
    apart = (levels(ours) - theirs.to(torch.int64)).abs()
    assert apart.max() <= within, f"up to {apart.max()} grey levels apart"


REFERENCES = {
    "brightness": (FACTORS, reference.adjust_brightness),
    "colour": (FACTORS, reference.adjust_saturation),
    "contrast": (FACTORS, reference.adjust_contrast),
    "sharpness": (FACTORS, reference.adjust_sharpness),
    "posterize": ([1.0, 2.0, 4.0, 7.0, 8.0], lambda x, bits: reference.posterize(x, int(bits))),
    "solarize": ([0.0, 50.0, 128.0, 200.0, 255.0], reference.solarize),
    "autocontrast": (FACTORS, lambda x, _: reference.autocontrast(x)),
    "equalize": (FACTORS, lambda x, _: reference.equalize(x)),
}


@pytest.mark.parametrize("name", COLOUR)
@pytest.mark.parametrize("channels", [1, 3])
def test_each_change_is_torchvisions(name, channels):
    values, theirs = REFERENCES[name]
    x = pictures(channels)
    ours = colour_change(name, x / 255, torch.tensor(values), None)
    for i, value in enumerate(values):
        assert_levels(ours[i], theirs(x[i], value), name)


@pytest.mark.parametrize("channels", [1, 3])
def test_saturation_and_hue_are_torchvisions(channels):
    x = pictures(channels)
    ours = saturation(x / 255, torch.tensor(FACTORS) - 1)
    turns = [-0.5, -0.2, 0.0, 0.1, 0.45]
    turned = hue(x / 255, torch.tensor(turns))
    for i in range(B):
        assert_levels(ours[i], reference.adjust_saturation(x[i], FACTORS[i]), "colour")
        assert_levels(turned[i], reference.adjust_hue(x[i], turns[i]))
    if channels == 1:
        assert torch.equal(ours, x / 255) and torch.equal(turned, x / 255)


def test_red_turned_by_a_third_is_green_and_by_two_thirds_blue():
    red = torch.tensor([1.0, 0.0, 0.0]).view(1, 3, 1, 1)
    torch.testing.assert_close(hue(red, torch.tensor([1 / 3])), red.roll(1, 1))
    torch.testing.assert_close(hue(red, torch.tensor([-1 / 3])), red.roll(2, 1))


def test_grey_stays_exactly_grey_in_a_colour_image():
    grey = torch.rand(16, 1, 8, 8).expand(-1, 3, -1, -1).contiguous()
    assert torch.equal(to_grey(grey), grey[:, :1])
    spec = Augment(saturation=1.0, hue=0.5)
    assert torch.equal(apply(grey, draw(16, torch.Generator().manual_seed(0)), spec), grey)


def test_two_and_four_channels_have_no_colour():
    for channels in (2, 4):
        x = torch.rand(8, channels, 6, 6)
        u = draw(8, torch.Generator().manual_seed(0))
        assert torch.equal(apply(x, u, Augment(saturation=1.0, hue=0.5)), x)
        for policy in ("randaugment", "trivialaugment"):
            assert apply(x, u, Augment(policy=policy)).shape == x.shape


SPACES = {
    "randaugment": (v2.RandAugment(num_ops=1), [0, 9, 30]),
    "trivialaugment": (v2.TrivialAugmentWide(), [0, 13, 30]),
}
THEIR_NAMES = {name: name.capitalize() for name in COLOUR} | {"colour": "Color", "autocontrast": "AutoContrast"}


@pytest.mark.parametrize("policy", SPACES)
@pytest.mark.parametrize("name", COLOUR)
@pytest.mark.parametrize("sign", [1, -1])
def test_a_strength_means_what_it_means_to_torchvision(policy, name, sign):
    """The whole way, from draws to pixels; torchvision has the papers' 31 strengths."""
    theirs, bins = SPACES[policy]
    magnitudes, signed = theirs._AUGMENTATION_SPACE[THEIR_NAMES[name]]
    assert signed == (name in SIGNED)
    x = pictures(3)
    for bin_ in bins:
        magnitude = 0.0 if (table := magnitudes(31, 40, 30)) is None else float(table[bin_]) * (sign if signed else 1)
        u = torch.full((B, PARAMETERS), 0.5)
        u[:, PLACES.index("policy_change_0")] = (CHANGES.index(name) + 0.5) / len(CHANGES)
        u[:, PLACES.index("policy_strength_0")] = (bin_ + 0.5) / 31
        u[:, PLACES.index("policy_sign_0")] = 0.9 if sign > 0 else 0.1
        largest = 1.0 if policy == "trivialaugment" else bin_ / 30
        ours = apply(x / 255, u, Augment(policy=policy, policy_ops=1, policy_magnitude=largest))
        for i in range(B):
            wanted = theirs._apply_image_or_video_transform(
                x[i], THEIR_NAMES[name], magnitude, interpolation=InterpolationMode.BILINEAR, fill={}
            )
            if name == "solarize":
                # at strength s the papers invert from level 256 (1 - s), torchvision from 255 (1 - s)
                between = (x[i] >= 255 * magnitude) & (x[i] < 256 * magnitude)
                wanted = torch.where(between, x[i], wanted)
            assert_levels(ours[i], wanted, name)


def test_a_policy_draws_every_change_equally_often_and_both_ways():
    n = 20_000
    u = draw(n, torch.Generator().manual_seed(5))
    drawn = slots(u, Augment(policy="randaugment", policy_ops=8, policy_magnitude=0.3))
    assert len(drawn) == 8
    signed = torch.tensor([name in SIGNED for name in CHANGES])
    for slot in drawn:
        assert chisquare(torch.bincount(slot.change, minlength=len(CHANGES)).numpy()).pvalue > 1e-3
        torch.testing.assert_close(slot.strength.abs(), torch.full((n,), 0.3))
        assert (slot.strength[signed[slot.change]] > 0).float().mean() == pytest.approx(0.5, abs=0.02)
        assert (slot.strength[~signed[slot.change]] > 0).all()
    pairs = torch.stack([slot.change for slot in drawn]).float()
    assert (torch.corrcoef(pairs) - torch.eye(8)).abs().max() < 0.04


def test_trivialaugment_draws_one_change_of_any_strength():
    u = draw(20_000, torch.Generator().manual_seed(6))
    (slot,) = slots(u, Augment(policy="trivialaugment", policy_ops=5, policy_magnitude=0.5))
    strengths, counts = torch.unique(slot.strength.abs(), return_counts=True)
    torch.testing.assert_close(strengths, torch.linspace(0, 0.5, 31))
    assert chisquare(counts.numpy()).pvalue > 1e-3
    assert kstest(slot.strength.abs().double().numpy(), "uniform", (0, 0.5)).statistic < 0.04


@pytest.mark.parametrize("name", COLOUR)
def test_a_change_of_colour_acts_on_each_image_alone(name):
    x, values = pictures(3) / 255, torch.tensor(REFERENCES[name][0])
    alone = [colour_change(name, x[i : i + 1].clone(), values[i : i + 1], None) for i in range(B)]
    torch.testing.assert_close(colour_change(name, x.clone(), values, None), torch.cat(alone), rtol=0, atol=1e-6)


@pytest.mark.parametrize("shape", [(1, 1), (2, 5), (5, 2)])
@pytest.mark.parametrize("name", COLOUR)
def test_pictures_of_next_to_no_pixels_come_through(name, shape):
    x = torch.rand(B, 3, *shape)
    out = colour_change(name, x.clone(), torch.tensor(REFERENCES[name][0]), None)
    assert out.shape == x.shape and out.isfinite().all() and out.min() >= 0 and out.max() <= 1
