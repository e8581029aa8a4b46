"""Images of their own sizes: padding that says nothing, batches that waste little, predictions that stand alone."""

import numpy as np
import pytest
import torch

from harness.config.spec import Model
from harness.images.pixels import Ragged, gather
from harness.models.network import build_network
from harness.train.batches import STRIDE, Varied, canvas, load_images, similar_batches, statistics
from harness.train.checkpoint import FoldMeta
from harness.train.inference import infer


def pictures(n: int = 40, channels: int = 1, seed: int = 0) -> Ragged:
    rng = np.random.default_rng(seed)
    sizes = np.exp(rng.normal(4.0, 0.5, (n, 2))).astype(int).clip(8, 300)
    return gather([rng.integers(0, 256, (h, w, channels), dtype=np.uint8) for h, w in sizes.tolist()], channels)


def filled(sizes: np.ndarray, parts: list[torch.Tensor]) -> int:
    """The pixels of an epoch's batches, padding included."""
    return sum(len(part) * int(canvas(sizes[part.numpy()]).max(axis=0).prod()) for part in parts)


def test_every_row_is_in_one_batch_and_batches_are_of_similar_sizes() -> None:
    sizes = pictures(333).sizes
    rows = torch.arange(333)
    parts = similar_batches(sizes, rows, 16, seed=5)
    assert sorted(torch.cat(parts).tolist()) == list(range(333)) and max(map(len, parts)) <= 17
    assert [part.tolist() for part in parts] == [part.tolist() for part in similar_batches(sizes, rows, 16, seed=5)]
    assert [part.tolist() for part in parts] != [part.tolist() for part in similar_batches(sizes, rows, 16, seed=6)]
    at_random = list(torch.split(torch.randperm(333, generator=torch.Generator().manual_seed(0)), 16))
    assert filled(sizes, parts) < 0.6 * filled(sizes, at_random)


@pytest.mark.parametrize("n", [1, 2, 17, 33])
def test_no_batch_of_one_image_but_for_a_single_one(n: int) -> None:
    parts = similar_batches(pictures(n).sizes, torch.arange(n), 16, seed=1)
    assert sorted(torch.cat(parts).tolist()) == list(range(n))
    assert n == 1 or min(map(len, parts)) > 1


def test_a_batch_holds_its_images_in_the_middle_of_neutral_grey() -> None:
    pixels = pictures(12, channels=3)
    mean, _ = statistics(pixels)
    images = load_images(pixels, mean)
    assert isinstance(images, Varied)
    x = images.batch(torch.tensor([3, 8, 1]))
    assert x.dtype == torch.uint8 and x.shape[2] % STRIDE == x.shape[3] % STRIDE == 0
    for place, row in enumerate((3, 8, 1)):
        height, width = pixels.sizes[row].tolist()
        top, left = (x.shape[2] - height) // 2, (x.shape[3] - width) // 2
        inside = x[place, :, top : top + height, left : left + width].permute(1, 2, 0).numpy()
        np.testing.assert_array_equal(inside, pixels[row])
        around = x[place].sum(dim=(1, 2)) - torch.from_numpy(inside.astype(np.int64).sum(axis=(0, 1)))
        outside = x.shape[2] * x.shape[3] - height * width
        assert around.tolist() == [round(m * 255) * outside for m in mean]


def test_statistics_are_those_of_the_pixels_without_padding() -> None:
    pixels = pictures(15, channels=3)
    whole = np.concatenate([pixels[row].reshape(-1, 3) for row in range(15)]) / 255
    mean, std = statistics(pixels)
    np.testing.assert_allclose(mean, whole.mean(axis=0), rtol=1e-9)
    np.testing.assert_allclose(std, whole.std(axis=0), rtol=1e-9)


@pytest.mark.parametrize("backbone", ["test_resnet", "torchvision/mobilenet_v3_small"])
def test_a_prediction_does_not_depend_on_what_else_is_predicted(backbone: str) -> None:
    pixels = pictures(24)
    network = build_network(Model(backbone=backbone), 2, 1, 224, 0)
    mean, std = statistics(pixels)
    decode = {"size": "native"}
    meta = FoldMeta("s", 0, 0, {"backbone": backbone}, decode, ("a", "b"), mean, std, "e", "d", "f")
    together, embedded = infer(network, meta, pixels)
    for row in (0, 7, 23):
        alone, embedding = infer(network, meta, pixels[np.array([row])])
        np.testing.assert_allclose(alone[0], together[row], atol=1e-5)
        np.testing.assert_allclose(embedding[0], embedded[row], atol=1e-4)
    order = np.random.default_rng(0).permutation(24)
    np.testing.assert_allclose(infer(network, meta, pixels[order], batch_size=5)[0], together[order], atol=1e-5)
