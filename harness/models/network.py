"""The network of a study: backbone, pooling, dropout and head, and where its weights start.

The network of a fold: a backbone with its pooling, dropout and a head. It must not know data or training.

Start a network from a fold checkpoint: the backbone whole, the head where it answers the same question.

Which bytes `model.weights` meant when a study began, so that a file that has changed since is noticed.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import safetensors
import torch
from torch import Tensor, nn

from harness.config.spec import Model
from harness.errors import RequestError
from harness.models.backbones import build_backbone, embed, resolve, weights_file
from harness.models.pooling import PooledFeatures, pool_parameters
from harness.models.weights import kind_of, load_tensors
from harness.store.files import file_sha256


class Network(nn.Module):
    """x_BCHW -> logits (B, C); `embed` also gives the penultimate embedding (B, D)."""

    def __init__(
        self,
        backbone: nn.Module,
        embedding_size: int,
        classes: int,
        dropout: float,
        pool: PooledFeatures | None = None,
        hidden: int = 0,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.embedding_size = embedding_size
        self.classes = classes
        self.dropout = nn.Dropout(dropout)
        self.head = _linear(embedding_size, classes) if hidden == 0 else _mlp(embedding_size, hidden, classes)
        self.pool = pool

    def _embedding(self, x_BCHW: Tensor) -> Tensor:
        return embed(self.backbone, self.pool, x_BCHW)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        logits: Tensor = self.head(self.dropout(self._embedding(x_BCHW)))
        return logits

    def embed(self, x_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """(logits (B, C), embedding (B, D)) from one pass."""
        embedding = self._embedding(x_BCHW)
        return self.head(self.dropout(embedding)), embedding


def _linear(inputs: int, outputs: int) -> nn.Linear:
    layer = nn.Linear(inputs, outputs)
    nn.init.trunc_normal_(layer.weight, std=0.02)
    nn.init.zeros_(layer.bias)
    return layer


def _mlp(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    """The hidden layer keeps torch's start, which is made for its width."""
    return nn.Sequential(nn.Linear(inputs, hidden), nn.GELU(), _linear(hidden, outputs))


def require_any_size(network: Network, backbone: str, channels: int) -> None:
    """Raises RequestError when the network takes images of one size only."""
    training = network.training
    network.eval()
    try:
        with torch.inference_mode():
            for height, width in ((96, 160), (224, 64)):
                network(torch.zeros(1, channels, height, width))
    except (RuntimeError, AssertionError, ValueError) as error:
        raise RequestError(
            f"model.backbone: {backbone} takes images of one size only. With data.decode.size: native choose a "
            "convolutional network, such as resnet10t or convnext_atto, or set a size in pixels."
        ) from error
    finally:
        network.train(training)


def build_network(
    model: Model,
    classes: int,
    channels: int,
    size: int,
    seed: int,
    start: Path | None = None,
    class_names: tuple[str, ...] = (),
) -> Network:
    """The network of a spec, its new weights drawn from `seed` alone. Raises RequestError when parts do not fit.

    `start` is the fold checkpoint that model.weights: study:NAME comes to; the head starts from it, too, where its
    classes are `class_names`.
    """
    weights = model.weights
    if start is None and kind_of(weights) == "study":
        raise RequestError(f"model.weights: {weights} says where each fold starts, and no fold is given here.")
    if start is None and kind_of(weights) == "file" and is_fold_checkpoint(Path(weights).expanduser()):
        raise RequestError(f"model.weights: {weights} is a fold checkpoint. Write study:NAME, which knows its rows.")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        backbone, pool, embedding_size = build_backbone(
            model.backbone, "none" if start else weights, channels, size, model.drop_path, model.pooling
        )
        hidden = model.hidden if model.head == "mlp" else 0
        network = Network(backbone, embedding_size, classes, model.dropout, pool, hidden)
    if start is not None:
        load_start(network, start, class_names)
    return network


def outline(name: str, classes: int, channels: int, size: int) -> Network:
    """A network with shapes and no numbers, on the meta device: to count and to name. Raises RequestError."""
    model = Model(backbone=name)
    try:
        with torch.device("meta"):
            return build_network(model, classes, channels, size, seed=0)
    except RequestError as error:
        if "meta" not in str(error):
            raise
    return build_network(model, classes, channels, size, seed=0)  # torchvision's RegNets compute their widths


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


def pin_weights(weights: Iterable[str], backbones: Iterable[str]) -> dict[str, str]:
    """SHA-256 of the file that each of `weights` means for each backbone, by "WEIGHTS BACKBONE"; none and study:NAME
    mean no file. Raises RequestError where there is none."""
    names = list(backbones)
    files = {_pin(one, name): weights_file(resolve(name), one) for one in weights for name in names}
    return {pin: file_sha256(file.resolve()) for pin, file in files.items() if file is not None}


def require_same_weights(pinned: Mapping[str, str], weights: str, backbone: str, study: str) -> None:
    """Raises RequestError where the file that `weights` means is not the one that the study began with.

    A study of an earlier version has pinned nothing, and is not asked.
    """
    wanted = pinned.get(_pin(weights, backbone))
    if wanted is None:
        return
    file: Path | None = weights_file(resolve(backbone), weights)
    found = "none" if file is None else file_sha256(file.resolve())
    if found != wanted:
        raise RequestError(
            f"model.weights: {file} has changed since study {study!r} began (SHA-256 {wanted[:16]}... then, "
            f"{found[:16]}... now), so further trials could not be compared with those that there are. Bring the old "
            f"file back, or start anew: harness study run {study} --as NEWNAME"
        )


def _pin(weights: str, backbone: str) -> str:
    return f"{weights} {backbone}"
