"""Batches of images: kept on the device, streamed or padded, and their order.

Images on their way to the network: small sets whole on the device, larger ones batch by batch from the pixel store,
and images of their own sizes padded batch by batch.

Which of the first two it is changes no number: both give the same bytes for the same rows.

An image of its own size is laid in the middle of a canvas whose sides are multiples of STRIDE; around it stands the
training rows' mean grey level, which normalisation turns into 0: neutral. For scoring, a batch holds one size of
canvas, which depends on the image alone, so what else is predicted with it changes nothing but the last digits of sums.
For training, a batch holds images of similar sizes on the largest canvas among them.

n: images, B: images of a batch, S, H, W: sides. Batches are (B, channels, H, W) with the store's own order in memory:
channels last.

The next batch is gathered while the current one trains, where gathering costs anything.

One thread beside the caller's, which it never outlives; on a card the copy runs on a stream of its own, out of pinned
memory.

B: images of a batch, H, W: sides.

The order in which an epoch shows the training rows: all of them once, or every class equally often.

Row numbers only: no image is ever copied to show it twice. n: training rows, C: classes or labels.

Numbers that a device is still computing, copied to main memory without anybody waiting for them.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from harness.hardware import free_memory
from harness.images.pixels import Ragged, Selection, Subset

STRIDE = 32
"""what common networks divide an image's sides by"""
WINDOW = 16
"""batches whose images are sorted by size together: more waste less padding, fewer shuffle better"""
RESIDENT_SHARE = 0.25
"""of a device's free memory that one set may take: a fold loads two sets, and network, activations and other workers
need the rest; a quarter of what is left can be taken again and again without an end"""
CHUNK_BYTES = 16 * 2**20
"""pixels that are looked at together when statistics are taken"""


@dataclass(frozen=True)
class Square:
    """n images of one size, whole on the device."""

    x: Tensor
    """(n, S, S, channels) uint8"""

    def batch(self, rows: Tensor) -> Tensor:
        """(B, channels, S, S) uint8 on the device."""
        return self.x[rows.to(self.x.device)].permute(0, 3, 1, 2)

    def epoch(self, order: Tensor, batch_size: int, seed: int) -> list[Tensor]:
        """An epoch's batches: the rows of `order` (n,), in which rows may be repeated, as they come."""
        return batches(order, batch_size)

    def in_order(self, batch_size: int) -> Sequence[Tensor]:
        return torch.split(torch.arange(len(self.x)), batch_size)


@dataclass(frozen=True)
class Streamed:
    """n images of one size, read from the pixel store batch by batch."""

    pixels: Subset
    device: str

    def gather(self, rows: Tensor) -> Tensor:
        """(B, S, S, channels) uint8 in memory, pinned where it will go to a card."""
        out = torch.empty((len(rows), *self.pixels.pixels.shape[1:]), dtype=torch.uint8, pin_memory=_pins(self.device))
        self.pixels.gather(rows.numpy(), out.numpy())
        return out

    def batch(self, rows: Tensor) -> Tensor:
        """(B, channels, S, S) uint8 on the device."""
        return self.gather(rows).to(self.device).permute(0, 3, 1, 2)

    def epoch(self, order: Tensor, batch_size: int, seed: int) -> list[Tensor]:
        """As of Square."""
        return batches(order, batch_size)

    def in_order(self, batch_size: int) -> Sequence[Tensor]:
        return torch.split(torch.arange(len(self.pixels)), batch_size)


@dataclass(frozen=True)
class Varied:
    """n images of their own sizes, padded and moved to the device batch by batch."""

    pixels: Ragged
    neutral: NDArray[np.uint8]
    """(channels,) what padding is filled with"""
    device: str

    def gather(self, rows: Tensor) -> Tensor:
        """(B, H, W, channels) uint8 in memory, H and W the largest canvas of these images."""
        own = self.pixels.sizes[rows.numpy()]
        height, width = canvas(own).max(axis=0).tolist()
        shape = (len(rows), height, width, self.pixels.channels)
        made = torch.empty(shape, dtype=torch.uint8, pin_memory=_pins(self.device))
        out = made.numpy()
        out[:] = self.neutral
        for place, row in enumerate(rows.tolist()):
            h, w = own[place].tolist()
            top, left = (height - h) // 2, (width - w) // 2
            out[place, top : top + h, left : left + w] = self.pixels[row]
        return made

    def batch(self, rows: Tensor) -> Tensor:
        """(B, channels, H, W) uint8 on the device."""
        return self.gather(rows).to(self.device).permute(0, 3, 1, 2)

    def epoch(self, order: Tensor, batch_size: int, seed: int) -> list[Tensor]:
        """An epoch's batches: the rows of `order` (n,), in which rows may be repeated, by similar sizes."""
        return similar_batches(self.pixels.sizes, order, batch_size, seed)

    def in_order(self, batch_size: int) -> Sequence[Tensor]:
        """Batches of one canvas size each, whose height and width are each image's own."""
        _, kind = np.unique(canvas(self.pixels.sizes), axis=0, return_inverse=True)
        groups = [torch.from_numpy(np.flatnonzero(kind.ravel() == one)) for one in range(int(kind.max(initial=-1)) + 1)]
        return [part for group in groups for part in torch.split(group, batch_size)]


