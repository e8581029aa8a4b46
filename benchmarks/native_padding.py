"""Padding of batches of images of their own sizes: batches of similar sizes against batches drawn at random.

Counts pixels, so the result does not depend on the machine. `ratio` is the pixels that random batches fill over those
that batches of similar sizes fill, both over some epochs; `wasted` is the share of them that is padding.

    python -m benchmarks.native_padding --root PATH [--batch 16] [--json]      PATH holds images; drawn sizes without it
"""

from pathlib import Path

import numpy as np
import PIL.Image
import torch
from numpy.typing import NDArray

from benchmarks._report import arguments, publish
from harness.images.decode import IMAGE_SUFFIXES
from harness.train.batches import batches, canvas, similar_batches

EPOCHS = 5


def sizes_under(root: Path | None) -> NDArray[np.int64]:
    """(N, 2) height and width of the images in a folder; without one, of 300 drawn log-normally about 120 pixels."""
    if root is None:
        return np.exp(np.random.default_rng(0).normal(np.log(120), 0.4, (300, 2))).astype(np.int64).clip(32, 600)
    found = [path for path in sorted(root.rglob("*")) if path.suffix.lower() in IMAGE_SUFFIXES]
    return np.array([PIL.Image.open(path).size[::-1] for path in found], dtype=np.int64)


def filled(sizes: NDArray[np.int64], parts: list[torch.Tensor]) -> int:
    return sum(len(part) * int(canvas(sizes[part.numpy()]).max(axis=0).prod()) for part in parts)


def main() -> None:
    parser = arguments(__doc__ or "")
    parser.add_argument("--root", type=Path)
    parser.add_argument("--batch", type=int, default=16)
    options = parser.parse_args()
    sizes = sizes_under(options.root)
    generator = torch.Generator().manual_seed(0)
    orders = [torch.randperm(len(sizes), generator=generator) for _ in range(EPOCHS)]
    similar = sum(filled(sizes, similar_batches(sizes, order, options.batch, 0)) for order in orders)
    random = sum(filled(sizes, batches(order, options.batch)) for order in orders)
    used, alone = EPOCHS * int(sizes.prod(axis=1).sum()), EPOCHS * int(canvas(sizes).prod(axis=1).sum())
    publish(
        "native_padding",
        random / similar,
        1.3,
        options,
        wasted={name: round(1 - used / whole, 3) for name, whole in (("random", random), ("similar", similar))},
        wasted_at_least=round(1 - used / alone, 3),
        images=len(sizes),
        batch=options.batch,
    )


if __name__ == "__main__":
    main()
