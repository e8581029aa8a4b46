"""Images of their own sizes: augmented in the middle of a padded canvas as they would be without any padding."""

import pytest
import torch

from harness.augment.pipeline import apply, augment
from harness.augment.policies import CHANGES
from harness.augment.sampling import PARAMETERS, PLACES, draw
from harness.config.spec import Augment

SIZES = torch.tensor([[20, 31], [32, 32], [17, 24], [29, 12], [32, 31], [5, 7]])
NEUTRAL = 0.37
SPECS = {
    "hflip": Augment(hflip=0.5),
    "vflip": Augment(vflip=0.5),
    "rotate": Augment(rotate=60.0),
    "translate": Augment(translate=0.3),
    "scale": Augment(scale=0.4),
    "shear": Augment(shear=25.0),
    "flips and a turn of some": Augment(hflip=0.5, vflip=0.5, rotate=30.0, probability=0.5),
    "brightness": Augment(brightness=0.3),
    "contrast": Augment(contrast=0.6),
    "gamma": Augment(gamma=0.5),
    "saturation": Augment(saturation=0.8),
    "hue": Augment(hue=0.3),
    "blur": Augment(blur=2.0),
    "blur of some": Augment(blur=2.0, probability=0.5),
    "erase": Augment(erase=0.7),
    "randaugment": Augment(policy="randaugment", policy_ops=4, policy_magnitude=0.8),
    "everything": Augment(
        hflip=0.5, rotate=20.0, translate=0.1, contrast=0.3, gamma=0.2, blur=1.0, erase=0.5, policy="trivialaugment"
    ),
}


def padded(channels=3):
    """Images of SIZES in the middle of a canvas (6, channels, 32, 32) of NEUTRAL, which is darker than they are; and
    the images themselves."""
    generator = torch.Generator().manual_seed(1)
    canvas, own = torch.full((len(SIZES), channels, 32, 32), NEUTRAL), []
    for i, (h, w) in enumerate(SIZES.tolist()):
        own.append(0.4 + 0.5 * torch.rand(1, channels, h, w, generator=generator) ** 2)
        cut(canvas, i).copy_(own[-1])
    return canvas, own


def cut(canvas, i):
    (h, w), (height, width) = SIZES[i].tolist(), canvas.shape[2:]
    top, left = (height - h) // 2, (width - w) // 2
    return canvas[i : i + 1, :, top : top + h, left : left + w]


def assert_as_without_padding(spec, u):
    canvas, own = padded()
    before = canvas.clone()
    out = apply(canvas, u, spec, SIZES)
    assert torch.equal(canvas, before)
    for i in range(len(SIZES)):
        torch.testing.assert_close(cut(out, i), apply(own[i], u[i : i + 1], spec), rtol=0, atol=2e-4)
        cut(out, i).fill_(NEUTRAL)
    assert (out == torch.tensor(NEUTRAL)).all()


@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize("seed", range(4))
def test_an_image_comes_out_as_it_would_without_padding(name, seed):
    assert_as_without_padding(SPECS[name], draw(len(SIZES), torch.Generator().manual_seed(seed)))


@pytest.mark.parametrize("name", CHANGES)
def test_so_does_each_change_of_a_policy(name):
    u = torch.full((len(SIZES), PARAMETERS), 0.9)
    u[:, PLACES.index("policy_change_0")] = (CHANGES.index(name) + 0.5) / len(CHANGES)
    u[:, PLACES.index("policy_strength_0")] = torch.linspace(0.2, 0.99, len(SIZES))
    assert_as_without_padding(Augment(policy="trivialaugment", policy_magnitude=1.0), u)


def test_noise_stays_off_the_padding():
    canvas, _ = padded()
    out = augment(canvas, Augment(noise=0.3), torch.Generator().manual_seed(0), SIZES)
    for i in range(len(SIZES)):
        assert (cut(out, i) != cut(canvas, i)).float().mean() > 0.5
        cut(out, i).fill_(NEUTRAL)
    assert (out == torch.tensor(NEUTRAL)).all()


@pytest.mark.parametrize("name", ["contrast", "rotate", "randaugment"])
def test_padding_that_nobody_speaks_of_is_taken_for_the_image(name):
    """What the sizes are good for: without them the same draws give something else."""
    canvas, u = padded()[0], draw(len(SIZES), torch.Generator().manual_seed(0))
    assert not torch.equal(apply(canvas, u, SPECS[name]), apply(canvas, u, SPECS[name], SIZES))


def test_sizes_of_the_whole_canvas_are_no_sizes():
    x, u = torch.rand(3, 1, 8, 8), draw(3, torch.Generator().manual_seed(0))
    spec = SPECS["everything"]
    assert torch.equal(apply(x, u, spec, torch.tensor([[8, 8]] * 3)), apply(x, u, spec))