Images = Square | Streamed | Varied


def load_images(pixels: Selection, mean: tuple[float, ...], device: str = "cpu", budget: int | None = None) -> Images:
    """Images that are looked at many times.

    mean: per channel of pixel / 255 over the training rows; budget: bytes up to which a set is held whole on the
    device, RESIDENT_SHARE of what is free there when None.
    """
    if isinstance(pixels, Ragged):
        return stream_images(pixels, mean, device)
    if budget is None:
        budget = int(RESIDENT_SHARE * free_memory(device))
    if pixels.nbytes > budget:
        return stream_images(pixels, mean, device)
    whole = pixels.gather(np.arange(len(pixels))) if isinstance(pixels, Subset) else np.array(pixels, copy=True)
    return Square(torch.from_numpy(whole).to(device))


def stream_images(pixels: Selection, mean: tuple[float, ...], device: str = "cpu") -> Streamed | Varied:
    """Images that are looked at once, or too many to be held: nothing is copied but the batch at hand."""
    if isinstance(pixels, Ragged):
        return Varied(pixels, np.round(np.array(mean) * 255).astype(np.uint8), device)
    return Streamed(pixels if isinstance(pixels, Subset) else Subset(pixels, np.arange(len(pixels))), device)


def own_sizes(images: Images, rows: Tensor) -> Tensor | None:
    """(B, 2) int64 on the CPU: height and width of a batch's images within their canvas; None where they fill it."""
    return torch.from_numpy(images.pixels.sizes[rows.cpu().numpy()]) if isinstance(images, Varied) else None


def to_input(x: Tensor, mean: tuple[float, ...], std: tuple[float, ...], layout: torch.memory_format) -> Tensor:
    """What a network is shown: (x - mean) / std per channel, float32 in the given memory layout.

    x: (B, channels, H, W) uint8, or what augmentation makes of it: float32 in [0, 1].
    """
    unit = 255.0 if x.dtype == torch.uint8 else 1.0
    x_BHWC = x.permute(0, 2, 3, 1)
    if not x_BHWC.is_contiguous():
        scale, shift = (row.view(-1, 1, 1) for row in _scale_and_shift(mean, std, unit, 1, x.device))
        return _laid_out(torch.addcmul(shift, x.float(), scale), layout)
    # whole image rows at once: with a last axis of 3 channels a CPU takes five times as long for the same numbers
    b, h, w, c = x_BHWC.shape
    scale, shift = _scale_and_shift(mean, std, unit, w, x.device)
    rows = torch.addcmul(shift, x_BHWC.view(b * h, w * c).float(), scale)
    return _laid_out(rows.view(b, h, w, c).permute(0, 3, 1, 2), layout)


