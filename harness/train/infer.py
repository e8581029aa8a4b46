"""From stored pixels to logits and embeddings with a trained fold: in fp32, so that all see the same numbers."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from harness.models.network import Network
from harness.records import Progress
from harness.train.checkpoint import FoldMeta


def to_batch(pixels: NDArray[np.uint8], device: str = "cpu") -> Tensor:
    """(n, H, W, C) uint8 -> (n, C, H, W) uint8 on the device, contiguous."""
    return torch.from_numpy(np.array(pixels, copy=True)).permute(0, 3, 1, 2).contiguous().to(device)


def normalize(x_BCHW: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """(x - mean) / std per channel, for x in [0, 1]."""
    shape = (1, -1, 1, 1)
    return (x_BCHW - x_BCHW.new_tensor(mean).view(shape)) / x_BCHW.new_tensor(std).view(shape)


def infer(
    network: Network,
    meta: FoldMeta,
    pixels: NDArray[np.uint8],
    device: str = "cpu",
    batch_size: int = 64,
    progress: Progress | None = None,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Logits (n, C) and embeddings (n, D), float32, of pixels (n, S, S, channels)."""
    network.eval()
    network.to(memory_format=torch.channels_last)
    logits = np.empty((len(pixels), len(meta.classes)), np.float32)
    embeddings = np.empty((len(pixels), network.embedding_size), np.float32)
    with torch.inference_mode():
        for start in range(0, len(pixels), batch_size):
            batch = slice(start, start + batch_size)
            x = normalize(to_batch(pixels[batch], device).float() / 255, meta.mean, meta.std)
            out, embedding = network.embed(x.contiguous(memory_format=torch.channels_last))
            logits[batch], embeddings[batch] = out.float().cpu().numpy(), embedding.float().cpu().numpy()
            if progress:
                progress("inference", min(start + batch_size, len(pixels)), len(pixels))
    return logits, embeddings
