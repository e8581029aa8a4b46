"""What every benchmark prints: one JSON object with a ratio measured in this run and the goal it is held to."""

import argparse
import json
import platform
from pathlib import Path

from harness.hardware import commit

RESULTS = Path(__file__).parent / "results"


def arguments(about: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    parser.add_argument("--save", action="store_true", help="also write benchmarks/results/NAME.json")
    return parser


def publish(
    name: str, ratio: float, goal: float, options: argparse.Namespace, text: str | None = None, **facts: object
) -> None:
    """Print the result, for people as `text` where there is one; `ratio` is good when it is at least `goal`."""
    import torch

    result = {
        "benchmark": name,
        "ratio": round(ratio, 3),
        "goal": goal,
        "reached": ratio >= goal,
        **facts,
        "machine": f"{_cpu()}, {torch.get_num_threads()} threads, torch {torch.__version__}",
        "python": platform.python_version(),
        "commit": commit(),
    }
    if options.save:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n")
    if options.json:
        print(json.dumps(result))
    elif text is not None:
        print(text)
    else:
        for key, value in result.items():
            print(f"{key:>24}  {value}")


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())
