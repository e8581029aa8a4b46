"""Views of an image: only what training knew, the first as it is, exact where nothing is interpolated."""

import numpy as np
import pytest

from harness.config.spec import Augment
from harness.ensemble.postprocess import shared_views
from harness.errors import RequestError
from harness.images.pixels import gather
from harness.predict.predict import Asked, View, predict, seen, views

BOTH = {"hflip": True, "vflip": True, "rotate": 90.0}
PIXELS = np.random.default_rng(0).integers(0, 256, (3, 9, 9, 3), dtype=np.uint8)


def test_only_what_every_member_trained_with():
    one, other = Augment(hflip=0.5, vflip=0.5, rotate=30), Augment(hflip=0.1, rotate=10)
    assert shared_views([one, other]) == {"hflip": True, "vflip": False, "rotate": 10.0}
    assert shared_views([one, Augment()]) == {"hflip": False, "vflip": False, "rotate": 0.0}


def test_the_first_view_is_the_image_and_flips_come_before_turns():
    assert views({}, 1) == [View()]
    assert views(BOTH, 5) == [View(), View(True), View(False, True), View(True, True), View(angle=45.0)]
    assert len(set(views(BOTH, 20))) == 20
    assert views({"hflip": True, "rotate": 20.0}, 10)[-1] == View(True, False, -20.0)


def test_more_views_than_training_knew_are_refused():
    with pytest.raises(RequestError, match=r"--tta 3: .*make 2 views \(as it is; left-right\)\. Type --tta 2 or fewer"):
        views({"hflip": True, "vflip": False, "rotate": 0.0}, 3)
    with pytest.raises(RequestError, match=r"make 1 view .*Leave --tta away"):
        views({}, 2)


def test_flips_and_quarter_turns_move_pixels_and_mix_none():
    np.testing.assert_array_equal(seen(PIXELS, View(True)), PIXELS[:, :, ::-1])
    np.testing.assert_array_equal(seen(PIXELS, View(False, True)), PIXELS[:, ::-1])
    np.testing.assert_array_equal(seen(PIXELS, View(angle=90.0)), np.rot90(PIXELS, 1, (1, 2)))
    assert seen(PIXELS, View()) is PIXELS


def test_images_of_their_own_sizes():
    images = [PIXELS[0], PIXELS[1][:5]]
    found = seen(gather(images, 3), View(True))
    for row, image in enumerate(images):
        np.testing.assert_array_equal(found[row], image[:, ::-1])


@pytest.fixture
def trained_with_flips(mean_bundle, tmp_path):
    """The same bundle, as if its members had trained with left-right flips."""
    import json
    import shutil

    copy = tmp_path / "bundle"
    shutil.copytree(mean_bundle, copy)
    about = json.loads((copy / "bundle.json").read_text())
    assert about["augment"] == {"hflip": False, "vflip": False, "rotate": 0.0}
    (copy / "bundle.json").write_text(json.dumps(about | {"augment": {"hflip": True, "vflip": False, "rotate": 0.0}}))
    return copy


def test_two_views_are_the_mean_of_both_and_one_is_none(trained_with_flips, tmp_path):
    from PIL import Image

    rng = np.random.default_rng(1)
    image = rng.integers(0, 256, (32, 32), dtype=np.uint8)
    symmetric = np.concatenate([image[:, :16], image[:, 15::-1]], axis=1)
    files = [tmp_path / name for name in ("plain.png", "mirrored.png", "symmetric.png")]
    for file, x in zip(files, (image, image[:, ::-1], symmetric), strict=True):
        Image.fromarray(x).save(file)
    alone = predict(trained_with_flips, files, "cpu", asked=Asked(raw=True))
    both = predict(trained_with_flips, files, "cpu", asked=Asked(raw=True, tta=2))
    p = alone.probabilities
    assert abs(p[0, 1] - p[1, 1]) > 1e-4  # the network does tell left from right
    np.testing.assert_allclose(both.probabilities[:2], np.tile(p[:2].mean(axis=0), (2, 1)), atol=1e-6)
    np.testing.assert_allclose(both.probabilities[2], p[2], atol=1e-6)
    np.testing.assert_array_equal(both.answers.out_of_distribution, alone.answers.out_of_distribution)
    again = predict(trained_with_flips, files, "cpu", asked=Asked(raw=True, tta=1))
    np.testing.assert_array_equal(again.probabilities, p)
    assert any("mean over 2 views of each image: as it is; left-right" in line for line in both.notes)


def test_the_bundle_says_what_its_members_trained_with(mean_bundle, small_study):
    file = next((small_study.images / "images").glob("*.png"))
    with pytest.raises(RequestError, match=r"--tta 2: .*1 view .*Leave --tta away"):
        predict(mean_bundle, [file], "cpu", asked=Asked(tta=2))