@lru_cache(maxsize=64)
def _scale_and_shift(
    mean: tuple[float, ...], std: tuple[float, ...], unit: float, width: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """(width * channels,) each, kept: making them anew for each batch would wait for a card to finish all it has."""
    with torch.inference_mode(False):  # for use in training, too
        scale = torch.tensor([1 / (unit * s) for s in std], device=device)
        shift = torch.tensor([-m / s for m, s in zip(mean, std, strict=True)], device=device)
        return scale.repeat(width), shift.repeat(width)


def _laid_out(x: Tensor, layout: torch.memory_format) -> Tensor:
    """x in this layout, its strides included: with one channel every tensor passes for both layouts, and a convolution
    that looks at the strides would choose by chance."""
    x = x.contiguous(memory_format=layout)
    if x.shape[1] > 1:
        return x
    h, w = x.shape[2:]
    return x.as_strided(x.shape, (h * w, 1, w, 1) if layout == torch.channels_last else (h * w, h * w, w, 1))


def _pins(device: str) -> bool:
    return device.startswith("cuda")


def canvas(sizes: NDArray[np.int64]) -> NDArray[np.int64]:
    """(n, 2) sides rounded up to multiples of STRIDE."""
    return -(-sizes // STRIDE) * STRIDE


def batches(order: Tensor, batch_size: int) -> list[Tensor]:
    """The rows of one epoch in their order; a last batch of a single row joins the one before (batch norm)."""
    return _no_single(list(torch.split(order, batch_size)))


def similar_batches(sizes: NDArray[np.int64], order: Tensor, batch_size: int, seed: int) -> list[Tensor]:
    """The rows of one epoch, each batch of similar sizes (n, 2), batches in random order.

    The shuffled rows are cut into windows of WINDOW batches; each window is halved again and again, by height, width or
    area, whichever pads least, until what is left is a batch.
    """
    generator = torch.Generator().manual_seed(seed)
    rows = order.numpy()
    parts: list[NDArray[np.int64]] = []
    for start in range(0, len(rows), WINDOW * batch_size):
        parts += _halved(rows[start : start + WINDOW * batch_size], canvas(sizes), batch_size)
    shuffled = torch.randperm(len(parts), generator=generator).tolist()
    return _no_single([torch.from_numpy(parts[one].copy()) for one in shuffled])


def _halved(rows: NDArray[np.int64], sides: NDArray[np.int64], batch_size: int) -> list[NDArray[np.int64]]:
    if len(rows) <= batch_size:
        return [rows]
    middle = batch_size * max(1, round(len(rows) / batch_size / 2))
    keys = (sides[rows, 0], sides[rows, 1], sides[rows].prod(axis=1))
    cuts = [np.split(rows[np.argsort(key, kind="stable")], [middle]) for key in keys]
    best = min(cuts, key=lambda halves: sum(_filled(half, sides) for half in halves))
    return [part for half in best for part in _halved(half, sides, batch_size)]


def _filled(rows: NDArray[np.int64], sides: NDArray[np.int64]) -> int:
    """Pixels of a batch of these images, padding included."""
    return int(len(rows) * sides[rows].max(axis=0).prod())


def _no_single(parts: list[Tensor]) -> list[Tensor]:
    """Batch norm cannot learn from one image: a batch of one joins the one before it, or after it."""
    for place, part in enumerate(parts):
        if len(part) == 1 and len(parts) > 1:
            into = place - 1 if place else 1
            parts[into] = torch.cat([parts[into], part])
            del parts[place]
            break
    return parts


def statistics(pixels: Selection) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel of pixel / 255, over training rows only; padding takes no part.

    Levels are counted, chunk by chunk, so the result does not depend on where the pixels are.
    """
    if isinstance(pixels, Ragged):
        counts = sum((_histogram(pixels[row]) for row in range(len(pixels))), np.zeros((pixels.channels, 256)))
    else:
        some = pixels if isinstance(pixels, Subset) else Subset(pixels, np.arange(len(pixels)))
        step = max(1, CHUNK_BYTES * len(some) // max(1, some.nbytes))
        chunks = np.split(np.arange(len(some)), range(step, len(some), step))
        counts = sum((_histogram(some.gather(chunk)) for chunk in chunks), np.zeros((some.pixels.shape[-1], 256)))
    levels = np.arange(256) / 255
    share = counts / counts.sum(1, keepdims=True)
    mean = share @ levels
    std = np.sqrt(np.maximum(share @ levels**2 - mean**2, 1e-6))
    return tuple(mean.tolist()), tuple(std.tolist())


def _histogram(x: NDArray[np.uint8]) -> NDArray[np.float64]:
    """(channels, 256) how often each level occurs in (..., channels); whole numbers."""
    levels = torch.from_numpy(np.array(x, copy=not x.flags.writeable))  # torch counts bytes twice as fast as numpy
    return np.stack([torch.bincount(levels[..., c].reshape(-1), minlength=256).numpy() for c in range(x.shape[-1])])


AHEAD = 2
"""batches ready or in the making besides the one in use"""


@dataclass(frozen=True)
class _Batch:
    rows: Tensor
    x: Tensor
    arrived: torch.cuda.Event | None
    """on a card: when both are there"""


def prefetched(images: Images, order: Sequence[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
    """(rows, (B, channels, H, W) uint8) for each batch of rows, in their order, both on the device.

    The bytes are those of images.batch(rows). What gathering raises is raised here, at the batch it concerns. The
    thread ends with the loop over this, also when that is left early.
    """
    if isinstance(images, Square):
        yield from _resident(images, order)
        return
    card = images.device if images.device.startswith("cuda") else None
    stream = torch.cuda.Stream(card) if card else None  # type: ignore[no-untyped-call]
    waiting: deque[Future[_Batch]] = deque()
    with ThreadPoolExecutor(1, thread_name_prefix="prefetch") as pool:
        try:
            for rows in order:
                waiting.append(pool.submit(_moved, images, rows, stream))
                if len(waiting) > AHEAD:
                    yield _arrived(waiting.popleft().result(), card)
            while waiting:
                yield _arrived(waiting.popleft().result(), card)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _resident(images: Square, order: Sequence[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
    if not order:
        return
    # all row numbers at once: a copy to a card waits for all that the card still has to do
    for rows in torch.split(torch.cat(list(order)).to(images.x.device), [len(rows) for rows in order]):
        yield rows, images.batch(rows)


def _moved(images: Streamed | Varied, rows: Tensor, stream: torch.cuda.Stream | None) -> _Batch:
    """In the thread. On a CPU without operations of torch, which would start a second pool of threads here."""
    if stream is None:
        return _Batch(rows, images.gather(rows).permute(0, 3, 1, 2), None)
    with torch.cuda.stream(stream):
        # pinned memory is not given out again before the copy from it is done: torch's allocator sees to that
        x = images.gather(rows).to(stream.device, non_blocking=True).permute(0, 3, 1, 2)
        rows = rows.pin_memory().to(stream.device, non_blocking=True)
        arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
        arrived.record(stream)
    return _Batch(rows, x, arrived)


def _arrived(batch: _Batch, card: str | None) -> tuple[Tensor, Tensor]:
    if batch.arrived is not None:
        training = torch.cuda.current_stream(card)
        training.wait_event(batch.arrived)
        for tensor in (batch.rows, batch.x):
            tensor.record_stream(training)  # its memory is the copying stream's: it must not be used again too early
    return batch.rows, batch.x


def row_order(y: NDArray[np.int64], how: Literal["shuffle", "balanced"], seed: int) -> Tensor:
    """(n,) int64 rows of one epoch, in time and memory proportional to y.

    y: (n,) class numbers from 0, or (n, C) answers with 1, 0, -1 of a multi-label task; the TRAINING rows only.
    shuffle: every row once. balanced: n rows with repetitions, see `balanced`.
    """
    if how == "balanced":
        return balanced(y, seed)
    return torch.randperm(len(y), generator=torch.Generator().manual_seed(seed))


def balanced(y: NDArray[np.int64], seed: int) -> Tensor:
    """(n,) int64 rows in random order in which every class that y has comes equally often.

    n rows are dealt to the classes evenly, to within one; a class is dealt out like a deck of cards that is shuffled
    again when it is used up, so its rows come equally often, to within one. This is what independent draws do on
    average, without their variance.

    Several labels an image: class-aware sampling (Shen, Lin and Huang 2016), in which each label with a yes is a class
    of the rows that have it, and the rows with known answers and no yes are one more. A row with two labels belongs to
    both, so a common label that comes with rare ones still comes more often than they do. Rows without any known answer
    teach nothing and are left out, unless there are no others.
    """
    generator = np.random.default_rng(seed)
    classes = _rows_of_each_label(y) if y.ndim == 2 else _rows_of_each_class(y)
    if not classes:
        classes = [np.arange(len(y))]
    share, rest = divmod(len(y), len(classes))
    times = share + (generator.permutation(len(classes)) < rest)
    dealt = [_deal(rows, int(count), generator) for rows, count in zip(classes, times, strict=True)]
    return torch.from_numpy(generator.permutation(np.concatenate(dealt)))


def _deal(rows: NDArray[np.int64], count: int, generator: np.random.Generator) -> NDArray[np.int64]:
    """(count,) of these rows, each as often as any other to within one."""
    decks = np.tile(rows, (-(-count // len(rows)), 1))
    return generator.permuted(decks, axis=1).ravel()[:count]


def _rows_of_each_class(y: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """The rows of each class that occurs."""
    counts = np.bincount(y)
    # of 16-bit numbers numpy's stable sort is a radix sort: its time is proportional to n
    order = np.argsort(y.astype(np.uint16) if len(counts) <= 2**16 else y, kind="stable")
    return [rows for rows in np.split(order, np.cumsum(counts)[:-1]) if len(rows)]


def _rows_of_each_label(y: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """The rows of each label that occurs, and those with known answers none of which is yes."""
    yes = y == 1
    none = (y == 0).any(axis=1) & ~yes.any(axis=1)
    return [rows for rows in (*map(np.flatnonzero, yes.T), np.flatnonzero(none)) if len(rows)]


def fetch(tensors: Sequence[Tensor]) -> Callable[[], list[NDArray[np.floating]]]:
    """Start copying tensors to main memory; the function that is returned waits until they are there.

    On a card the copies queue up behind what computes the tensors, into pinned memory, and the card goes on with
    whatever comes next. The function may be called in another thread.
    """
    there = [tensor.detach().to("cpu", non_blocking=True) for tensor in tensors]
    arrived = mark(tensors[0].device)

    def read() -> list[NDArray[np.floating]]:
        if arrived is not None:
            arrived.synchronize()
        return [tensor.numpy() for tensor in there]

    return read


def mark(device: torch.device) -> torch.cuda.Event | None:
    """A mark behind all that a card has been given so far; None on a CPU, which is never behind."""
    if device.type != "cuda":
        return None
    event = torch.cuda.Event()  # type: ignore[no-untyped-call]
    event.record(torch.cuda.current_stream(device))
    return event
