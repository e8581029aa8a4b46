"""Flips, turns, shifts and zooms on pictures that a person can see, and by formulas where a picture says too little."""

import math

import pytest
import torch

from harness.augment.pipeline import apply
from harness.augment.policies import CHANGES
from harness.augment.sampling import PARAMETERS, PLACES
from harness.config.spec import Augment

LETTER = """
    #######.
    #.......
    #.......
    ####....
    #.......
    #.......
    #.......
    ........
"""


def picture(text):
    """(1, 1, H, W) with 1 for #, 0 for . and 0.5 for +."""
    return torch.tensor([[[[".+#".index(c) / 2 for c in line] for line in text.split()]]])


def drawn(x):
    """What `picture` was given, without its indentation; anything else than those three levels is ?"""
    lines = [["".join(_letter(v) for v in row) for row in image] for image in x[:, 0].tolist()]
    return ["\n".join(one) for one in lines]


def _letter(value):
    for letter, level in zip(".+#", (0, 0.5, 1), strict=True):
        if abs(value - level) < 1e-4:
            return letter
    return "?"


def shown(text):
    return "\n".join(text.split())


def forced(batch=1, **values):
    """Draws in the middle (no change where both ways are possible, no change by a policy), but for the named places."""
    u = torch.full((batch, PARAMETERS), 0.5)
    u[:, [i for i, place in enumerate(PLACES) if place.startswith("policy_change")]] = 0.0
    for name, value in values.items():
        u[:, PLACES.index(name)] = value
    return u


def policy(*names, strength=1.0, sign=1):
    """Draws in which a policy makes these changes, at the upper or lower end of what it draws."""
    values = {}
    for slot, name in enumerate(names):
        values[f"policy_change_{slot}"] = (CHANGES.index(name) + 0.5) / len(CHANGES)
        values[f"policy_strength_{slot}"] = (30 * strength + 0.5) / 31
        values[f"policy_sign_{slot}"] = 0.9 if sign > 0 else 0.1
    return forced(**values)


FLIPPED_LEFT_RIGHT = """
    .#######
    .......#
    .......#
    ....####
    .......#
    .......#
    .......#
    ........
"""
FLIPPED_UP_DOWN = """
    ........
    #.......
    #.......
    #.......
    ####....
    #.......
    #.......
    #######.
"""
TURNED_COUNTER_CLOCKWISE = """
    ........
    #.......
    #.......
    #.......
    #..#....
    #..#....
    #..#....
    #######.
"""
TURNED_CLOCKWISE = """
    .#######
    ....#..#
    ....#..#
    ....#..#
    .......#
    .......#
    .......#
    ........
"""
UPSIDE_DOWN = """
    ........
    .......#
    .......#
    .......#
    ....####
    .......#
    .......#
    .#######
"""
FLIPPED_THEN_TURNED = """
    #######.
    #..#....
    #..#....
    #..#....
    #.......
    #.......
    #.......
    ........
"""
MOVED_RIGHT_AND_DOWN = """
    ........
    ..######
    ..#.....
    ..#.....
    ..####..
    ..#.....
    ..#.....
    ..#.....
"""
TURN = Augment(rotate=90.0)
SEEN = [
    (Augment(hflip=1.0), forced(), FLIPPED_LEFT_RIGHT),
    (Augment(vflip=1.0), forced(), FLIPPED_UP_DOWN),
    (Augment(hflip=1.0, vflip=1.0), forced(), UPSIDE_DOWN),
    (Augment(hflip=1.0, rotate=10.0), forced(), FLIPPED_LEFT_RIGHT),
    (TURN, forced(rotate=1.0), TURNED_COUNTER_CLOCKWISE),
    (TURN, forced(rotate=0.0), TURNED_CLOCKWISE),
    (Augment(rotate=180.0), forced(rotate=1.0), UPSIDE_DOWN),
    (Augment(rotate=90.0, hflip=1.0), forced(rotate=1.0), FLIPPED_THEN_TURNED),
    (Augment(rotate=90.0, hflip=1.0, vflip=1.0), forced(rotate=1.0), TURNED_CLOCKWISE),
    (Augment(translate=0.25), forced(translate_x=1.0, translate_y=0.75), MOVED_RIGHT_AND_DOWN),
]


