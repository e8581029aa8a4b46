"""Generated training images: a small class-conditional generator that is fitted to the given rows and to nothing else.

Probabilistic principal components (Tipping and Bishop 1999) of images of at most SIDE pixels, with a normal
distribution of the components for each class, whose covariance is drawn towards the one that all classes share
(Friedman 1989), so that a class of a few rows has one too. Fitted in closed form, in seconds; no network, no epochs.
What it makes is blurred; whether it helps is a question for an ablation.

n: training rows, m: generated rows, S: side, c: channels, d: values of a reduced image, q: components.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from harness.errors import RequestError
from harness.images.pixels import Subset

SIDE = 64
"""images are modelled at this side at most; larger ones are reduced, and enlarged again"""
COMPONENTS = 64
FIT_ROWS = 4096
"""rows that it is fitted to at most: of the larger classes a random part"""
CHUNK = 256
"""images that are resized or made together"""


@dataclass(frozen=True)
class Generator:
    """What was fitted, on the device."""

    mean: Tensor
    """(d,) float32"""
    directions: Tensor
    """(d, q) orthonormal"""
    centres: Tensor
    """(classes, q) the mean of each class's components; 0 for a class without rows"""
    factors: Tensor
    """(classes, q, q) lower triangular: what makes standard normal numbers vary as the class's components do"""
    noise: float
    """standard deviation of what the components leave out, per value"""


def check_synthetic(share: float, multilabel: bool, native: bool) -> None:
    """Raises RequestError where no images can be generated: several labels an image, or images of their own sizes."""
    if not share:
        return
    if multilabel:
        raise RequestError(
            f"augment.synthetic: {share:g} needs one label an image, and this data set has several. "
            "Set augment.synthetic: 0."
        )
    if native:
        raise RequestError(
            f"augment.synthetic: {share:g} needs images of one size, and data.decode.size is native. "
            "Set augment.synthetic: 0, or a size such as data.decode.size: 128."
        )


