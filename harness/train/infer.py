"""From stored pixels to logits and embeddings with a trained fold: in fp32, so that all see the same numbers."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from harness.models.network import Network
from harness.ragged import Pixels
from harness.records import Progress
from harness.train.checkpoint import FoldMeta
from harness.train.images import load_images


def normalize(x_BCHW: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """(x - mean) / std per channel, for x in [0, 1]."""
    shape = (1, -1, 1, 1)
    return (x_BCHW - x_BCHW.new_tensor(mean).view(shape)) / x_BCHW.new_tensor(std).view(shape)


def infer(
    network: Network,
    meta: FoldMeta,
    pixels: Pixels,
    device: str = "cpu",
    batch_size: int = 64,
    progress: Progress | None = None,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Logits (n, C) and embeddings (n, D), float32, of n images: (n, S, S, channels), or of their own sizes."""
    network.eval()
    network.to(memory_format=torch.channels_last)
    logits = np.empty((len(pixels), len(meta.classes)), np.float32)
    embeddings = np.empty((len(pixels), network.embedding_size), np.float32)
    images, done = load_images(pixels, meta.mean, device), 0
    with torch.inference_mode():
        for rows in images.in_order(batch_size):
            x = normalize(images.batch(rows).float() / 255, meta.mean, meta.std)
            out, embedding = network.embed(x.contiguous(memory_format=torch.channels_last))
            batch = rows.numpy()
            logits[batch], embeddings[batch] = out.float().cpu().numpy(), embedding.float().cpu().numpy()
            done += len(rows)
            if progress:
                progress("inference", done, len(pixels))
    return logits, embeddings
