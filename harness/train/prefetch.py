"""The next batch is gathered while the current one trains, where gathering costs anything.

One thread beside the caller's, which it never outlives; on a card the copy runs on a stream of its own, out of pinned
memory.

B: images of a batch, H, W: sides.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch import Tensor

from harness.train.images import Images, Square, Streamed, Varied

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