def fit_and_sample(
    x: NDArray[np.uint8] | Subset, y: NDArray[np.int64], classes: int, share: float, seed: int, device: str
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Generated images (m, S, S, c) uint8 and their labels (m,), m = share * n, classes in the proportions of y.

    x: (n, S, S, c) uint8; y: (n,): the TRAINING rows of a fold, since what they hold is in the images that are made.
    The same arguments give the same images; no random number is taken from a generator that others use.
    """
    counts = proportional(np.bincount(y, minlength=classes), round(share * len(y)))
    labels = np.repeat(np.arange(classes), counts)
    generator = torch.Generator().manual_seed(seed)
    fitted = fit(x, y, classes, generator, device)
    height, width, channels = _shape(x)
    out = np.empty((len(labels), height, width, channels), np.uint8)
    for start in range(0, len(labels), CHUNK):
        part = labels[start : start + CHUNK]
        made = sample(fitted, torch.from_numpy(part), generator).view(len(part), channels, *_reduced(height, width))
        made = F.interpolate(made, (height, width), mode="bilinear") if made.shape[2:] != (height, width) else made
        levels = made.mul(255).round().clamp(0, 255).to(torch.uint8)
        out[start : start + CHUNK] = levels.permute(0, 2, 3, 1).cpu().numpy()
    return out, labels


def proportional(counts: NDArray[np.int64], total: int) -> NDArray[np.int64]:
    """(classes,) whole numbers that sum to total, in the proportions of counts, by largest remainders."""
    exact = counts * (total / max(int(counts.sum()), 1))
    found: NDArray[np.int64] = np.floor(exact).astype(np.int64)
    found[np.argsort(found - exact, kind="stable")[: total - int(found.sum())]] += 1
    return found


def fit(
    x: NDArray[np.uint8] | Subset, y: NDArray[np.int64], classes: int, generator: torch.Generator, device: str
) -> Generator:
    """The generator of these rows, of at most FIT_ROWS of them; see `fit_and_sample`."""
    rows = _fitted_rows(y, np.random.default_rng(generator.initial_seed()))
    values, labels = _reduce(x, rows, device), torch.from_numpy(y[rows]).to(device)
    mean = values.mean(dim=0)
    values -= mean
    directions = principal_directions(values, COMPONENTS, generator)
    components = values @ directions
    left = float(values.square().sum() - components.square().sum())
    noise = (max(left, 0.0) / max(len(rows) * (values.shape[1] - directions.shape[1]), 1)) ** 0.5

    q = directions.shape[1]
    member = F.one_hot(labels, classes).to(components.dtype)
    count = member.sum(dim=0)
    centres = (member.T @ components) / count.clamp(min=1)[:, None]
    apart = components - centres[labels]
    scatter = torch.einsum("nk,ni,nj->kij", member, apart, apart) if classes * q * q < 2**22 else None
    shared = apart.T @ apart / len(rows)
    if scatter is None:  # too many classes for a covariance each
        covariance = shared.expand(classes, q, q)
    else:
        # the shared covariance weighs as much as q rows
        covariance = (scatter + q * shared) / (count + q)[:, None, None]
    tiny = 1e-6 * float(shared.diagonal().mean()) + 1e-12
    factors = torch.linalg.cholesky(covariance.double() + tiny * torch.eye(q, device=device, dtype=torch.float64))
    return Generator(mean, directions, centres, factors.float(), noise)


def sample(fitted: Generator, labels: Tensor, generator: torch.Generator) -> Tensor:
    """(B, d) float32 images of these classes (B,), about [0, 1]."""
    device, (d, q) = fitted.mean.device, fitted.directions.shape
    labels = labels.to(device)
    normal = torch.randn(len(labels), q, generator=generator).to(device)
    components = fitted.centres[labels] + torch.einsum("bij,bj->bi", fitted.factors[labels], normal)
    noise = torch.randn(len(labels), d, generator=generator).to(device) * fitted.noise
    noise -= (noise @ fitted.directions) @ fitted.directions.T
    return fitted.mean + components @ fitted.directions.T + noise


def principal_directions(values: Tensor, most: int, generator: torch.Generator) -> Tensor:
    """(d, q) orthonormal directions of the largest variance of centred values (n, d), the largest first.

    q is `most`, or what n and d allow. By subspace iteration (Halko, Martinsson and Tropp 2011), in time proportional
    to n.
    """
    n, d = values.shape
    q = max(1, min(most, n - 1, d))
    basis = torch.randn(d, min(q + 10, n, d), generator=generator).to(values.device)
    for _ in range(6):
        basis = torch.linalg.qr(values.T @ torch.linalg.qr(values @ basis).Q).Q
    turn: Tensor = torch.linalg.svd(values @ basis, full_matrices=False).Vh
    return basis @ turn[:q].T


def _fitted_rows(y: NDArray[np.int64], generator: np.random.Generator) -> NDArray[np.int64]:
    """Rows in rising order: all, or of each class at most its even share of FIT_ROWS."""
    if len(y) <= FIT_ROWS:
        return np.arange(len(y))
    shuffled = generator.permutation(len(y))
    present = np.unique(y)
    most = max(1, FIT_ROWS // len(present))
    return np.sort(np.concatenate([shuffled[y[shuffled] == c][:most] for c in present]))


def _shape(x: NDArray[np.uint8] | Subset) -> tuple[int, int, int]:
    height, width, channels = (x.pixels if isinstance(x, Subset) else x).shape[1:]
    return height, width, channels


def _reduced(height: int, width: int) -> tuple[int, int]:
    return min(height, SIDE), min(width, SIDE)


def _reduce(x: NDArray[np.uint8] | Subset, rows: NDArray[np.int64], device: str) -> Tensor:
    """(len(rows), d) float32 in [0, 1] on the device: channels, then rows, then columns."""
    height, width, _ = _shape(x)
    parts = []
    for start in range(0, len(rows), CHUNK):
        part = rows[start : start + CHUNK]
        taken = torch.from_numpy(x.gather(part) if isinstance(x, Subset) else x[part]).to(device)
        images = taken.permute(0, 3, 1, 2).float().div_(255)
        parts.append(F.adaptive_avg_pool2d(images, _reduced(height, width)).flatten(1))
    return torch.cat(parts)
