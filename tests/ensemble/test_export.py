"""A network of a bundle as an ONNX file: which one is meant, and that it gives the bundle's numbers."""

import json

import numpy as np
import onnx
import onnxruntime
import pytest

from harness.config.load import check_study
from harness.data.prepare import prepare
from harness.ensemble.bundle import export_network, load_bundle, outputs_of_bundle
from harness.errors import RequestError
from harness.types import silent


def test_the_file_gives_the_logits_of_its_network_in_the_bundle(built, small_study, tmp_path):
    bundle = load_bundle(built["mean"].bundle)
    name, apart = export_network(bundle.path, tmp_path / "n.onnx", "trial-0001", 2)
    assert name == "trial-0001, fold 2" and apart <= 1e-4
    spec = check_study(small_study.record.tree, "small").spec
    data = prepare(spec.data, spec.seed, small_study.home, silent)
    pixels = np.array(data.pixels[data.folds.test_rows()])
    expected = outputs_of_bundle(bundle, [pixels], embeddings=True)
    session = onnxruntime.InferenceSession(str(tmp_path / "n.onnx"), providers=["CPUExecutionProvider"])
    logits, embedding = session.run(["logits", "embedding"], {"pixels": pixels})
    np.testing.assert_allclose(logits, expected.logits[1, 2], atol=1e-4)
    np.testing.assert_allclose(embedding, expected.embeddings[1, 2], atol=1e-4)
    said = {entry.key: json.loads(entry.value) for entry in onnx.load(tmp_path / "n.onnx").metadata_props}
    assert said["classes"] == ["normal", "bleed"] and (said["trial"], said["fold"]) == (1, 2)
    assert said["decode"] == spec.data.decode.model_dump(mode="json")


@pytest.mark.parametrize(
    ("member", "fold", "message"),
    [
        (None, 0, r"2 members, and a file one network: --member trial-0000 or trial-0001"),
        ("trial-0000", None, r"trial-0000 has 3 networks: --fold N, 0 to 2"),
        ("trial-0000", 3, r"--fold 3: trial-0000 has the folds 0 to 2"),
        ("trial-001", 0, r"--member trial-001: no such member.*Did you mean trial-0001"),
    ],
)
def test_which_network_is_asked_where_there_are_several(built, tmp_path, member, fold, message):
    with pytest.raises(RequestError, match=message):
        export_network(built["mean"].bundle, tmp_path / "n.onnx", member, fold)
    assert not list(tmp_path.iterdir())
