"""Held against a bundle before it is built: does a checkpoint hold the network that it names, of this bundle's task?

A name is cheap and a network is not: what would need more memory than the checkpoint itself is long is refused before
anything is allocated.
"""

import math
from functools import cache
from pathlib import Path
from typing import Any

import pydantic
import safetensors

from harness.config.data import Decode
from harness.config.spec import Model
from harness.ensemble.about import About
from harness.errors import HarnessError, RequestError
from harness.models.backbones import resolve
from harness.models.catalog import known_rows
from harness.models.network import outline
from harness.train.checkpoint import FoldMeta, read_meta

SLACK = 1.25
"""how many more numbers than a checkpoint the table may give a backbone: it counts three channels and the native
size, and the checkpoint may have one channel and fewer positions"""
SMALL = 5_000_000
"""numbers that no machine minds, in which a stem or positions may differ"""


def check_network(path: Path, encoder_id: str, model: dict[str, Any], decode: Decode, about: About) -> None:
    """Reads the header alone. Raises RequestError when it says something else than bundle.json, or holds too little."""
    try:
        meta = read_meta(path)
        own = Model.model_validate({**meta.model, "weights": "none"})
        needed = _numbers(own, len(meta.classes))
        held = _held(path)
        same = {
            "classes": (list(meta.classes), about.classes),
            "multilabel": (meta.multilabel, about.multilabel),
            "encoder_id": (meta.encoder_id, encoder_id),
            "model": (meta.model, model),
            "decode": (Decode.model_validate(meta.decode), decode),
        }
        for name, (there, here) in same.items():
            if there != here:
                raise RequestError(
                    f"{path} says {name} {str(there)[:80]!r}, and bundle.json {str(here)[:80]!r}: refused."
                )
        _check_scale(meta, decode.channels)
    except RequestError:
        raise
    except (HarnessError, pydantic.ValidationError, OSError, ValueError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise RequestError(f"{path} is no checkpoint of this bundle ({reason}). Build the ensemble again.") from error
    if needed > SLACK * held + SMALL:
        raise RequestError(
            f"{path} holds {held:,} numbers, and the {own.backbone} with which it wants to be read has about "
            f"{needed:,}: refused."
        )


def _check_scale(meta: FoldMeta, channels: int) -> None:
    for name, values in (("mean", meta.mean), ("std", meta.std)):
        fine = len(values) == channels and all(isinstance(one, float | int) and math.isfinite(one) for one in values)
        if not fine or (name == "std" and min(values) <= 0):
            raise ValueError(f"its {name} is no number for each of {channels} channels")


def _held(path: Path) -> int:
    """Numbers in a checkpoint."""
    try:
        with safetensors.safe_open(str(path), framework="pt") as file:
            return sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118
    except safetensors.SafetensorError as error:
        raise ValueError(error) from error


def _numbers(model: Model, classes: int) -> int:
    """About as many as the network of a spec has; nothing is built but where the table does not know a backbone."""
    parameters, embedding = _backbone(resolve(model.backbone).name)
    head = embedding * classes if model.head == "linear" else model.hidden * (embedding + classes)
    return parameters + head


@cache
def _backbone(name: str) -> tuple[int, int]:
    known = {row.name: (row.parameters, row.embedding) for row in known_rows()}
    if name in known:
        return known[name]
    network = outline(name, 2, 3, 224)
    return sum(parameter.numel() for parameter in network.parameters()), network.embedding_size
