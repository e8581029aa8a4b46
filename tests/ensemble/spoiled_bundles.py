"""Ways to spoil a bundle as somebody would who writes it himself: every hash is right afterwards."""

import hashlib
import io
import json
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np


def rewrite(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    path = folder / "bundle.json"
    about = json.loads(path.read_text())
    change(about)
    path.write_text(json.dumps(about))


def put(folder: Path, name: str, content: bytes) -> None:
    """Replace a file of the fitted method or of a checkpoint, and its hash."""
    target = folder / name
    target.unlink(missing_ok=True)  # it may be a hard link to the study's own
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()

    def change(about: dict[str, Any]) -> None:
        for member in about["members"]:
            for fold in member["folds"]:
                if fold["weights"] == name:
                    fold["sha256"] = digest
                    return
        about["model"][name] = digest

    rewrite(folder, change)


def checkpoint(folder: Path) -> str:
    return str(json.loads((folder / "bundle.json").read_text())["members"][0]["folds"][0]["weights"])


def header(data: bytes) -> dict[str, Any]:
    """Of a safetensors file."""
    (length,) = struct.unpack("<Q", data[:8])
    found: dict[str, Any] = json.loads(data[8 : 8 + length])
    return found


def with_header(data: bytes, change: Callable[[dict[str, Any]], Any]) -> bytes:
    """A safetensors file whose header was changed; its tensors stay."""
    (length,) = struct.unpack("<Q", data[:8])
    head = header(data)
    change(head)
    text = json.dumps(head).encode()
    return struct.pack("<Q", len(text)) + text + data[8 + length :]


def with_meta(data: bytes, **changes: Any) -> bytes:
    """A fold checkpoint that says something else about itself."""

    def change(head: dict[str, Any]) -> None:
        meta = json.loads(head["__metadata__"]["harness"])
        head["__metadata__"]["harness"] = json.dumps({**meta, **changes})

    return with_header(data, change)


def npy(shape: str, dtype: str = "'<f4'", data: bytes = b"") -> bytes:
    """A .npy file with a header of one's own wording."""
    head = f"{{'descr': {dtype}, 'fortran_order': False, 'shape': {shape}, }}".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head) + 1) + head + b"\n" + data


def npz(parts: dict[str, bytes], compress: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compress) as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def bomb(megabytes: int) -> bytes:
    """An .npz of a thousandth of the size that it unpacks to."""
    body = io.BytesIO()
    np.save(body, np.zeros(megabytes * 2**17))
    return npz({"weights.npy": body.getvalue()}, zipfile.ZIP_DEFLATED)
