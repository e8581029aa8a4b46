"""Fold checkpoints (safetensors, no code) and the resume state of a running fold.

A checkpoint carries all that inference needs: how to build the network, how to make pixels, how to normalise.
"""

import hashlib
import json
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import save
from torch import Tensor

from harness.config.data import Decode
from harness.config.spec import Model
from harness.errors import HarnessError
from harness.models.network import Network, build_network
from harness.models.weights import load_tensors, without_drawing
from harness.store import files
from harness.store.files import write_bytes
from harness.train.batches import mark

STATE = 3
"""what a resume state holds; raise it with every change, and a fold that another version began begins anew"""
WRITE_SHARE = 0.02
"""largest share of training time that goes into writing resume states"""
LARGEST_META = 16 * 2**20
"""bytes that a checkpoint may say about itself: 65,536 classes with long names are 8 MB"""
BYTES_PER_SECOND = 5e8
"""what a disk is taken to write until the first state was written and timed"""

SEVERAL = -1
"""the trial of a network that was averaged over several"""
NO_FOLD = -1
"""the fold of a network that held out no whole fold: averaged over the folds, or trained on a bootstrap resample"""


@dataclass(frozen=True)
class FoldMeta:
    """What a fold checkpoint says about itself."""

    study: str
    trial: int
    """or SEVERAL"""
    fold: int
    """the one that it held out, or NO_FOLD"""
    model: dict[str, Any]
    """study.spec.Model as a plain dict"""
    decode: dict[str, Any]
    """study.spec.Decode as a plain dict"""
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    """per channel, of pixel / 255 over the fold's training rows"""
    std: tuple[float, ...]
    encoder_id: str
    """digest of the weights: embeddings with different ids live in different spaces"""
    data_hash: str
    folds_hash: str
    multilabel: bool = False
    """whether each class is a question of its own: sigmoid instead of softmax"""
    start_id: str = ""
    """digest of the weights before the first step, head included; "" where it is not known. Only networks with one
    start have weights that may be averaged"""


def digest(network: Network) -> str:
    """16 hex digits over all weights and buffers."""
    state = hashlib.blake2b(digest_size=8)
    for name, tensor in sorted(network.state_dict().items()):
        state.update(name.encode())
        state.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return state.hexdigest()