@pytest.mark.parametrize(("spec", "u", "wanted"), SEEN)
def test_the_letter_comes_out_as_drawn(spec, u, wanted):
    assert drawn(apply(picture(LETTER), u, spec)) == [shown(wanted)]


def test_a_shear_slides_rows_against_each_other():
    bar = picture("""
        ..#..
        ..#..
        ..#..
        ..#..
        ..#..
    """)
    wanted = """
        ....#
        ...#.
        ..#..
        .#...
        #....
    """
    assert drawn(apply(bar, forced(shear=1.0), Augment(shear=45.0))) == [shown(wanted)]
    assert drawn(apply(bar.flip(2), forced(shear=0.0), Augment(shear=45.0)).flip(2)) == [shown(wanted)]


@pytest.mark.parametrize(("name", "axis"), [("hflip", 3), ("vflip", 2)])
def test_flips_are_exact(name, axis):
    x = torch.rand(4, 3, 9, 7)
    assert torch.equal(apply(x, forced(4), Augment(**{name: 1.0})), x.flip(axis))
    # folded into a resampling that does next to nothing they move the same pixels
    turned = apply(x, forced(4, rotate=0.5000001), Augment(**{name: 1.0}, rotate=1.0))
    torch.testing.assert_close(turned, x.flip(axis), rtol=0, atol=1e-4)


@pytest.mark.parametrize(("degrees", "quarters"), [(90.0, 1), (180.0, 2)])
def test_quarter_turns_are_rot90(degrees, quarters):
    x = torch.rand(2, 3, 8, 8)
    turned = apply(x, forced(2, rotate=1.0), Augment(rotate=degrees))
    torch.testing.assert_close(turned, torch.rot90(x, quarters, (2, 3)), rtol=0, atol=1e-5)


def test_a_turn_keeps_proportions_in_a_picture_that_is_not_square():
    x = torch.zeros(1, 1, 21, 41)
    x[0, 0, 10, 14:27] = 1.0
    turned = apply(x, forced(rotate=1.0), Augment(rotate=90.0))
    torch.testing.assert_close(turned[0, 0, 4:17, 20], torch.ones(13), rtol=0, atol=1e-4)
    assert turned.sum() == pytest.approx(13.0, abs=1e-3)


def test_a_shift_by_whole_pixels_moves_pixels_and_fills_with_black():
    x = torch.rand(1, 1, 8, 8)
    moved = apply(x, forced(translate_x=1.0, translate_y=0.5), Augment(translate=0.25))
    torch.testing.assert_close(moved[..., 2:], x[..., :-2], rtol=0, atol=1e-5)
    assert moved[..., :2].abs().max() == 0


def test_zoom_is_by_the_stated_factor_either_way():
    x = torch.zeros(1, 1, 64, 64)
    x[..., 24:40, 24:40] = 1.0
    larger = apply(x, forced(scale=1.0), Augment(scale=0.5))
    smaller = apply(x, forced(scale=0.0), Augment(scale=0.5))
    assert larger.sum() == pytest.approx(16 * 16 * 1.5**2, rel=0.02)
    # two thirds of 16 pixels end between pixels
    assert smaller.sum() == pytest.approx(16 * 16 / 1.5**2, rel=0.05)


def test_a_zoom_then_a_turn_then_a_shift():
    """The order of the parts: turning and zooming are about the middle, so shifting comes last."""
    both = Augment(rotate=90.0, translate=0.25, scale=0.5)
    x = torch.zeros(1, 1, 24, 24)
    x[..., 10:14, 6:10] = 1.0  # left of the middle: below it after the turn
    out = apply(x, forced(rotate=1.0, translate_x=1.0, scale=1.0), both)
    y, z = torch.nonzero(out[0, 0] > 0.5).float().mean(dim=0).tolist()
    assert (y, z) == (pytest.approx(11.5 + 4 * 1.5, abs=0.3), pytest.approx(11.5 + 6, abs=0.3))


