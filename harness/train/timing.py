"""How long a training step takes in each way of computing it: a few real steps, in turns.

Only the forward and backward pass are timed; the optimiser's step is the same for all. On a CPU a way is timed on one
thread by the time that the processor spent in it: what else runs then slows down no way more than another. By the
clock, with two threads beside six busy processes, the same network was given another format every time.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from harness.train.precision import Precision, forward_of, threads_of

ROUNDS = 40
"""at most; of a small network so many are done in a second, and the best of many is the same on a busy machine"""
COMPILED_ROUNDS = 10
ENOUGH_SECONDS = 4.0
"""no further round is begun after this long, once every way was timed three times"""
HOPELESS = 2.0
"""a way that took so many times as long as the best one, three times, is not timed again"""


def time_ways(
    network: nn.Module, batch: tuple[int, ...], device: str, ways: Sequence[Precision]
) -> dict[Precision, float]:
    """Seconds of one step on a batch (B, channels, S, S) in each way: the best of interleaved rounds.

    On a CPU of processor time on one thread, for ways that name a number of threads of the clock. The weights stay as
    they are. Raises torch.OutOfMemoryError where the batch does not fit.
    """
    x, y = torch.rand(batch, device=device), torch.arange(batch[0], device=device) % 2
    found: dict[Precision, list[float]] = {way: [] for way in ways}
    began = time.perf_counter()
    for way in ways:
        _step(network, x, y, way)  # the first step of each allocates and chooses kernels
    for round_ in range(ROUNDS):
        if round_ > 2 and time.perf_counter() - began > ENOUGH_SECONDS:
            break
        best = min((min(seconds) for seconds in found.values() if seconds), default=float("inf"))
        for way, seconds in found.items():
            if round_ < 3 or min(seconds) < HOPELESS * best:
                seconds.append(_step(network, x, y, way))
    return {way: min(seconds) for way, seconds in found.items()}


def time_compiled(
    network: nn.Module, batch: tuple[int, ...], device: str, way: Precision
) -> tuple[float, float, float]:
    """(seconds to compile, seconds of a step as it is, of a compiled step). Raises what compiling raises."""
    x, y = torch.rand(batch, device=device), torch.arange(batch[0], device=device) % 2
    forward = forward_of(network, replace(way, compiled=True))
    _step(network, x, y, way)
    to_compile = _step(network, x, y, way, forward)
    steps = [(_step(network, x, y, way, network), _step(network, x, y, way, forward)) for _ in range(COMPILED_ROUNDS)]
    return to_compile, min(plain for plain, _ in steps), min(compiled for _, compiled in steps)


def _step(
    network: nn.Module, x: Tensor, y: Tensor, way: Precision, forward: Callable[[Tensor], Tensor] | None = None
) -> float:
    """Seconds of one forward and backward pass."""
    network.train().to(memory_format=way.layout)
    x = x.contiguous(memory_format=way.layout)
    alone = forward is None and not way.threads and not x.is_cuda
    clock = time.thread_time if alone else time.perf_counter
    with threads_of(replace(way, threads=1) if alone else way):
        _wait(x)
        start = clock()
        with torch.autocast(x.device.type, way.dtype, enabled=way.name != "fp32"):
            loss = nn.functional.cross_entropy((forward or network)(x).float(), y)
        torch.autograd.backward(loss)
        _wait(x)
        seconds = clock() - start
    network.zero_grad(set_to_none=True)
    return seconds


def _wait(x: Tensor) -> None:
    if x.is_cuda:
        torch.cuda.synchronize(x.device)
