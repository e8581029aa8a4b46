"""The generator of training images: of its classes, of its rows alone, not of their copies, the same every time."""

import random

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from harness.augment.synthetic import check_synthetic, fit_and_sample, principal_directions, proportional
from harness.errors import RequestError
from harness.images.pixels import Subset

Images = NDArray[np.uint8]
Labels = NDArray[np.int64]


def discs(n: int, side: int = 24, channels: int = 1, seed: int = 0) -> tuple[Images, Labels]:
    """A bright disc, left in class 0 and right in class 1, of any radius, height and brightness, with noise."""
    rng = np.random.default_rng(seed)
    y = (rng.random(n) < 0.3).astype(np.int64)
    at_x = np.where(y == 0, 0.28, 0.72) * side + rng.normal(0, side / 40, n)
    at_y = side / 2 + rng.normal(0, side / 20, n)
    radius = side * rng.uniform(0.12, 0.22, n)
    rows, columns = np.mgrid[:side, :side]
    far = np.hypot(rows - at_y[:, None, None], columns - at_x[:, None, None])
    x = rng.uniform(90, 160, (n, 1, 1)) / (1 + np.exp(far - radius[:, None, None])) + 40
    x = x[..., None] + rng.normal(0, 8, (n, side, side, channels))
    return x.clip(0, 255).astype(np.uint8), y


def nearest_mean(x: Images, y: Labels, asked: Images) -> Labels:
    means = np.stack([x[y == c].mean(axis=0) for c in (0, 1)])
    apart = ((asked[:, None] - means[None]) ** 2).reshape(len(asked), 2, -1).sum(axis=2)
    return np.asarray(apart.argmin(axis=1))


@pytest.mark.parametrize("channels", [1, 3])
def test_generated_images_are_of_their_class(channels: int) -> None:
    x, y = discs(200, channels=channels)
    x_new, y_new = fit_and_sample(x, y, 2, 1.5, 7, "cpu")
    assert x_new.shape == (300, 24, 24, channels) and x_new.dtype == np.uint8 and y_new.dtype == np.int64
    assert (np.bincount(y_new) == proportional(np.bincount(y), 300)).all()
    assert (nearest_mean(x, y, x_new) == y_new).mean() > 0.97
    # labels dealt at random lead to images whose label says nothing
    lost_x, lost_y = fit_and_sample(x, np.random.default_rng(0).permutation(y), 2, 1.5, 7, "cpu")
    assert (nearest_mean(x, y, lost_x) == lost_y).mean() < 0.8


def test_they_have_the_means_and_the_spread_of_their_class() -> None:
    x, y = discs(400)
    x_new, y_new = fit_and_sample(x, y, 2, 2.0, 1, "cpu")
    for c in (0, 1):
        real, made = x[y == c] / 255, x_new[y_new == c] / 255
        assert np.abs(real.mean(axis=0) - made.mean(axis=0)).mean() < 0.01
        assert made.var(axis=0).sum() == pytest.approx(real.var(axis=0).sum(), rel=0.15)


def test_they_are_no_copies_and_differ_from_each_other() -> None:
    x, y = discs(150)
    x_new, _ = fit_and_sample(x, y, 2, 1.0, 3, "cpu")

    def distances(a: Images, b: Images) -> NDArray[np.float64]:
        return np.asarray(np.abs(a[:, None].astype(float) - b[None]).mean(axis=(2, 3, 4)))

    among = distances(x, x)
    np.fill_diagonal(among, np.inf)
    usual = np.median(among.min(axis=1))
    assert distances(x_new, x).min() > 0.5 * usual
    made = distances(x_new, x_new)
    np.fill_diagonal(made, np.inf)
    assert made.min() > 0.5 * usual


def test_only_the_given_rows_count_and_the_same_ones_give_the_same_images() -> None:
    x, y = discs(120)
    rows = np.arange(0, 120, 2)
    first, _ = fit_and_sample(Subset(x, rows), y[rows], 2, 0.5, 5, "cpu")
    x[1::2] = 255  # held-out rows
    y[1::2] = 1 - y[1::2]
    again, labels = fit_and_sample(Subset(x, rows), y[rows], 2, 0.5, 5, "cpu")
    assert (first == again).all() and (fit_and_sample(x[rows], y[rows], 2, 0.5, 5, "cpu")[0] == first).all()
    assert (fit_and_sample(x[rows], y[rows], 2, 0.5, 6, "cpu")[0] != first).mean() > 0.5
    x[rows[0]] = 255  # a training row
    assert (fit_and_sample(x[rows], y[rows], 2, 0.5, 5, "cpu")[0] != first).any() and len(labels) == 30


