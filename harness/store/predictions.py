"""The columns of predictions.parquet.

Arrays as columns of a Parquet table and back: a number a row, or a list of numbers a row.
"""

from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray


def to_column(values: NDArray[Any]) -> pa.Array:
    """(n,) as numbers, (n, W) as lists of W numbers, in the array's own type."""
    if values.ndim == 1:
        return pa.array(values)
    flat = pa.array(np.ascontiguousarray(values).ravel())
    return pa.ListArray.from_arrays(pa.array(np.arange(len(values) + 1) * values.shape[1], pa.int32()), flat)


def from_column(column: pa.ChunkedArray) -> NDArray[Any] | None:
    """What `to_column` was given; None where the rows hold no numbers, or not equally many."""
    whole = column.combine_chunks()
    if whole.null_count:
        return None
    if not pa.types.is_list(whole.type):
        return np.asarray(whole.to_numpy(zero_copy_only=False))
    widths = set(np.diff(whole.offsets.to_numpy()).tolist())
    if len(widths) > 1:
        return None
    values = np.asarray(whole.flatten().to_numpy(zero_copy_only=False))
    return values.reshape(len(whole), widths.pop() if widths else 0)
