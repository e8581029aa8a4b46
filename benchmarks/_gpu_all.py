"""The training benchmarks on a machine with a card, one after another, as one table; less than eight minutes.

Each runs in a process of its own with a limit on its time, so that one that fails costs none of the others.

    python -m benchmarks._gpu_all [--out FOLDER] [--device cuda] [--quick]
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

RUNS: tuple[tuple[str, tuple[str, ...], tuple[str, ...], int], ...] = (
    ("epoch_throughput", (), ("--epochs", "2", "--rounds", "1"), 200),
    ("tutorial_loop", (), ("--rows", "64", "--epochs", "2", "--rounds", "1"), 130),
    ("trial_memory", ("--jobs", "1"), ("--jobs", "1", "--trials", "7"), 150),
)
"""name, options, options with --quick, seconds"""


def run(name: str, options: list[str], limit: int) -> dict[str, Any]:
    """The benchmark's own JSON, or {"error": ...}."""
    command = [sys.executable, "-m", f"benchmarks.{name}", "--json", *options]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit)
    except subprocess.TimeoutExpired:
        return {"error": f"took longer than {limit} s"}
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode or not lines:
        return {"error": (done.stderr.strip().splitlines() or ["no message"])[-1], "stderr": done.stderr[-4000:]}
    found: dict[str, Any] = json.loads(lines[-1])
    return found


def table(results: dict[str, dict[str, Any]]) -> list[str]:
    lines = []
    for name, result in results.items():
        if "error" in result:
            lines.append(f"{name:<18} FAILED  {result['error']}")
            continue
        reached = "reached" if result["reached"] else "MISSED"
        lines.append(f"{name:<18} {result['ratio']:>7.3f}  goal {result['goal']}  {reached}")
        for case in result.get("cases", []):
            speeds = ", ".join(f"{side} {speed} img/s" for side, speed in case["images_per_second"].items())
            memory = ", ".join(
                f"{side} {held['allocated_gib']} of {held['reserved_gib']} GiB"
                for side, held in case.get("memory", {}).items()
            )
            lines.append(f"  {case['backbone']:<24} {case['ratio']:>6}  {speeds}  {case['precision']}  {memory}")
        for label, value in result.get("ratios", {}).items():
            lines.append(f"  {label:<24} {value:>6}  {result['mebibytes'][label]} MiB")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="also keep each result as FOLDER/NAME.json")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--quick", action="store_true", help="only to see that everything runs")
    chosen = parser.parse_args()
    results: dict[str, dict[str, Any]] = {}
    began = time.perf_counter()
    for name, options, quick, limit in RUNS:
        results[name] = run(name, ["--device", chosen.device, *(quick if chosen.quick else options)], limit)
        print(f"{name}: {json.dumps(results[name])}", flush=True)
        if chosen.out:
            chosen.out.mkdir(parents=True, exist_ok=True)
            (chosen.out / f"{name}.json").write_text(json.dumps(results[name], indent=1) + "\n")
    print(f"\nafter {time.perf_counter() - began:.0f} s")
    print("\n".join(table(results)))
    sys.exit(0 if all(result.get("reached") for result in results.values()) else 1)


if __name__ == "__main__":
    main()
