"""Named arrays as the bytes of an .npz file and back, without pickle: the non-executable form of a fitted method."""

import io
import math
import zipfile

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from harness.errors import RequestError

KINDS = "fiubU"
"""of numbers and text"""


def pack(arrays: dict[str, NDArray[np.generic]]) -> bytes:
    """Raises TypeError when an array would need pickle."""
    if any(array.dtype.hasobject for array in arrays.values()):
        raise TypeError("object arrays need pickle and are not stored")
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()


def unpack(data: bytes, what: str) -> dict[str, NDArray[np.generic]]:
    """Raises RequestError when the bytes are no such file, would need pickle, or say that they hold more than they
    are: nothing is allocated for what is not there."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            parts = archive.infolist()
            # `pack` compresses nothing, so all parts together are smaller than the file: no bomb, however it is nested
            if any(part.compress_type != zipfile.ZIP_STORED for part in parts):
                raise ValueError("its parts are compressed")
            if sum(part.file_size for part in parts) > len(data):
                raise ValueError("its parts are larger than it is")
            if len({part.filename for part in parts}) < len(parts):
                raise ValueError("a part comes twice")
            return {part.filename.removesuffix(".npy"): _array(archive.read(part)) for part in parts}
    except (ValueError, OSError, EOFError, KeyError, zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise RequestError(f"{what} cannot be read ({reason}). Build the ensemble again.") from error


def _array(data: bytes) -> NDArray[np.generic]:
    file = io.BytesIO(data)
    version = npy.read_magic(file)
    read = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}.get(version)
    if read is None:
        raise ValueError(f"an array of version {version}")
    shape, columns_first, dtype = read(file)
    if dtype.kind not in KINDS:
        raise ValueError(f"an array of {dtype}, which needs pickle" if dtype.hasobject else f"an array of {dtype}")
    there = len(data) - file.tell()
    if any(side < 0 for side in shape) or math.prod(shape) * dtype.itemsize != there:
        raise ValueError(f"an array of shape {shape} in {there} bytes")
    return np.frombuffer(data, dtype, offset=file.tell()).reshape(shape, order="F" if columns_first else "C").copy()