@pytest.mark.parametrize("name", ["randaugment", "trivialaugment"])
def test_a_policy_turns_by_its_degrees_about_the_middle(name):
    degrees = {"randaugment": 30.0, "trivialaugment": 135.0}[name]
    x = torch.rand(1, 1, 31, 31)
    for sign, at in ((1, 1.0), (-1, 0.0)):
        by_policy = apply(x, policy("rotate", sign=sign), Augment(policy=name, policy_ops=1, policy_magnitude=1.0))
        own = apply(x, forced(rotate=at), Augment(rotate=degrees))
        torch.testing.assert_close(by_policy, own, rtol=0, atol=1e-4)


@pytest.mark.parametrize(("name", "side", "shift"), [("randaugment", 331, 150), ("trivialaugment", 224, 32)])
@pytest.mark.parametrize(("change", "axis"), [("translate_x", 3), ("translate_y", 2)])
def test_a_policy_shifts_by_the_papers_pixels(name, side, shift, change, axis):
    x = torch.rand(1, 1, 5, side) if axis == 3 else torch.rand(1, 1, side, 5)
    spec = Augment(policy=name, policy_ops=1, policy_magnitude=1.0)
    right, left = apply(x, policy(change), spec), apply(x, policy(change, sign=-1), spec)
    kept = side - shift
    torch.testing.assert_close(right.narrow(axis, shift, kept), x.narrow(axis, 0, kept), rtol=0, atol=1e-4)
    torch.testing.assert_close(left.narrow(axis, 0, kept), x.narrow(axis, shift, kept), rtol=0, atol=1e-4)
    assert right.narrow(axis, 0, shift - 1).abs().max() == 0


@pytest.mark.parametrize(("name", "most"), [("randaugment", 0.3), ("trivialaugment", 0.99)])
def test_a_policy_shears_by_pixels_per_pixel(name, most):
    x = torch.zeros(1, 1, 41, 41)
    x[..., 20] = 1.0
    spec = Augment(policy=name, policy_ops=1, policy_magnitude=1.0)
    slanted = apply(x, policy("shear_x"), spec)[0, 0]
    columns = (slanted * torch.arange(41.0)).sum(dim=1) / slanted.sum(dim=1)
    torch.testing.assert_close(columns[15:26], 20 - most * torch.arange(-5.0, 6.0), rtol=0, atol=1e-3)
    upright = apply(x.transpose(2, 3), policy("shear_y"), spec)[0, 0]
    torch.testing.assert_close(upright, slanted.T, rtol=0, atol=1e-5)


def test_two_changes_of_a_policy_are_one_resampling_in_their_order():
    """First the shift, then the turn: a mark in the middle ends up on a circle about the middle."""
    spec = Augment(policy="randaugment", policy_ops=2, policy_magnitude=1.0)
    x = torch.zeros(1, 1, 331, 331)
    x[..., 160:171, 50:61] = 1.0
    shifted_first = apply(x, policy("translate_x", "rotate"), spec)[0, 0]
    y, z = torch.nonzero(shifted_first > 0.5).float().mean(dim=0).tolist()
    from_middle = 55 - 165 + 150
    assert z == pytest.approx(165 + from_middle * math.cos(math.pi / 6), abs=0.2)
    assert y == pytest.approx(165 - from_middle * math.sin(math.pi / 6), abs=0.2)
    # the image's own turn is made before, in the same look-up: back and forth is nothing but rounding
    smooth = torch.nn.functional.avg_pool2d(torch.rand(1, 1, 99, 99), 9, 1, 4)
    both = spec.model_copy(update={"rotate": 30.0, "policy_ops": 1})
    undone = apply(smooth, policy("rotate") + forced(rotate=0.0) - forced(), both)
    torch.testing.assert_close(undone, smooth, rtol=0, atol=1e-4)
