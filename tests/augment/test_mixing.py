"""mixup and CutMix against timm's, their shares against the Beta distribution, images and labels by the same shares."""

from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import kstest
from timm.data.mixup import Mixup

from harness.augment.pipeline import Mix, apply_mix, boxes, draw_mix, mixed_pictures
from harness.config.spec import Augment


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def drawn(batch: int, height: int, width: int, seed: int = 0, **alphas: float) -> Mix:
    mix = draw_mix(batch, height, width, Augment(**alphas), generator(seed))
    assert mix is not None
    return mix


class Given(Mixup):
    """timm's elementwise mixing under given shares."""

    def __init__(self, shares: torch.Tensor, pasted: torch.Tensor) -> None:
        super().__init__(mixup_alpha=1.0, cutmix_alpha=1.0, mode="elem", label_smoothing=0.0, num_classes=3)
        self.given = shares.numpy().copy(), pasted.numpy()

    def _params_per_elem(self, batch_size: int) -> Any:
        return self.given


def test_both_equal_timm_under_the_same_draws() -> None:
    b, height, width = 12, 17, 30
    x, y = torch.rand(b, 3, height, width, generator=generator(1)), torch.arange(b) % 3
    share = torch.rand(b, generator=generator(2))
    pasted = torch.arange(b) % 3 > 0
    np.random.seed(5)
    middles = [(np.random.randint(0, height), np.random.randint(0, width)) if one else (0, 0) for one in pasted]
    np.random.seed(5)
    wanted_x, wanted_y = Given(share, pasted)(x.clone(), y)

    at_y, at_x = torch.tensor(middles).unbind(1)
    box = torch.where(pasted[:, None], boxes(share, at_y, at_x, height, width), 0)
    area = (box[:, 1] - box[:, 0]) * (box[:, 3] - box[:, 2])
    own = torch.where(pasted, 1 - area / (height * width), share)
    mix = Mix(torch.arange(b).flip(0), own, torch.where(pasted, 1.0, share), box)
    torch.testing.assert_close(apply_mix(x, mix), wanted_x, rtol=0, atol=1e-6)
    label = torch.eye(3)[y]
    torch.testing.assert_close(own[:, None] * label + (1 - own)[:, None] * label[mix.partner], wanted_y)
    assert (area[pasted] > 0).any() and len(set(area.tolist())) > 4


@pytest.mark.parametrize("alphas", [{"mixup": 0.4}, {"cutmix": 1.0}, {"mixup": 0.2, "cutmix": 1.0}])
@pytest.mark.parametrize("b", [2, 7])
def test_image_and_label_are_mixed_by_the_same_share(alphas: dict[str, float], b: int) -> None:
    """Row i is an image of the value i only, so that the mean of a mixed image tells the shares of the two rows."""
    value = torch.arange(b, dtype=torch.float32)
    x = value.view(-1, 1, 1, 1).expand(b, 2, 24, 40)
    mix = drawn(b, 24, 40, seed=b, **alphas)
    wanted = mix.share * value + (1 - mix.share) * value[mix.partner]
    torch.testing.assert_close(apply_mix(x, mix).mean(dim=(1, 2, 3)), wanted, rtol=1e-5, atol=1e-5)


def test_a_box_is_a_rectangle_of_the_partner_in_the_own_image() -> None:
    x = torch.rand(40, 3, 20, 30, generator=generator(3))
    mix = drawn(40, 20, 30, cutmix=1.0)
    assert mix.box is not None and mix.blend is None
    out = apply_mix(x, mix)
    for i, (top, bottom, left, right) in enumerate(mix.box.tolist()):
        wanted = x[i].clone()
        wanted[:, top:bottom, left:right] = x[mix.partner[i], :, top:bottom, left:right]
        assert torch.equal(out[i], wanted)
        pasted = (bottom - top) * (right - left)
        assert mix.share[i] == pytest.approx(1 - pasted / 600, abs=1e-7)


