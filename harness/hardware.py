"""This machine: devices, free memory, running out of it, and what a study was made with.

Which devices `--device` means, checked before anything runs on them, and which algorithms they may use.

How much memory is free on a device: of the card, of the machine, or of the container that this runs in.

Memory that a training step frees stays with the process, because the next step wants it again.

glibc hands large freed blocks back to the kernel and asks for them anew a moment later. Each time the kernel fills them
with zeros, page by page: of a ResNet-18's epoch on a CPU that was a tenth (docs/lab-notes.md). Other C libraries and
cards are left alone.

Out of memory: how it looks on each device.

The processor, its memory and the cards that torch can use, as plain data.

Which card a worker gets. Pure but for asking how much is free, which a short-lived process does.

Asking a card makes a context on it that holds memory (some 500 MB) until its process ends: the driver itself must not.

Which commit this program is of: a checkout asks git, a wheel carries what it was built from.

Knows nothing but its own place on disk.

What a study was made with: this program's commit, the machine's kind, the versions of what decides its numbers.

Never the machine's name, nor anybody's.
"""

import ctypes
import gc
import multiprocessing
import os
import platform
import subprocess
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from harness.errors import RequestError

WRITE = "Write auto, cpu, cuda, or cuda:0,cuda:1."


os.environ.setdefault(
    "CUBLAS_WORKSPACE_CONFIG", ":4096:8"
)  # read once, at the first product: deterministic ones need it


def parse_devices(text: str) -> list[str]:
    """'auto', 'cpu', 'cuda', 'cuda:0,cuda:1' -> devices that exist. Raises RequestError."""
    import torch

    if text == "auto":
        text = "cuda" if torch.cuda.is_available() else "cpu"
    found = []
    for name in [part.strip() for part in text.split(",")]:
        try:
            device = torch.device(name)
        except RuntimeError as error:
            raise RequestError(f"--device {name}: no such device. {WRITE}") from error
        if device.type not in ("cpu", "cuda", "mps"):
            raise RequestError(f"--device {name}: not a kind of device that is used here. {WRITE}")
        count = torch.cuda.device_count()
        if device.type == "cuda" and (device.index or 0) >= count:
            raise RequestError(f"--device {name}: this machine has {count} CUDA devices. Write --device auto or cpu.")
        found.append(str(device))
    return found


@contextmanager
def algorithms(deterministic: bool) -> Iterator[None]:
    """Inside, if that is asked for: only algorithms that give the same numbers every time."""
    import torch

    before = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    if deterministic:
        torch.use_deterministic_algorithms(True)
        torch.backends.cudnn.benchmark = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0])
        torch.backends.cudnn.benchmark = before[1]


MEMINFO = Path("/proc/meminfo")
STATUS = Path("/proc/self/status")
CGROUPS = Path("/proc/self/cgroup")
CGROUP_ROOT = Path("/sys/fs/cgroup")


def free_memory(device: str) -> int:
    """Bytes that could still be used on the device. Pages that only cache files count as free: they go when asked."""
    if device.startswith("cuda"):
        import torch

        free, _ = torch.cuda.mem_get_info(device)
        return int(free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device))
    return min([_machine(), *_containers()])


def resident_memory() -> int:
    """Bytes of this process that are in RAM; 0 where nobody says."""
    if not STATUS.exists():
        return 0
    lines = STATUS.read_text().splitlines()
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS:")), 0)


def _machine() -> int:
    """What Linux says is available without swapping; where nobody says, as if the machine had 4 GiB free."""
    if MEMINFO.exists():
        for line in MEMINFO.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return 4 * 2**30


def _containers() -> list[int]:
    """What the limits of each enclosing control group (version 2 or 1) leave."""
    if not CGROUPS.exists():
        return []
    left = []
    for line in CGROUPS.read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            root, limit, used = CGROUP_ROOT, "memory.max", "memory.current"
        elif "memory" in controllers.split(","):
            root, limit, used = CGROUP_ROOT / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes"
        else:
            continue
        here = root / path.lstrip("/")
        for folder in [here, *here.parents]:
            if folder.is_relative_to(root):
                left += _left(folder, limit, used)
    return left


def _left(folder: Path, limit: str, used: str) -> list[int]:
    try:
        most, now = (folder / limit).read_text().strip(), int((folder / used).read_text())
        facts = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):  # no such group here: inside a container the path is often that of the host
        return []
    if not most.isdigit():  # "max": no limit
        return []
    cached = int(facts.get("inactive_file") or facts.get("total_inactive_file") or 0)
    return [max(0, int(most) - now + cached)]


M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3
"""mallopt's numbers of these settings (malloc.h)"""
KEEP = 2**31 - 1
"""bytes at the end of the heap that are not given back by themselves; the largest that mallopt takes"""
ON_HEAP = 2**30
"""blocks up to this many bytes come from the heap"""
GROW = 64 * 2**20
"""bytes by which the heap grows at least"""


