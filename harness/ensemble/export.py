"""One network of a bundle as an ONNX file."""

from dataclasses import asdict
from pathlib import Path

from harness.config.data import Decode
from harness.ensemble.bundle import load_bundle
from harness.errors import RequestError, nearest
from harness.models.onnx import write_onnx
from harness.train.batches import STRIDE
from harness.train.checkpoint import load_fold

KEPT = ("classes", "multilabel", "decode", "mean", "std", "model", "study", "trial", "fold", "encoder_id")
"""what the file says of itself: enough to decode an image for it and to read its answer"""


def export_network(bundle: Path, out: Path, member: str | None = None, fold: int | None = None) -> tuple[str, float]:
    """Write a network of a bundle to `out`; returns its name and the largest difference found to it.

    member: trial-0007; fold: its number; both may be left out where there is no choice. Raises RequestError where the
    bundle is none, has no such network, or several and none is named.
    """
    found = load_bundle(bundle)
    names = list(found.members)
    if member is None and len(names) > 1:
        raise RequestError(f"{bundle} has {len(names)} members, and a file one network: --member {' or '.join(names)}.")
    name = names[0] if member is None else member
    if name not in names:
        raise RequestError(f"--member {name}: no such member.{nearest(name, names)} Members: {', '.join(names)}.")
    weights = found.weights[names.index(name)]
    if fold is None and len(weights) > 1:
        raise RequestError(f"{name} has {len(weights)} networks: --fold N, 0 to {len(weights) - 1}.")
    number = fold or 0
    if not 0 <= number < len(weights):
        raise RequestError(f"--fold {number}: {name} has the folds 0 to {len(weights) - 1}.")
    network, meta = load_fold(weights[number])
    decode = Decode.model_validate(meta.decode)
    facts = {key: value for key, value in asdict(meta).items() if key in KEPT}
    stride = STRIDE if decode.size == "native" else 0
    apart = write_onnx(out, network, meta.mean, meta.std, decode.channels, decode.side, facts, stride)
    return f"{name}, fold {number}", apart