def save_weights(path: Path, network: Network, meta: FoldMeta) -> None:
    """Write a checkpoint atomically."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    write_bytes(path, save(tensors, metadata={"harness": json.dumps(asdict(meta))}))


def read_meta(path: Path) -> FoldMeta:
    """The header alone. Raises HarnessError when the file is not a fold checkpoint."""
    try:
        with safetensors.safe_open(str(path), framework="pt") as file:
            text = (file.metadata() or {}).get("harness")
    except (OSError, safetensors.SafetensorError) as error:
        raise HarnessError(f"{path}: not readable as a checkpoint: {error}") from error
    if text is None:
        raise HarnessError(f"{path}: a safetensors file, but not a fold checkpoint of this program.")
    try:
        data = files.read(text.encode(), LARGEST_META)
        lists = {name: tuple(data[name]) for name in ("classes", "mean", "std")}
        return FoldMeta(**{**data, **lists})
    except (ValueError, TypeError, KeyError) as error:
        raise HarnessError(f"{path}: what it says about itself cannot be read ({error}).") from error


def load_fold(path: Path, device: str = "cpu") -> tuple[Network, FoldMeta]:
    """The network of a fold in evaluation mode, and what it says about itself. Raises HarnessError for what is no whole
    checkpoint of the network that it names."""
    meta = read_meta(path)
    model = Model.model_validate({**meta.model, "weights": "none"})
    decode = Decode.model_validate(meta.decode)
    with without_drawing():
        network = build_network(model, len(meta.classes), decode.channels, decode.side, seed=0)
    try:
        with safetensors.safe_open(str(path), framework="pt") as file:
            load_tensors(network, {name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
    except (RuntimeError, safetensors.SafetensorError) as error:
        reason = str(error).splitlines()[-1].strip()
        raise HarnessError(f"{path}: its tensors are not those of {model.backbone}: {reason}") from error
    return network.to(device).eval(), meta


class ResumeState:
    """The state after the last finished epoch of a running fold.

    Kept in memory after every epoch (a copy of the tensors, a few milliseconds), written to disk as often as costs no
    more than WRITE_SHARE of the time, and at once when the training is interrupted. A file is replaced whole.

    Copying and completing are two calls, because an epoch's scores come later than its weights; between the two
    nothing is written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._state: dict[str, Any] = {}
        self._tensors: list[Tensor] = []
        self._whole = False
        self._copied: torch.cuda.Event | None = None
        self._on_disk = -1
        self._start = time.monotonic()
        self._due: float | None = None

    def load(self, device: str) -> dict[str, Any] | None:
        """The state on disk, or None where there is none that this version wrote: the fold then begins anew.

        So it does where the file is damaged; that is set aside as NAME.damaged until the trial ends.
        """
        if not self.path.exists():
            return None
        try:
            state: dict[str, Any] = torch.load(self.path, map_location=device, weights_only=True)
        except (OSError, MemoryError, torch.OutOfMemoryError):
            raise
        except Exception:  # damage shows itself as anything: RuntimeError, EOFError, UnpicklingError, IndexError, ...
            os.replace(self.path, self.path.with_suffix(".damaged"))
            return None
        if not isinstance(state, dict) or state.get("format") != STATE:
            return None
        self._on_disk = state["epoch"]
        return state

    def keep(self, state: dict[str, Any]) -> None:
        """Copy what an epoch ended with. On a card the copies queue up behind the epoch and nobody waits for them."""
        self._whole = False
        tensors = _tensors(state)
        if [(t.shape, t.dtype) for t in tensors] != [(t.shape, t.dtype) for t in self._tensors]:
            self._tensors = [torch.empty_like(t, device="cpu", pin_memory=t.is_cuda) for t in tensors]
        for kept, tensor in zip(self._tensors, tensors, strict=True):
            kept.copy_(tensor, non_blocking=True)
        self._copied = next((mark(tensor.device) for tensor in tensors if tensor.is_cuda), None)
        self._state = _replace(state, iter(self._tensors))

    def complete(self, epoch: int, history: list[dict[str, Any]], seconds: float, heard: bool = True) -> None:
        """Add what was known later; write the state when that is due. `heard`: whether the epoch's report arrived."""
        self._state |= {"format": STATE, "epoch": epoch, "history": history, "seconds": seconds, "heard": heard}
        self._whole = True
        if self._due is None:
            size = sum(tensor.nbytes for tensor in self._tensors)
            self._due = self._start + size / BYTES_PER_SECOND / WRITE_SHARE
        if time.monotonic() >= self._due:
            self.write()

    def write(self) -> None:
        """Put the kept state on disk, unless it is there."""
        if not self._whole or self._state["epoch"] == self._on_disk:
            return
        if self._copied is not None:
            self._copied.synchronize()
        start = time.monotonic()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.path.with_suffix(".new")
        try:
            with open(temporary, "wb") as file:
                torch.save(self._state, file)
                file.flush()
                os.fsync(file.fileno())  # or a power failure could leave the name without the contents
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        os.replace(temporary, self.path)
        self._on_disk = self._state["epoch"]
        self._due = time.monotonic() + (time.monotonic() - start) / WRITE_SHARE


def _tensors(node: Any) -> list[Tensor]:
    if isinstance(node, Tensor):
        return [node.detach()]
    children = node.values() if isinstance(node, dict) else node if isinstance(node, list | tuple) else ()
    return [tensor for child in children for tensor in _tensors(child)]


def _replace(node: Any, tensors: Any) -> Any:
    """The same nest with each tensor taken from `tensors`, in the order of _tensors()."""
    if isinstance(node, Tensor):
        return next(tensors)
    if isinstance(node, dict):
        return {key: _replace(child, tensors) for key, child in node.items()}
    if isinstance(node, list | tuple):
        return [_replace(child, tensors) for child in node]
    return node
