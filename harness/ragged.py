"""Images of different sizes as one flat array, so that a memory map of one file can hold them all; and some rows of a
memory map, without a copy.

N: images, H, W: an image's own sides, S: the side of images of one size.
"""

from dataclasses import dataclass
from typing import overload

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.integer] | NDArray[np.bool_] | slice


@dataclass(frozen=True)
class Ragged:
    """N images (H, W, channels). Taking one copies nothing; taking several shares the flat array."""

    flat: NDArray[np.uint8]
    """all pixels, one image after another, each in rows"""
    starts: NDArray[np.int64]
    """(N,) where each image begins"""
    sizes: NDArray[np.int64]
    """(N, 2) H and W"""
    channels: int

    def __len__(self) -> int:
        return len(self.starts)

    @overload
    def __getitem__(self, rows: int | np.integer) -> NDArray[np.uint8]: ...

    @overload
    def __getitem__(self, rows: Rows) -> "Ragged": ...

    def __getitem__(self, rows: int | np.integer | Rows) -> "NDArray[np.uint8] | Ragged":
        if isinstance(rows, int | np.integer):
            (height, width), start = self.sizes[rows].tolist(), int(self.starts[rows])
            return self.flat[start : start + height * width * self.channels].reshape(height, width, self.channels)
        return Ragged(self.flat, self.starts[rows], self.sizes[rows], self.channels)


Pixels = NDArray[np.uint8] | Ragged
"""images of one size (N, H, W, channels), or of their own sizes"""


@dataclass(frozen=True)
class Subset:
    """N images (S, S, channels) among those of an array, a memory map as a rule. Taking rows of it copies no pixel."""

    pixels: NDArray[np.uint8]
    """(all, S, S, channels)"""
    rows: NDArray[np.int64]
    """(N,) which of them"""

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def nbytes(self) -> int:
        """What a copy would take."""
        return len(self.rows) * int(np.prod(self.pixels.shape[1:]))

    def __getitem__(self, rows: Rows) -> "Subset":
        return Subset(self.pixels, self.rows[rows])

    def gather(self, rows: NDArray[np.int64], out: NDArray[np.uint8] | None = None) -> NDArray[np.uint8]:
        """(n, S, S, channels) a copy of these of its images, into `out` where given. Raises IndexError."""
        taken = self.rows[rows]
        if out is None:
            out = np.empty((len(taken), *self.pixels.shape[1:]), np.uint8)
        # with mode="raise" numpy copies twice; the rows are known to be good
        return np.take(self.pixels, taken, axis=0, out=out, mode="clip")


Selection = Pixels | Subset
"""images, or some of them"""


def select(pixels: Pixels, rows: NDArray[np.int64]) -> Selection:
    """The images of these rows, no pixel copied. Raises IndexError for a row that is not there."""
    if isinstance(pixels, Ragged):
        return pixels[rows]
    if len(rows) and not (rows.min() >= 0 and rows.max() < len(pixels)):
        raise IndexError(f"rows {rows.min()} to {rows.max()} of {len(pixels)} images")
    return Subset(pixels, rows)


def lay_out(sizes: NDArray[np.int64], channels: int) -> NDArray[np.int64]:
    """(N,) where each image begins, for images (N, 2) laid one after another."""
    lengths = sizes.prod(axis=1) * channels
    return np.concatenate([[0], np.cumsum(lengths)[:-1]]).astype(np.int64) if len(sizes) else np.zeros(0, np.int64)


def gather(images: list[NDArray[np.uint8]], channels: int) -> Ragged:
    """Images (H, W, channels) as one Ragged."""
    sizes = np.array([image.shape[:2] for image in images], dtype=np.int64).reshape(-1, 2)
    flat = np.concatenate([image.ravel() for image in images]) if images else np.zeros(0, np.uint8)
    return Ragged(flat, lay_out(sizes, channels), sizes, channels)