def test_no_random_number_is_taken_from_others() -> None:
    x, y = discs(40)
    torch.manual_seed(1)
    np.random.seed(1)
    random.seed(1)
    wanted = torch.rand(3), np.random.rand(3), random.random()
    torch.manual_seed(1)
    np.random.seed(1)
    random.seed(1)
    fit_and_sample(x, y, 2, 0.5, 5, "cpu")
    found = torch.rand(3), np.random.rand(3), random.random()
    assert torch.equal(wanted[0], found[0]) and (wanted[1] == found[1]).all() and wanted[2] == found[2]


def test_directions_are_those_of_the_singular_value_decomposition() -> None:
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(60, 90, generator=generator) * torch.linspace(3, 0.05, 90) ** 2
    values -= values.mean(dim=0)
    found = principal_directions(values, 8, generator)
    wanted = np.linalg.svd(values.numpy())[2][:8].T
    np.testing.assert_allclose(np.abs((found.numpy() * wanted).sum(axis=0)), 1, atol=1e-3)
    torch.testing.assert_close(found.T @ found, torch.eye(8), rtol=0, atol=1e-5)


def test_large_images_are_enlarged_from_the_modelled_size() -> None:
    x, y = discs(60, side=100, channels=3)
    x_new, y_new = fit_and_sample(x, y, 2, 0.5, 2, "cpu")
    assert x_new.shape == (30, 100, 100, 3)
    assert (nearest_mean(x, y, x_new) == y_new).mean() > 0.95


def test_more_rows_than_are_fitted_keep_the_rare_class(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.augment.synthetic.FIT_ROWS", 60)
    x, y = discs(300)
    keep = np.flatnonzero((y == 0) | (np.cumsum(y == 1) <= 5))
    x_new, y_new = fit_and_sample(x[keep], y[keep], 2, 1.0, 2, "cpu")
    assert np.bincount(y_new)[1] == 5 and (nearest_mean(x, y, x_new) == y_new).mean() > 0.95


def test_classes_without_rows_or_with_one_and_next_to_no_rows_at_all() -> None:
    x, _ = discs(9)
    x_new, y_new = fit_and_sample(x, np.array([0] * 7 + [3, 3]), 5, 1.0, 0, "cpu")
    assert np.bincount(y_new, minlength=5).tolist() == [7, 0, 0, 2, 0] and len(x_new) == 9
    x_new, y_new = fit_and_sample(x, np.array([0] * 8 + [2]), 3, 1.0, 0, "cpu")
    assert (y_new == 2).sum() == 1 and (x_new[y_new == 2][0] != x[8]).mean() > 0.5
    assert fit_and_sample(x[:2], np.array([0, 1]), 2, 1.0, 0, "cpu")[0].shape == (2, 24, 24, 1)
    assert fit_and_sample(x[:1], np.array([1]), 2, 1.0, 0, "cpu")[1].tolist() == [1]
    none, labels = fit_and_sample(x, np.zeros(9, np.int64), 2, 0.01, 0, "cpu")
    assert none.shape == (0, 24, 24, 1) and len(labels) == 0
    flat = np.full((6, 8, 8, 1), 77, np.uint8)
    assert (fit_and_sample(flat, np.array([0, 0, 0, 1, 1, 1]), 2, 1.0, 0, "cpu")[0] == 77).all()


def test_proportions_are_kept_to_within_one() -> None:
    counts = np.array([7, 0, 3, 90])
    for total in (0, 1, 13, 50, 1000):
        found = proportional(counts, total)
        assert found.sum() == total and found[1] == 0
        assert (np.abs(found - counts * total / 100) < 1).all()


@pytest.mark.parametrize(("multilabel", "native", "told"), [(True, False, "one label"), (False, True, "native")])
def test_what_cannot_be_generated_is_refused(multilabel: bool, native: bool, told: str) -> None:
    with pytest.raises(RequestError, match=told) as refused:
        check_synthetic(0.5, multilabel, native)
    assert "augment.synthetic: 0.5" in str(refused.value) and "Set augment.synthetic: 0" in str(refused.value)
    check_synthetic(0.0, multilabel, native)
    check_synthetic(0.5, False, False)
