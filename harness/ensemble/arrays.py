"""Named arrays as the bytes of an .npz file and back, without pickle: the non-executable form of a fitted method."""

import io
import zipfile

import numpy as np
from numpy.typing import NDArray

from harness.errors import RequestError


def pack(arrays: dict[str, NDArray[np.generic]]) -> bytes:
    """Raises TypeError when an array would need pickle."""
    if any(array.dtype.hasobject for array in arrays.values()):
        raise TypeError("object arrays need pickle and are not stored")
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()


def unpack(data: bytes, what: str) -> dict[str, NDArray[np.generic]]:
    """Raises RequestError when the bytes are no such file or would need pickle."""
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as stored:
            return {name: stored[name] for name in stored.files}
    except (ValueError, OSError, EOFError, KeyError, zipfile.BadZipFile, AttributeError) as error:
        raise RequestError(f"{what} cannot be read ({error}). Build the ensemble again.") from error
