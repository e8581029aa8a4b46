"""One network out of several fine-tunes of one start: the mean of their weights, with batch-norm statistics of its own.

Source: Wortsman et al. 2022, "Model soups". Fine-tunes of one start lie in one basin of the loss, so the mean of their
weights is a good network; the mean of weights from different starts is noise. The statistics of batch norm belong to
the activations of one network and are not those of the mean (Izmailov et al. 2018, section 3.2): they are estimated
anew on training rows, not augmented.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from harness.errors import HarnessError, RequestError
from harness.images.pixels import Pixels, select
from harness.models.network import Network
from harness.models.weights import load_tensors
from harness.train.batches import prefetched, stream_images, to_input
from harness.train.checkpoint import SEVERAL, FoldMeta, digest, load_fold, read_meta
from harness.train.inference import INFERENCE_BATCH
from harness.train.optim import estimate_statistics
from harness.train.step import in_fitting_batches

STATISTICS_ROWS = 2048
"""training rows, evenly spread, that batch-norm statistics are estimated on: each has many places in a feature map"""


def start_of(metas: Sequence[FoldMeta]) -> tuple[object, ...] | None:
    """What networks of a member must share with another's for their weights to be averaged: the start of each fold, and
    what a checkpoint's tensors do not tell. None where the start is not known."""
    if not all(meta.start_id for meta in metas):
        return None
    first = metas[0]
    starts = {meta.start_id for meta in metas}
    by_fold = tuple(meta.start_id for meta in metas) if len(starts) > 1 else (first.start_id,)
    return (*by_fold, first.model["backbone"], first.model["pooling"], repr(sorted(first.decode.items())))


def largest_shared_start(metas: Sequence[Sequence[FoldMeta]], values: Sequence[float]) -> list[int]:
    """Positions of the members of the largest set with one start; of equally large ones, of that with the best member.

    metas: what each member's fold checkpoints say; values: each member's score, higher is better. Raises RequestError
    where no two members share a start.
    """
    sets: dict[tuple[object, ...], list[int]] = {}
    for member, row in enumerate(metas):
        start = start_of(row)
        if start is not None:
            sets.setdefault(start, []).append(member)
    found = max(sets.values(), key=lambda members: (len(members), max(values[m] for m in members)), default=[])
    if len(found) < 2:
        backbones = ", ".join(sorted({str(row[0].model["backbone"]) for row in metas}))
        raise RequestError(
            f"none of these {len(metas)} members ({backbones}) began at another's weights, and the mean of weights "
            "from different starts is noise. A soup needs two or more trials of one backbone from one start: set "
            "model.backbone to one name and model.weights to pretrained, a file or study:NAME, and train them: "
            "harness study run NAME --as NEWNAME   (or take more members: --top)"
        )
    return found


def average(states: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The mean of tensors by name, summed in float64; whole numbers (counters of batches) are the first one's.

    Raises HarnessError where names or shapes differ.
    """
    first = states[0]
    shapes = {name: tensor.shape for name, tensor in first.items()}
    if any({name: tensor.shape for name, tensor in state.items()} != shapes for state in states):
        raise HarnessError("checkpoints with different tensors have no mean: they are not of one architecture.")
    return {
        name: (
            (sum((state[name].double() for state in states), torch.zeros(())) / len(states)).to(tensor.dtype)
            if tensor.is_floating_point()
            else tensor.clone()
        )
        for name, tensor in first.items()
    }


def disagreeing_norms(network: nn.Module, states: Sequence[Mapping[str, Tensor]]) -> list[_BatchNorm]:
    """The batch-norm layers whose tensors differ between the states: one that is the same in all of them was frozen, or
    there is one state only, and its statistics stay."""

    def differs(layer: str) -> bool:
        names = [name for name in states[0] if name.rpartition(".")[0] == layer]
        floats = [name for name in names if states[0][name].is_floating_point()]
        return any(not torch.equal(state[name], states[0][name]) for state in states[1:] for name in floats)

    norms = [(name, module) for name, module in network.named_modules() if isinstance(module, _BatchNorm)]
    return [norm for name, norm in norms if norm.running_mean is not None and differs(name)]


def blend(
    weights: Sequence[Path], pixels: Pixels, rows: NDArray[np.int64], device: str, fold: int
) -> tuple[Network, FoldMeta]:
    """The soup of some fold checkpoints of one start, in evaluation mode, and what it says about itself.

    rows: training rows of pixels, of which STATISTICS_ROWS give the batch-norm statistics; none may be scored with this
    soup. fold: the one that no ingredient saw, or checkpoint.NO_FOLD. The soup of one checkpoint is that network.
    Raises HarnessError where the checkpoints do not fit each other.
    """
    metas = [read_meta(path) for path in weights]
    if len(weights) == 1:
        network, meta = load_fold(weights[0], device)
        return network, meta
    states = [load_file(path, device="cpu") for path in weights]
    network, first = load_fold(weights[0], device)
    load_tensors(network, average(states))
    network.to(device).to(memory_format=torch.channels_last).eval()
    mean = tuple(np.mean([meta.mean for meta in metas], axis=0).tolist())
    std = tuple(np.mean([meta.std for meta in metas], axis=0).tolist())
    spread = np.unique(np.linspace(0, len(rows) - 1, min(len(rows), STATISTICS_ROWS)).round().astype(np.int64))
    norms = disagreeing_norms(network, states)

    def run(size: int) -> None:
        estimate_statistics(network, norms, _inputs(pixels, rows[spread], mean, std, device, size))

    in_fitting_batches(run, INFERENCE_BATCH, device)
    meta = replace(first, trial=SEVERAL, fold=fold, mean=mean, std=std, encoder_id=digest(network))
    return network, meta


def _inputs(
    pixels: Pixels, rows: NDArray[np.int64], mean: tuple[float, ...], std: tuple[float, ...], device: str, size: int
) -> Iterator[Tensor]:
    """Batches (B, channels, H, W) of `size` of these images as they enter the network."""
    images = stream_images(select(pixels, rows), mean, device)
    for _, x in prefetched(images, images.epoch(torch.arange(len(rows)), size, 0)):
        yield to_input(x, mean, std, torch.channels_last)
