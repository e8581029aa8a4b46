"""From stored pixels to logits and embeddings with a trained fold: in fp32, so that all see the same numbers."""

import numpy as np
import torch
from numpy.typing import NDArray

from harness.models.network import Network
from harness.ragged import Selection
from harness.records import Progress
from harness.train.checkpoint import FoldMeta
from harness.train.images import stream_images, to_input
from harness.train.prefetch import prefetched


def infer(
    network: Network,
    meta: FoldMeta,
    pixels: Selection,
    device: str = "cpu",
    batch_size: int = 64,
    progress: Progress | None = None,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Logits (n, C) and embeddings (n, D), float32, of n images: (n, S, S, channels), or of their own sizes."""
    network.eval()
    network.to(memory_format=torch.channels_last)
    logits = np.empty((len(pixels), len(meta.classes)), np.float32)
    embeddings = np.empty((len(pixels), network.embedding_size), np.float32)
    images, done = stream_images(pixels, meta.mean, device), 0
    with torch.inference_mode():
        for rows, x in prefetched(images, images.in_order(batch_size)):
            out, embedding = network.embed(to_input(x, meta.mean, meta.std, torch.channels_last))
            batch = rows.cpu().numpy()
            logits[batch], embeddings[batch] = out.float().cpu().numpy(), embedding.float().cpu().numpy()
            done += len(rows)
            if progress:
                progress("inference", done, len(pixels))
    return logits, embeddings
