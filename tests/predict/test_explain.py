"""Heat maps: Grad-CAM against its formula, on networks of several kinds, and against weights that know nothing."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from scipy.stats import spearmanr

from harness.config.spec import Model
from harness.ensemble.bundle import load_bundle
from harness.errors import RequestError
from harness.images.decode import decode
from harness.images.pixels import gather
from harness.models.network import Network, build_network
from harness.predict.explain import (
    best_member,
    blended,
    draw_overlay,
    exposed,
    find_feature_map,
    grad_cam,
    heat_maps,
    log_odds,
    overlay_name,
    shown_class,
)
from harness.predict.predict import Asked, predict
from harness.train.batches import to_input
from harness.train.checkpoint import load_fold

KINDS = [
    ("test_resnet", 64, "backbone.layer2", 8),
    ("test_vit", 112, "backbone.blocks.5.norm1", 7),
    ("swin_tiny_patch4_window7_224", 64, "backbone.layers.1", 8),
    ("torchvision/vit_b_16", 112, "backbone.encoder.layers.encoder_layer_11.ln_1", 7),
    ("deit_tiny_distilled_patch16_224", 64, "backbone.blocks.11.norm1", 4),
]


@pytest.fixture(scope="module")
def files(small_study):
    return sorted((small_study.images / "images").iterdir())[:6]


@pytest.fixture(scope="module")
def fold(mean_bundle):
    bundle = load_bundle(mean_bundle)
    return bundle, *load_fold(bundle.weights[0][0])


@pytest.fixture(scope="module")
def pixels(fold, files):
    return np.stack([decode(file, fold[0].decodes[0]) for file in files])


@pytest.mark.parametrize(("backbone", "size", "name", "side"), KINDS)
def test_the_map_of_each_kind_of_network_is_found_and_changes_nothing(backbone, size, name, side):
    network = build_network(Model(backbone=backbone), 2, 1, size, 0).eval()
    x = torch.randn(2, 1, size, size, generator=torch.Generator().manual_seed(0))
    where = find_feature_map(network, x)
    assert (where.name, where.layout.height, where.layout.width) == (name, side, side)
    with torch.inference_mode():
        before = network(x)
        with exposed(network, where) as probe:
            shapes = []
            probe.register_forward_hook(lambda module, inputs, output: shapes.append(tuple(output.shape)))
            assert torch.equal(network(x), before)
    assert shapes[0][0] == 2 and shapes[0][2:] == (side, side)


def test_grad_cam_is_its_formula(fold, pixels):
    """Selvaraju et al. 2017, eq. 1 and 2, with hooks of our own on the layer that is asked."""
    _, network, meta = fold
    ones = np.ones(len(pixels), np.int64)
    x = to_input(torch.from_numpy(pixels).permute(0, 3, 1, 2), meta.mean, meta.std, torch.channels_last)
    layer = network.get_submodule(find_feature_map(network, x).name)
    kept = []
    handle = layer.register_forward_hook(lambda module, inputs, output: kept.append(output))
    logits = network(x.clone().requires_grad_())
    handle.remove()
    (gradient,) = torch.autograd.grad((logits[:, 1] - logits[:, 0]).sum(), kept)
    importance = gradient.mean(dim=(2, 3), keepdim=True)
    cam = (importance * kept[0]).sum(dim=1, keepdim=True).relu()
    cam = F.interpolate(cam, x.shape[2:], mode="bilinear", align_corners=False)[:, 0].detach().numpy()
    for found, expected in zip(grad_cam(network, meta, pixels, ones), cam, strict=True):
        np.testing.assert_allclose(found, expected / max(expected.max(), 1e-12), atol=1e-4)


def test_log_odds():
    logits = torch.tensor([[1.0, 3.0, 2.0]])
    p = logits.softmax(dim=1)[0, 1]
    assert log_odds(logits, torch.tensor([1]), False).item() == pytest.approx(torch.logit(p).item(), abs=1e-5)
    assert log_odds(logits, torch.tensor([1]), True).item() == 3.0


def test_random_weights_give_other_maps(fold, pixels):
    """Adebayo et al. 2018: a map that stays the same without what was learnt explains the image, not the network."""
    bundle, network, meta = fold
    ones = np.ones(len(pixels), np.int64)
    own = grad_cam(network, meta, pixels, ones)
    again = grad_cam(load_fold(bundle.weights[0][0])[0], meta, pixels, ones)
    random = grad_cam(build_network(Model.model_validate(meta.model), 2, 1, 32, seed=9), meta, pixels, ones)

    def likeness(others):
        return np.mean([spearmanr(a.ravel(), b.ravel()).statistic for a, b in zip(own, others, strict=True)])

    assert likeness(again) > 0.999
    assert likeness(random) < 0.7


def test_images_of_their_own_sizes_have_maps_of_their_own_sizes(fold, pixels):
    """On a canvas padded to whole strides; the part of the map that padding has is cut away."""
    _, network, meta = fold
    images = [pixels[0], pixels[1][:20], np.repeat(pixels[2], 2, axis=1)[:, :40]]
    maps = grad_cam(network, meta, gather(images, 1), np.ones(3, np.int64))
    assert [one.shape for one in maps] == [(32, 32), (20, 32), (32, 40)]
    np.testing.assert_allclose(maps[0], grad_cam(network, meta, pixels[:1], np.ones(1, np.int64))[0], atol=1e-4)


def test_maps_of_networks_count_alike_whatever_their_units(fold, pixels):
    bundle, _, _ = fold
    ones = np.ones(len(pixels), np.int64)
    singles = [grad_cam(*load_fold(path), pixels, ones) for path in bundle.weights[0]]
    for row, found in enumerate(heat_maps(list(bundle.weights[0]), pixels, ones, "cpu")):
        mean = np.mean([maps[row] for maps in singles], axis=0)
        np.testing.assert_allclose(found, mean / max(mean.max(), 1e-12), atol=1e-5)
        assert found.min() >= 0 and found.max() in (0, pytest.approx(1))


class _Flat(torch.nn.Module):
    """No places from the first layer on."""

    def __init__(self) -> None:
        super().__init__()
        self.all = torch.nn.Linear(64, 4)

    def forward(self, x):
        return self.all(x.flatten(1))


def test_a_network_without_places_is_told():
    with pytest.raises(RequestError, match=r"--explain: _Flat has no feature map.*Predict without --explain"):
        find_feature_map(Network(_Flat(), 4, 2, 0.0), torch.randn(1, 1, 8, 8))


def test_overlays_are_written_and_named(mean_bundle, files, tmp_path):
    odd = tmp_path / "a b; rm -rf.png"
    shutil.copyfile(next(file for file in files if file.suffix == ".png"), odd)
    found = predict(mean_bundle, [*files[:2], odd], "cpu", asked=Asked(explain=tmp_path / "heat"))
    written = sorted(path.name for path in (tmp_path / "heat").iterdir())
    assert [path.name for path in found.overlays] == written
    p = found.probabilities[:, 1]
    assert written[0] == f"0001_{files[0].stem}_bleed_p{p[0]:.2f}.png"
    assert written[2] == f"0003_a-b-rm--rf_bleed_p{p[2]:.2f}.png"
    for path in found.overlays:
        with Image.open(path) as image:
            assert image.size[0] > 2 * 448 and image.mode == "RGB"


def test_an_overlay_leaves_the_image_as_it_was_where_it_is_cold():
    image = np.full((100, 120, 1), 80, np.uint8)
    heat = np.zeros((10, 12), np.float32)
    heat[2, 3] = 1
    drawn = np.asarray(draw_overlay(image, heat, "bleed  p = 0.90", 0.9))
    assert (drawn[:100, :120] == 80).all()
    right = drawn[:100, 126:246].astype(int)
    assert (right[60:, 60:] == 80).all()
    y, x = np.unravel_index(np.abs(right - 80).sum(axis=2).argmax(), (100, 120))
    assert 20 <= y < 30 and 30 <= x < 40
    faint = np.asarray(draw_overlay(image, heat, "bleed  p = 0.05", 0.05))[:100, 126:246].astype(int)
    assert np.abs(faint - 80).max() < 0.6 * np.abs(right - 80).max()
    assert (blended(np.full((2, 2), 7, np.uint8), np.zeros((2, 2), np.float32), 1.0) == 7).all()
    draw_overlay(np.zeros((30, 20, 3), np.uint8), np.zeros((3, 2), np.float32), "x", 0.0)  # tiny, nothing to show


def test_whose_heat_is_shown():
    assert shown_class(np.array([[0.9, 0.1]]), False).tolist() == [1]  # two classes: the positive one
    assert shown_class(np.array([[0.9, 0.1]]), True).tolist() == [0]
    assert shown_class(np.array([[0.5, 0.1, 0.4]]), False).tolist() == [0]


def test_the_best_member_by_out_of_fold_score(fold):
    bundle = fold[0]
    scores = [{"kind": "single", "oof": {"auroc": {"value": value}}} for value in (0.7, 0.8)]
    for order, best in ((scores, 1), (scores[::-1], 0)):
        assert best_member(replace(bundle, about={**bundle.about, "scores": [*order, {"kind": "mean"}]})) == best
    assert overlay_name(7, files_name(), "a/b", 0.5) == "0007_x_a-b_p0.50.png"


def files_name():
    from pathlib import Path

    return Path("/somewhere/x.dcm")