@pytest.mark.parametrize("alpha", [0.2, 1.0, 3.0])
def test_mixup_shares_are_beta(alpha: float) -> None:
    mix = drawn(4000, 8, 8, mixup=alpha)
    assert kstest(mix.share.double().numpy(), "beta", (alpha, alpha)).pvalue > 0.01
    assert kstest(mix.share.double().numpy(), "beta", (alpha * 1.3, alpha)).pvalue < 1e-4


def test_cutmix_boxes_have_the_drawn_area_where_the_border_does_not_cut_them() -> None:
    share = torch.linspace(0, 1, 101, dtype=torch.float64)
    middle = torch.full((101,), 500)
    box = boxes(share, middle, middle, 1000, 1000)
    area = (box[:, 1] - box[:, 0]) * (box[:, 3] - box[:, 2]) / 1e6
    torch.testing.assert_close(area, (1 - share).float(), rtol=0, atol=2.1e-3)
    # proportions are the image's own
    wide = boxes(torch.tensor([0.75]), torch.tensor([50]), torch.tensor([100]), 100, 200)
    assert wide.tolist() == [[25, 75, 50, 150]]
    cut = boxes(torch.tensor([0.75]), torch.tensor([0]), torch.tensor([199]), 100, 200)
    assert cut.tolist() == [[0, 25, 149, 200]]


def test_each_row_draws_one_of_the_two_half_and_half() -> None:
    mix = drawn(4000, 32, 32, mixup=1.0, cutmix=1.0)
    assert mix.box is not None and mix.blend is not None
    pasted = mix.box[:, 1] > mix.box[:, 0]
    assert (mix.blend[pasted] == 1).all() and (mix.blend[~pasted] <= 1).all()
    # a box of nothing at all comes now and then
    assert 0.46 < (mix.blend == 1).float().mean() < 0.54
    # one alpha alone: each row by that one, with the shares it has in the pair of them
    alone = drawn(4000, 32, 32, mixup=1.0)
    blended = mix.blend < 1
    assert torch.equal(alone.share[blended], mix.share[blended])


@pytest.mark.parametrize("b", [2, 3, 32, 33])
def test_every_row_has_another_one_as_its_partner_and_is_one_other_s(b: int) -> None:
    seen = set()
    for seed in range(40):
        partner = drawn(b, 8, 8, seed=seed, mixup=1.0).partner
        assert sorted(partner.tolist()) == list(range(b)) and (partner != torch.arange(b)).all()
        seen.add(tuple(partner.tolist()))
    assert len(seen) >= min(b - 1, 30)


def test_a_single_row_is_mixed_with_itself() -> None:
    x = torch.rand(1, 1, 8, 8, generator=generator(4))
    torch.testing.assert_close(apply_mix(x, drawn(1, 8, 8, mixup=1.0, cutmix=1.0)), x)


def test_pictures_for_looking_at_are_the_mixed_ones() -> None:
    pixels = torch.randint(0, 256, (5, 8, 6, 3), dtype=torch.uint8, generator=generator(5))
    x = pixels.permute(0, 3, 1, 2) / 255
    wanted = apply_mix(x, drawn(5, 8, 6, seed=9, cutmix=1.0)).permute(0, 2, 3, 1).mul(255).round()
    found = mixed_pictures(pixels.numpy(), Augment(cutmix=1.0), 9)
    assert (found == wanted.numpy()).all() and (found != pixels.numpy()).any()
    assert (mixed_pictures(pixels.numpy(), Augment(), 9) == pixels.numpy()).all()


def test_off_is_none_and_uses_up_the_same_numbers() -> None:
    off, on = generator(), generator()
    assert draw_mix(6, 8, 8, Augment(), off) is None
    assert draw_mix(6, 8, 8, Augment(mixup=0.4, cutmix=1.0), on) is not None
    assert torch.equal(torch.rand(4, generator=off), torch.rand(4, generator=on))


def test_the_same_generator_gives_the_same_mix() -> None:
    both = {"mixup": 0.4, "cutmix": 1.0}
    first, again, other = drawn(8, 16, 16, 1, **both), drawn(8, 16, 16, 1, **both), drawn(8, 16, 16, 2, **both)
    for name in ("partner", "share", "blend", "box"):
        assert torch.equal(getattr(first, name), getattr(again, name))
    assert not torch.equal(first.share, other.share)
