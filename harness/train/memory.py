"""How much memory is free on a device: of the card, of the machine, or of the container that this runs in."""

from pathlib import Path

import torch

MEMINFO = Path("/proc/meminfo")
STATUS = Path("/proc/self/status")
CGROUPS = Path("/proc/self/cgroup")
CGROUP_ROOT = Path("/sys/fs/cgroup")


def free_memory(device: str) -> int:
    """Bytes that could still be used on the device. Pages that only cache files count as free: they go when asked."""
    if device.startswith("cuda"):
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
