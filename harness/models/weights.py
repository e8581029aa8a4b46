"""Pretrained weights: where they lie, whether they are whole, what to type where they are missing.

Where a library's weights lie on this machine, whether they are whole, and what to say when they are missing.

`pretrained` and tags are looked for in the libraries' own caches (torch hub's checkpoints, the Hugging Face hub), with
one quick try to download what is not there. Knows files and hashes, no models.

Networks whose numbers are about to be read from a file are built without drawing them first.

Drawing is most of the time that it takes to build a large network: two thirds of a ResNet-18's.
"""

import hashlib
import os
import re
import urllib.error
import urllib.request
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from harness.errors import RequestError

Kind = Literal["none", "pretrained", "tag", "file", "study"]
ENDINGS = (".pth", ".pt", ".bin", ".tar", ".ckpt", ".npz", ".safetensors")
TIMEOUT = 5.0
"""seconds to wait for an answer before a machine counts as offline"""
TRUE = ("1", "ON", "YES", "TRUE")


@dataclass(frozen=True)
class Source:
    """Where a library publishes the weights of one tag."""

    tag: str
    repository: str = ""
    """of the Hugging Face hub, perhaps with @revision; '' where they are not there"""
    files: tuple[str, ...] = ()
    """in that repository, the one to try first in front"""
    url: str = ""
    """'' where there is none; the end of its file name is often the start of the file's SHA-256"""


def kind_of(weights: str) -> Kind:
    """What model.weights asks for."""
    if weights in ("none", "pretrained"):
        return "none" if weights == "none" else "pretrained"
    if weights.startswith("study:"):
        return "study"
    if "/" in weights or os.sep in weights or weights.lower().endswith(ENDINGS) or Path(weights).is_file():
        return "file"
    return "tag"


def require_file(weights: str) -> Path:
    """Raises RequestError where no file is at that path."""
    path = Path(weights).expanduser()
    if not path.is_file():
        raise RequestError(
            f"model.weights: no file at {weights}. Write none, pretrained, a tag from `harness models show NAME`, the "
            "path of a .pth or .safetensors file, or study:NAME."
        )
    return path


def hub_folder() -> Path:
    """The Hugging Face hub's cache, as its own variables place it."""
    home = os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface"
    own = os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE")
    return Path(own or Path(home) / "hub").expanduser()


def torch_folder() -> Path:
    """torch hub's cache of files."""
    return Path(torch.hub.get_dir()) / "checkpoints"


def is_offline() -> bool:
    """Whether the user forbids the hub: HF_HUB_OFFLINE."""
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in TRUE


def locate(source: Source, name: str) -> Path:
    """The file of a tag's weights, from a cache or freshly downloaded into it.

    Raises RequestError that says what to download and where to put it.
    """
    found = cached(source)
    if found is not None:
        return found
    try:
        return _download(source)
    except (OSError, RuntimeError, ValueError) as error:
        raise RequestError(_missing(source, name, error)) from error


def cached(source: Source) -> Path | None:
    """The file of a tag's weights where a cache has it; no network."""
    if source.repository:
        from huggingface_hub import try_to_load_from_cache

        repository, _, revision = source.repository.partition("@")
        for file in source.files:
            path = try_to_load_from_cache(repository, file, cache_dir=hub_folder(), revision=revision or None)
            if isinstance(path, str):
                return Path(path)
    if source.url:
        path = torch_folder() / source.url.rsplit("/", 1)[-1]
        if path.is_file():
            return path
    return None


def _addresses(source: Source) -> list[str]:
    if not source.repository:
        return [source.url] if source.url else []
    repository, _, revision = source.repository.partition("@")
    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
    return [f"{endpoint}/{repository}/resolve/{revision or 'main'}/{file}" for file in source.files]


def _download(source: Source) -> Path:
    """One try: what does not answer within TIMEOUT seconds is out of reach."""
    if is_offline():
        raise OSError("HF_HUB_OFFLINE is set")
    problem: Exception = OSError("the library names no place to download from")
    for address in _addresses(source):
        try:
            urllib.request.urlopen(urllib.request.Request(address, method="HEAD"), timeout=TIMEOUT).close()
        except (OSError, ValueError) as error:
            problem = error
            if isinstance(error, urllib.error.HTTPError):
                continue  # perhaps the repository has the other file
            break
        if not source.repository:
            path = torch_folder() / address.rsplit("/", 1)[-1]
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(address, str(path), hash_prefix=_hash_in_name(path), progress=False)
            return path
        from huggingface_hub import hf_hub_download

        repository, _, revision = source.repository.partition("@")
        file = address.rsplit("/", 1)[-1]
        return Path(hf_hub_download(repository, file, cache_dir=hub_folder(), revision=revision or None))
    raise problem


