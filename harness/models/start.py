"""Start a network from a fold checkpoint: the backbone whole, the head where it answers the same question."""

import json
from pathlib import Path
from typing import Any

import safetensors
from torch import Tensor, nn

from harness.errors import RequestError
from harness.models.pooling import pool_parameters
from harness.models.weights import load_tensors

SHOWN = 4
"""tensors named in a refusal"""


def read_header(path: Path) -> dict[str, Any] | None:
    """What a fold checkpoint says about itself (train.checkpoint.FoldMeta as plain data); None for any other file."""
    try:
        with safetensors.safe_open(str(path), framework="pt") as file:
            text = (file.metadata() or {}).get("harness")
    except (OSError, safetensors.SafetensorError):
        return None
    return None if text is None else dict(json.loads(text))


def is_fold_checkpoint(path: Path) -> bool:
    """Whether a file is a fold checkpoint of this program."""
    return read_header(path) is not None


def load_start(network: nn.Module, checkpoint: Path, class_names: tuple[str, ...] = ()) -> None:
    """Copy a checkpoint's tensors into a network (B, channels, S, S) -> (B, C).

    The backbone and its buffers must fit whole. The head is copied only where its shapes fit and the checkpoint's
    classes are `class_names`; a pooling's exponent where both have one. Raises RequestError that names what does not
    fit.
    """
    header = read_header(checkpoint)
    if header is None:
        raise RequestError(f"model.weights: {checkpoint} is not there, or no fold checkpoint of this program.")
    with safetensors.safe_open(str(checkpoint), framework="pt") as file:
        stored: dict[str, Tensor] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    own = network.state_dict()
    free = pool_parameters(network) | {name for name in (*own, *stored) if not name.startswith("backbone.")}
    free |= {name for name in stored if name.endswith(".exponent") and name not in own}
    wrong = [f"{n}: {_shape(stored.get(n))} there, {_shape(own.get(n))} here" for n in _misfits(own, stored, free)]
    if wrong:
        more = f"\n  and {len(wrong) - SHOWN} more" if len(wrong) > SHOWN else ""
        there = header["model"]["backbone"]
        raise RequestError(
            f"model.weights: {checkpoint} holds {there}, and {len(wrong)} of its tensors do not fit this network:\n  "
            + "\n  ".join(wrong[:SHOWN])
            + f"{more}\nSet model.backbone={there}, with the data.decode.size ({header['decode']['size']}) and "
            f"data.decode.channels ({header['decode']['channels']}) of that study."
        )
    head = [name for name in own if name.startswith("head.")]
    same_head = all(name in stored and stored[name].shape == own[name].shape for name in head)
    if not (same_head and class_names and list(class_names) == list(header["classes"])):
        stored = {name: tensor for name, tensor in stored.items() if not name.startswith("head.")}
    load_tensors(network, {n: t for n, t in stored.items() if n in own and t.shape == own[n].shape}, strict=False)


def _misfits(own: dict[str, Tensor], stored: dict[str, Tensor], free: set[str]) -> list[str]:
    names = [name for name in dict.fromkeys([*own, *stored]) if name not in free]
    return [n for n in names if n not in own or n not in stored or own[n].shape != stored[n].shape]


def _shape(tensor: Tensor | None) -> str:
    return "none" if tensor is None else "x".join(map(str, tensor.shape)) or "one number"
