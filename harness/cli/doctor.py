"""harness doctor: what this machine and this home have, and what to type next."""

import os
import platform
import shutil
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from harness.cli.output import claim_stdout, print_json, show

PACKAGES = ("harness", "torch", "torchvision", "timm", "optuna", "mlflow", "xgboost", "scikit-learn", "pydicom")


def doctor(json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False) -> None:
    """Versions, devices, disk and stores of this installation."""
    claim_stdout()
    from harness.cli.tables import table

    found = examine()
    if json:
        print_json(found)
        return
    lines: list[tuple[str, str]] = [("python", found["python"])]
    lines += [(name, version or "MISSING: make setup") for name, version in found["packages"].items()]
    lines += [("processor", f"{found['cores']} cores, bf16 {'yes' if found['cpu_bf16'] else 'no (fp32 is used)'}")]
    lines += [("gpu", _gpu(gpu)) for gpu in found["gpus"]] or [("gpu", "none that torch can use: --device cpu")]
    lines += [("home", found["home"]), ("disk free", f"{found['disk_free_gib']:.1f} GiB")]
    lines += [("mlflow", found["mlflow"]), ("optuna", found["optuna"])]
    lines += [("studies", ", ".join(f"{name} ({state})" for name, state in found["studies"].items()) or "none yet")]
    show(table(["", ""], lines))
    for problem in found["problems"]:
        show(f"! {problem}")
    show(f"\nNext: {found['next']}")


def examine() -> dict[str, Any]:
    """Everything that doctor says, as plain data."""
    from harness.home import open_home
    from harness.ledger import list_studies

    home = open_home()
    free = shutil.disk_usage(home.root).free / 2**30
    studies = {record.name: record.state for record in list_studies(home)}
    packages = {name: _version(name) for name in PACKAGES}
    problems = [f"{name} is not installed. Type: make setup" for name, version in packages.items() if version is None]
    if free < 2:
        problems.append(f"only {free:.1f} GiB are free at {home.root}; set HARNESS_HOME to a larger disk.")
    gpus, torch_problem = _gpus()
    problems += torch_problem
    return {
        "python": f"{platform.python_version()} ({sys.executable})",
        "packages": packages,
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "cpu_bf16": _cpu_has_bf16(),
        "gpus": gpus,
        "home": str(home.root),
        "disk_free_gib": free,
        "mlflow": _without_password(home.mlflow_uri),
        "optuna": _without_password(os.environ.get("HARNESS_STORAGE") or str(home.optuna_journal)),
        "studies": studies,
        "problems": problems,
        "next": _next(studies),
    }


def _version(package: str) -> str | None:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _gpus() -> tuple[list[dict[str, Any]], list[str]]:
    """What torch can use, and what it complains about."""
    try:
        import torch
    except (ImportError, OSError) as error:
        return [], [f"torch cannot be imported: {error}"]
    if not torch.cuda.is_available():
        return [], []
    gpus = []
    for index in range(torch.cuda.device_count()):
        about = torch.cuda.get_device_properties(index)
        gpus.append(
            {
                "device": f"cuda:{index}",
                "name": about.name,
                "memory_gib": about.total_memory / 2**30,
                "bf16": (about.major, about.minor) >= (8, 0),
            }
        )
    return gpus, []


def _gpu(gpu: dict[str, Any]) -> str:
    precision = "bf16" if gpu["bf16"] else "fp16"
    return f"{gpu['device']} {gpu['name']}, {gpu['memory_gib']:.0f} GiB, {precision}"


def _cpu_has_bf16() -> bool:
    """Whether the processor multiplies bfloat16 itself, from what the kernel says; elsewhere assumed not."""
    cpuinfo = Path("/proc/cpuinfo")
    try:
        flags = cpuinfo.read_text()
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags or "bf16" in flags.split()


def _without_password(uri: str) -> str:
    """A database URL without its user and password."""
    scheme, separator, rest = uri.partition("://")
    if not separator or "@" not in rest:
        return uri
    return f"{scheme}://...@{rest.rsplit('@', 1)[1]}"


def _next(studies: dict[str, str]) -> str:
    if not studies:
        return "harness study run lr_aug_sweep"
    if "complete" in studies.values():
        return "harness ensemble build --method stacking"
    return f"harness study resume {next(iter(studies))}"
