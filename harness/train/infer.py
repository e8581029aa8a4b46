"""From stored pixels to logits and embeddings with a trained fold: in fp32, so that all see the same numbers."""

from collections import deque
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from harness.hardware import keep_freed_memory
from harness.images.pixels import Selection
from harness.models.network import Network
from harness.train.checkpoint import FoldMeta
from harness.train.images import stream_images, to_input
from harness.train.pieces import in_fitting_batches
from harness.train.prefetch import prefetched
from harness.train.reading import fetch
from harness.types import Progress

BATCH = 64
"""images at a time; halved while the memory does not suffice"""
AHEAD = 2
"""batches whose numbers are still on their way from a card while the next is computed"""


def infer(
    network: Network,
    meta: FoldMeta,
    pixels: Selection,
    device: str = "cpu",
    batch_size: int = BATCH,
    progress: Progress | None = None,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Logits (n, C) and embeddings (n, D), float32, of n images: (n, S, S, channels), or of their own sizes."""
    keep_freed_memory()  # or every batch's activations are paged in anew: a third of a small network's speed
    network.eval()
    network.to(memory_format=torch.channels_last)
    logits = np.empty((len(pixels), len(meta.classes)), np.float32)
    embeddings = np.empty((len(pixels), network.embedding_size), np.float32)
    images = stream_images(pixels, meta.mean, device)

    def run(size: int) -> None:
        waiting: deque[tuple[NDArray[np.int64], Callable[[], list[NDArray[np.floating]]]]] = deque()
        done = 0

        def store(left: int) -> None:
            nonlocal done
            while len(waiting) > left:
                batch, read = waiting.popleft()
                logits[batch], embeddings[batch] = read()
                done += len(batch)
                if progress:
                    progress("inference", done, len(pixels))

        order = images.in_order(size)
        with torch.inference_mode():
            for rows, (_, x) in zip(order, prefetched(images, order), strict=True):
                found = network.embed(to_input(x, meta.mean, meta.std, torch.channels_last))
                waiting.append((rows.numpy(), fetch([tensor.float() for tensor in found])))
                store(left=AHEAD if x.is_cuda else 0)
        store(left=0)

    in_fitting_batches(run, batch_size, device)
    return logits, embeddings
