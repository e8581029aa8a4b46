"""Grad-CAM (Selvaraju et al. 2017): which places of an image speak for a class, averaged over networks.

The only file that imports captum. What is explained is the log-odds of the class against all others (of a multi-label
task: its own logit): with two classes a single logit would tell half of the story. A heat map says where a network
looked, not why, and not what is there.

n: images, S, H, W: sides.
"""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from harness.images.pixels import Pixels
from harness.models.network import Network
from harness.predict.feature_map import exposed, find_feature_map
from harness.train.batches import own_sizes, stream_images, to_input
from harness.train.checkpoint import FoldMeta, load_fold
from harness.train.step import in_fitting_batches
from harness.types import Progress

BATCH = 16
"""images of one backward pass, which keeps what a forward pass alone would let go; halved while the memory does not
suffice"""


def heat_maps(
    weights: list[Path], pixels: Pixels, classes: NDArray[np.int64], device: str, progress: Progress | None = None
) -> list[NDArray[np.float32]]:
    """For each image where the networks see its class (n,): (S, S) or (H, W), the size of its pixels, in [0, 1].

    Each network's map is scaled to its own maximum before the mean, for logits of two networks have no common unit.
    A map of zeros: no place speaks for the class. Raises RequestError for a network that has no feature map.
    """
    total = [np.zeros(shape, np.float32) for shape in _shapes(pixels)]
    for done, path in enumerate(weights, start=1):
        network, meta = load_fold(path, device)
        for row, one in enumerate(grad_cam(network, meta, pixels, classes, device)):
            total[row] += one
        if progress:
            progress("heat maps", done, len(weights))
    return [scaled(one) for one in total]


def grad_cam(
    network: Network, meta: FoldMeta, pixels: Pixels, classes: NDArray[np.int64], device: str = "cpu"
) -> list[NDArray[np.float32]]:
    """Heat maps of one network, each scaled to its maximum."""
    from captum.attr import LayerGradCam

    network.eval().requires_grad_(False)
    images = stream_images(pixels, meta.mean, device)
    maps: list[NDArray[np.float32]] = [np.zeros(0, np.float32)] * len(pixels)

    def run(size: int) -> None:
        for rows in images.in_order(size):
            x = to_input(images.batch(rows), meta.mean, meta.std, torch.channels_last)
            target = torch.from_numpy(classes[rows.numpy()]).to(device)
            with torch.enable_grad(), exposed(network, find_feature_map(network, x)) as probe:
                explained = LayerGradCam(lambda x, c: log_odds(network(x), c, meta.multilabel), probe)
                cam = explained.attribute(x, additional_forward_args=(target,), relu_attributions=True)
            cam = F.interpolate(cam.detach(), x.shape[2:], mode="bilinear", align_corners=False)[:, 0].cpu()
            sizes = own_sizes(images, rows)
            for place, row in enumerate(rows.tolist()):
                maps[row] = scaled(_without_canvas(cam[place], None if sizes is None else sizes[place]))

    in_fitting_batches(run, BATCH, device)
    return maps


def log_odds(logits: Tensor, classes: Tensor, multilabel: bool) -> Tensor:
    """(B,) of one class each, from (B, C): against all others, or in a multi-label task its own logit."""
    own = logits.gather(1, classes[:, None])[:, 0]
    if multilabel:
        return own
    others = logits.scatter(1, classes[:, None], -torch.inf)
    return own - others.logsumexp(dim=1)


def scaled(heat: NDArray[np.float32]) -> NDArray[np.float32]:
    """Divided by its maximum; zeros stay zeros."""
    top = float(heat.max())
    return np.asarray(heat / top if top > 0 else np.zeros_like(heat), dtype=np.float32)


def _without_canvas(heat: Tensor, size: Tensor | None) -> NDArray[np.float32]:
    """The part that the image itself fills: images of their own sizes stand in the middle of a canvas."""
    if size is not None:
        (height, width), (h, w) = heat.shape, size.tolist()
        top, left = (height - h) // 2, (width - w) // 2
        heat = heat[top : top + h, left : left + w]
    return np.asarray(heat.numpy())


def _shapes(pixels: Pixels) -> list[tuple[int, int]]:
    return [(int(image.shape[0]), int(image.shape[1])) for image in (pixels[row] for row in range(len(pixels)))]