def _missing(source: Source, name: str, error: Exception) -> str:
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    here = (
        f"the weights {source.tag} of {name} are not on this machine and cannot be downloaded ({reason}).\n"
        "On a machine with access to the network, "
    )
    addresses = _addresses(source)
    if not addresses:
        return f"model.weights: {here}get them from their authors, and set model.weights=PATH, or model.weights=none."
    if not source.repository:
        return (
            f"model.weights: {here}download\n  {addresses[0]}\nand put the file into\n  {torch_folder()}\n"
            "or anywhere, with model.weights=PATH. To start from random weights: model.weights=none."
        )
    repository = source.repository.partition("@")[0]
    folder = f"models--{repository.replace('/', '--')}"
    return (
        f"model.weights: {here}type\n  hf download {repository} {source.files[0]}\n"
        f"and copy the folder {folder} from its ~/.cache/huggingface/hub into\n  {hub_folder()}\n"
        f"or download\n  {addresses[0]}\nand set model.weights=PATH to the file. "
        "To start from random weights: model.weights=none."
    )


def _hash_in_name(path: Path) -> str | None:
    """The start of the SHA-256 that torch hub writes into file names: resnet18-f37072fd.pth."""
    found = re.search(r"-([a-f0-9]{8,64})\.[a-z.]+$", path.name)
    return found.group(1) if found else None


def check_file(path: Path) -> None:
    """The file's published hash, where its name holds one, and that every tensor in it is finite. RequestError."""
    real = path.resolve()  # the hub's files are links to blobs that are named by their SHA-256
    published = real.name if re.fullmatch(r"[a-f0-9]{64}", real.name) else _hash_in_name(path)
    if published is not None:
        with real.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if not found.startswith(published):
            raise RequestError(
                f"model.weights: {path} is damaged: its SHA-256 starts with {found[: len(published)][:16]}, its name "
                f"says {published[:16]}. Delete it and download it again."
            )
    if path.suffix == ".npz":
        return
    try:
        state = read_state(path)
    except (OSError, RuntimeError, ValueError, KeyError, EOFError, UnpicklingError, SafetensorError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise RequestError(f"model.weights: {path} cannot be read as weights: {reason}") from error
    bad = [name for name, tensor in state.items() if tensor.is_floating_point() and not tensor.isfinite().all()]
    if bad:
        raise RequestError(
            f"model.weights: {path} has {len(bad)} tensors with values that are not finite, such as {bad[0]}. "
            "Use another file."
        )


def read_state(path: Path) -> dict[str, Tensor]:
    """A state dict from .safetensors or a weights-only .pth: no code in the file is run."""
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return dict(load_file(path))
    state: Any = torch.load(path, map_location="cpu", weights_only=True)
    for key in ("state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict):
        raise ValueError(f"it holds {type(state).__name__} instead of a table of tensors")
    tensors = {name.removeprefix("module."): t for name, t in state.items() if isinstance(t, Tensor)}
    return _versioned(tensors, getattr(state, "_metadata", None))


def load_tensors(network: nn.Module, tensors: dict[str, Tensor], strict: bool = True) -> None:
    """network.load_state_dict for tensors that come from a file; without a note of their own they are taken to be of
    the modules' present version, which some modules (MNASNet) insist on. Raises RuntimeError as that does."""
    metadata = getattr(tensors, "_metadata", None) or getattr(network.state_dict(), "_metadata", None)
    network.load_state_dict(_versioned(tensors, metadata), strict=strict)


def _versioned(tensors: dict[str, Tensor], metadata: Any) -> dict[str, Tensor]:
    ordered: Any = OrderedDict(tensors)
    if metadata is not None:
        ordered._metadata = metadata
    versioned: dict[str, Tensor] = ordered
    return versioned


DRAWS = {Tensor.normal_, Tensor.uniform_}
"""what all starts of weights come down to"""


class _Undrawn(TorchFunctionMode):
    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return args[0] if func in DRAWS else func(*args, **(kwargs or {}))


@contextmanager
def without_drawing() -> Iterator[None]:
    """Inside, what would be drawn keeps the value that its memory has. For networks of which every tensor is replaced
    afterwards; only there."""
    with _Undrawn():
        yield
