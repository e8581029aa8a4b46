"""Which way of computing trains this network fastest on this device: measured, not assumed.

Half precision doubles the speed of one network and slows another on the same processor, so `auto` times a few real
training steps of each way. What was measured is kept for the machine, outside any home: the same study computes the
same numbers in every home of this machine.
"""

import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import nn

from harness.errors import RequestError
from harness.home import lock, read_json, write_json
from harness.models.network import build_network
from harness.study.spec import Spec
from harness.train.precision import Precision, parse_precision
from harness.train.timing import time_compiled, time_ways

MARGIN = 1.15
"""half precision, or half the threads, must be this much faster to be taken, so that what else runs at the time does
not decide"""
LAYOUT_MARGIN = 1.3
"""as much faster must images in channel order (NCHW) be than in channels_last, which was faster for all but toy
networks: the two lie closer together than the formats do"""
COMPILE_GAIN = 1.05
"""a compiled step must be this much faster"""
COMPILE_PAYS = 2.0
"""what compiling saves over the study must be this many times what it costs, in all processes together"""
COMPILE_SECONDS = 60.0
"""what compiling is taken to cost until it was measured"""
COMPILE_SAVES = 0.4
"""share of a step that compiling is hoped to save until it was measured"""


@dataclass
class Measured:
    """What is known of a network on this machine."""

    images_per_second: dict[str, float]
    """by way"""
    batch: int
    """the images of a step: the study's, or fewer where those did not fit"""
    compiled: dict[str, tuple[float, float, float]]
    """by way: seconds to compile, of a plain step, of a compiled step"""
    failed: dict[str, str]
    """by way: why it could not be compiled"""


def quiet(line: str) -> None:
    """Says nothing."""


