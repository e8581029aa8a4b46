"""What a study was made with: this program's commit, the machine's kind, the versions of what decides its numbers.

Never the machine's name, nor anybody's.
"""

import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from harness.commit import commit

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
    return torch.cuda.get_device_name(device) if device.startswith("cuda") else device