@cache
def keep_freed_memory() -> bool:
    """Have this process keep what it frees. Says whether that is so; once is enough."""
    libc = _glibc()
    if libc is None:
        return False
    settings = ((M_MMAP_THRESHOLD, ON_HEAP), (M_TRIM_THRESHOLD, KEEP), (M_TOP_PAD, GROW))
    return all(libc.mallopt(name, value) == 1 for name, value in settings)


def give_back() -> None:
    """Return to the kernel, and to other processes on a card, what is free now: between trainings."""
    import torch

    gc.collect()
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.empty_cache()
    libc = _glibc()
    if libc is not None:
        libc.malloc_trim(0)


@cache
def _glibc() -> ctypes.CDLL | None:
    if platform.system() != "Linux" or platform.libc_ver()[0] != "glibc":
        return None
    return ctypes.CDLL(None)


SAID = ("out of memory", "can't allocate memory", "not enough memory", "bad_alloc", "could not create a")
"""what torch, its CPU allocator and oneDNN (could not create a primitive, a memory object) say; only CUDA has an
exception of its own"""


def is_out_of_memory(error: BaseException) -> bool:
    import torch

    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and any(words in str(error).lower() for words in SAID)
    )


def processor() -> tuple[int, float | None, bool]:
    """Cores that this process may use, GiB of memory that are free to it, whether it multiplies bfloat16 itself."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

    return cores, free_memory("cpu") / 2**30, _has_bf16()


def cards() -> tuple[list[dict[str, Any]], str]:
    """Cards, and what torch says where it cannot be imported."""
    try:
        import torch
    except (ImportError, OSError) as error:
        return [], str(error)
    if not torch.cuda.is_available():
        return [], ""
    found = []
    for index in range(torch.cuda.device_count()):
        about = torch.cuda.get_device_properties(index)
        free, total = torch.cuda.mem_get_info(index)
        found.append(
            {
                "device": f"cuda:{index}",
                "name": about.name,
                "memory_gib": total / 2**30,
                "memory_free_gib": free / 2**30,
                "bf16": (about.major, about.minor) >= (8, 0),
            }
        )
    return found, ""


def _has_bf16() -> bool:
    """From what the kernel says; elsewhere assumed not."""
    try:
        flags = Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags or "bf16" in flags.split()


def choose_device(free: Mapping[str, int], workers: Mapping[str, int]) -> str:
    """The device whose free memory, divided among the study's workers there and one more, gives the most to each.

    `free`: bytes by device, in the order in which ties are decided; `workers`: how many each has. With equal cards
    they go round; a card that another program fills gets fewer.
    """
    return max(free, key=lambda device: free[device] / (workers.get(device, 0) + 1))


def free_by_device(devices: list[str]) -> dict[str, int]:
    """Bytes that are free on each device now. One device is no choice, and is not asked."""
    if len(devices) == 1:
        return {devices[0]: 1}
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as asker:
        return dict(zip(devices, asker.map(free_memory, devices), strict=True))


PACKAGE = Path(__file__).parent


def commit(package: Path = PACKAGE) -> str:
    """Twelve digits, with '+' when a checkout's files differ from it; 'unknown' where nothing says."""
    try:
        return (package / "commit.txt").read_text().strip() or "unknown"
    except OSError:
        pass
    if not (package.parent / ".git").exists():  # git would look further up, and find another project's
        return "unknown"
    try:
        found = subprocess.run(
            ["git", "describe", "--always", "--abbrev=12", "--dirty=+"],
            cwd=package,
            capture_output=True,
            text=True,
            timeout=10,
        )
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    return found.stdout.strip() if found.returncode == 0 else "unknown"


LIBRARIES = ("harness", "torch", "torchvision", "timm", "optuna", "numpy", "scikit-learn", "xgboost", "pillow")


def made_with(device: str, cores: int) -> dict[str, str]:
    """By name. `device`: the first one that trials train on."""
    found = {"commit": commit(), "machine": machine(cores), "device": device_name(device)}
    found["python"] = platform.python_version()
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def machine(cores: int) -> str:
    """Linux x86_64, Intel(R) Xeon(R) Processor, 2 cores"""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "")
    except OSError:
        model = platform.processor()
    parts = [f"{platform.system()} {platform.machine()}", model, f"{cores} core{'' if cores == 1 else 's'}"]
    return ", ".join(part for part in parts if part)


def device_name(device: str) -> str:
    import torch

    return torch.cuda.get_device_name(device) if device.startswith("cuda") else device


def usable_cores() -> int:
    """Cores that this process may use: in a container or a job of a scheduler often fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