def choose_precision(
    spec: Spec, device: str, steps: int = 0, jobs: int = 1, say: Callable[[str], None] = quiet
) -> Precision:
    """What `train.precision` and `train.compile` come to for this spec's backbone, size, batch and device.

    steps: of the whole study, by which compiling has to pay; jobs: processes that train at the same time, each on its
    share of the threads. `say` gets one line about what was measured. Raises RequestError where train.compile: true
    cannot be done.
    """
    train = spec.train
    fixed = None if train.precision == "auto" else Precision(train.precision, channels_last=True)
    if fixed and not _may_compile(spec, device):
        return fixed
    decode = spec.data.decode
    threads = max(1, torch.get_num_threads() // jobs)
    machine = torch.cuda.get_device_name(device) if device.startswith("cuda") else f"cpu-{_cpu()}-{threads}"
    key = f"{spec.model.backbone} {decode.side} {decode.channels} {train.batch_size} {machine} {torch.__version__}"
    path = machine_cache() / "speed.json"
    with lock(path.with_suffix(".lock"), "what was measured of this machine's speed", wait_seconds=3600):
        known = read_json(path) if path.exists() else {}
        measured = Measured(**known.get(key, {"images_per_second": {}, "batch": 0, "compiled": {}, "failed": {}}))
        before = asdict(measured)
        all_threads = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            way = fixed or _fastest_format(spec, device, jobs, measured)
            if _worth_compiling(spec, device, way, steps, jobs, measured):
                way = replace(way, compiled=True)
        finally:
            torch.set_num_threads(all_threads)
        if asdict(measured) != before:
            write_json(path, {**known, key: asdict(measured)})
    say(_line(spec, device, measured, way))
    if train.compile is True and not way.compiled:
        raise RequestError(
            f"train.compile: true: {spec.model.backbone} could not be compiled here: {measured.failed[str(way)]}. "
            "Write auto, which compiles where that works and pays, or false."
        )
    return way


def _fastest_format(spec: Spec, device: str, jobs: int, measured: Measured) -> Precision:
    """fp32 in channels_last, unless another way is clearly faster."""
    half = "bf16" if not device.startswith("cuda") or torch.cuda.is_bf16_supported() else "fp16"
    ways = [Precision(name, layout) for layout in (True, False) for name in ("fp32", half)]
    _time(spec, device, ways, measured)
    best = _pick(ways, measured)
    threads = torch.get_num_threads()
    if device != "cpu" or jobs > 1 or threads < 4:  # of two threads, half is one: never faster
        return best
    whole, halved = replace(best, threads=threads), replace(best, threads=threads // 2)
    _time(spec, device, [whole, halved], measured)
    return halved if _pick([whole, halved], measured) == halved else best


def _pick(ways: list[Precision], measured: Measured) -> Precision:
    """The first, unless a later one is faster than the best before it by the margin of what it changes."""
    best, *others = ways
    for way in others:
        margin = MARGIN if way.channels_last == best.channels_last else LAYOUT_MARGIN
        if measured.images_per_second[str(way)] > margin * measured.images_per_second[str(best)]:
            best = way
    return best


def _time(spec: Spec, device: str, ways: list[Precision], measured: Measured) -> None:
    """Add the speed of these ways, with fewer images where the batch does not fit."""
    if all(str(way) in measured.images_per_second for way in ways):
        return
    network, shape = _network(spec, device), _shape(spec, measured)
    while True:
        try:
            seconds = time_ways(network, shape, device, ways)
            break
        except torch.OutOfMemoryError:
            if shape[0] < 2:
                raise
            shape = (shape[0] // 2, *shape[1:])
    measured.batch = shape[0]
    measured.images_per_second |= {str(way): round(shape[0] / seconds[way], 1) for way in ways}
    _empty(device)


def _worth_compiling(spec: Spec, device: str, way: Precision, steps: int, jobs: int, measured: Measured) -> bool:
    if not _may_compile(spec, device):
        return False
    forced, name = spec.train.compile is True, str(way)
    if not forced and name not in measured.compiled:
        _time(spec, device, [way], measured)
        hope = COMPILE_SAVES * measured.batch / measured.images_per_second[name] * steps
        if hope < COMPILE_PAYS * COMPILE_SECONDS * jobs:
            return False
    if name not in measured.compiled and (forced or name not in measured.failed):
        measured.failed.pop(name, None)
        try:
            measured.compiled[name] = time_compiled(_network(spec, device), _shape(spec, measured), device, way)
        except Exception as error:  # compilers fail in many ways: then the network runs as it is
            measured.failed[name] = (str(error).strip().splitlines() or [type(error).__name__])[0]
        torch.compiler.reset()
        _empty(device)
    if name in measured.failed:
        return False
    cost, plain, compiled = measured.compiled[name]
    return forced or (plain > COMPILE_GAIN * compiled and (plain - compiled) * steps > COMPILE_PAYS * cost * jobs)


def _may_compile(spec: Spec, device: str) -> bool:
    """auto compiles for cards only: on CPUs no network gained by it (docs/lab-notes.md); and never for images of their
    own sizes, whose batches have a shape each."""
    if spec.train.compile == "auto":
        return device.startswith("cuda") and spec.data.decode.size != "native"
    return spec.train.compile


def _network(spec: Spec, device: str) -> nn.Module:
    decode = spec.data.decode
    model = spec.model.model_copy(update={"weights": "none"})
    return build_network(model, 2, decode.channels, decode.side, 0).to(device)


def _shape(spec: Spec, measured: Measured) -> tuple[int, ...]:
    decode = spec.data.decode
    return (measured.batch or spec.train.batch_size, decode.channels, decode.side, decode.side)


def _line(spec: Spec, device: str, measured: Measured, way: Precision) -> str:
    """E.g. resnet18 128 px on one thread: bf16+channels_last 79 img/s, fp32+channels_last 43 img/s."""
    found = dict(measured.images_per_second)
    for name, (_, _, step) in measured.compiled.items():
        found[str(replace(parse_precision(name), compiled=True))] = measured.batch / step
    listed = [f"{name} {speed:.0f} img/s" for name, speed in sorted(found.items(), key=lambda item: -item[1])]
    listed += [f"{name} does not compile ({reason})" for name, reason in measured.failed.items()]
    listed += [f"compiling took {seconds:.0f} s" for seconds, _, _ in measured.compiled.values()]
    by = "" if device.startswith("cuda") else " on one thread"
    return f"{spec.model.backbone} {spec.data.decode.side} px{by}: {', '.join(listed)}; trains in {way}"


def _empty(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.empty_cache()


def machine_cache() -> Path:
    """Where facts about this machine are kept: XDG_CACHE_HOME/harness, or ~/.cache/harness."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "harness"


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    flags = next((line for line in lines if line.startswith("flags")), "")
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "unknown") + (
        " bf16" if "avx512_bf16" in flags or "amx_bf16" in flags else ""
    )
