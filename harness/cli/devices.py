"""The processor, its memory and the cards that torch can use, as plain data."""

import os
from pathlib import Path
from typing import Any


def processor() -> tuple[int, float | None, bool]:
    """Cores that this process may use, GiB of memory that are free to it, whether it multiplies bfloat16 itself."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        from harness.train.memory import free_memory
    except (ImportError, OSError):  # a torch that does not load
        return cores, None, _has_bf16()
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
