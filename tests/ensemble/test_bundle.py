"""A bundle from a stranger: what was changed, or reaches outside, is refused."""

import hashlib
import io
import json
import pickle
import shutil

import numpy as np
import pytest

from harness.ensemble.bundle import load_bundle, predict_bundle
from harness.errors import RequestError


@pytest.fixture
def bundle(built, tmp_path):
    """A copy, to spoil."""
    return shutil.copytree(built["stacking"].bundle, tmp_path / "stacking-top5")


def rewrite(folder, change):
    path = folder / "bundle.json"
    about = json.loads(path.read_text())
    change(about)
    path.write_text(json.dumps(about))


def test_a_copy_loads_anywhere(bundle):
    found = load_bundle(bundle)
    assert found.members == ("trial-0000", "trial-0001") and found.method == "stacking"


@pytest.mark.parametrize(
    "name", ["stacking.npz", "predictions.parquet", "members/trial-0001/fold_2/weights.safetensors"]
)
def test_a_changed_file_is_refused(bundle, name):
    content = bytearray((bundle / name).read_bytes())
    content[len(content) // 2] ^= 1
    (bundle / name).write_bytes(content)
    with pytest.raises(RequestError, match=rf"{name} is not the file.*SHA-256"):
        load_bundle(bundle)


def test_a_missing_file_is_named(bundle):
    (bundle / "members/trial-0000/fold_0/weights.safetensors").unlink()
    with pytest.raises(RequestError, match=r"trial-0000/fold_0/weights\.safetensors is missing"):
        load_bundle(bundle)


@pytest.mark.parametrize("kind", ["parent", "absolute", "backslash", "link", "empty"])
def test_no_path_leads_out_of_the_bundle(bundle, tmp_path, kind):
    outside = tmp_path / "outside.safetensors"
    shutil.copyfile(bundle / "members/trial-0000/fold_0/weights.safetensors", outside)
    if kind == "link":
        (bundle / "inside.safetensors").symlink_to(outside)
    name = {
        "parent": "../outside.safetensors",
        "absolute": str(outside),
        "backslash": "..\\outside.safetensors",
        "link": "inside.safetensors",
        "empty": "",
    }[kind]
    rewrite(bundle, lambda about: about["members"][0]["folds"][0].update(weights=name))  # its hash is right
    with pytest.raises(RequestError, match="outside the bundle: refused"):
        load_bundle(bundle)


def test_a_pickle_is_not_opened(bundle, tmp_path):
    """The hash is right and the file has numpy's form, but an array in it would have to be unpickled."""

    class Dangerous:
        def __reduce__(self):
            return (open, (str(tmp_path / "executed"), "w"))

    buffer = io.BytesIO()
    np.savez(buffer, weights=np.array([Dangerous()], dtype=object), bias=np.zeros(2), strength=np.array(1.0))
    assert b"executed" in buffer.getvalue()
    for content in (buffer.getvalue(), pickle.dumps(Dangerous())):
        (bundle / "stacking.npz").write_bytes(content)
        digest = hashlib.sha256(content).hexdigest()
        rewrite(bundle, lambda about, digest=digest: about["model"].update({"stacking.npz": digest}))
        with pytest.raises(RequestError, match="Build the ensemble again"):
            load_bundle(bundle)
        assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    "change",
    [
        lambda about: about.update(format=99),
        lambda about: about.update(method="voting"),
        lambda about: about.update(members=[]),
        lambda about: about["members"][0]["folds"].pop(),
        lambda about: about.pop("classes"),
        lambda about: about["decodes"][0].update(size="large"),
        lambda about: about.update(model={}),
        lambda about: about.update(members="abc"),
    ],
)
def test_a_bundle_of_another_form_is_refused(bundle, change):
    rewrite(bundle, change)
    with pytest.raises(RequestError, match="stacking-top5"):
        load_bundle(bundle)


@pytest.mark.parametrize("missing", ["DONE", "bundle.json"])
def test_an_unfinished_bundle_is_refused(bundle, missing):
    (bundle / missing).unlink()
    with pytest.raises(RequestError, match=r"no finished bundle.*harness ensemble"):
        load_bundle(bundle)


def test_heads_of_encoders_that_are_not_there_are_refused(built, tmp_path):
    folder = shutil.copytree(built["bagging"].bundle, tmp_path / "bagging-top5")
    rewrite(folder, lambda about: about["members"].pop())
    with pytest.raises(RequestError, match="heads do not fit"):
        load_bundle(folder)


def test_pixels_of_another_shape_are_refused(bundle):
    found = load_bundle(bundle)
    for pixels in (np.zeros((1, 16, 16, 1), np.uint8), np.zeros((1, 32, 32, 1), np.float32), np.zeros((32, 32, 1))):
        with pytest.raises(RequestError, match="uint8 images of 32 x 32 x 1"):
            predict_bundle(found, [pixels])
    assert predict_bundle(found, [np.zeros((0, 32, 32, 1), np.uint8)]).shape == (0, 2)
