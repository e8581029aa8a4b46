"""How long a person waits before anything happens: `harness --help`, and the data work of a study's second run.

`ratio` is the smaller of 0.5 s over the help's seconds and 2 s over the second run's data work, each the median of runs
in fresh processes.

    python -m benchmarks.cold_start [--study lr_aug_sweep --root PATH] [--json]
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from statistics import median

from benchmarks._report import arguments, publish

PREPARE = """
import json, sys, time
from harness.store.home import open_home
from harness.config.load import load_study
study = load_study(sys.argv[1], json.loads(sys.argv[2]))
start = time.perf_counter()
from harness.data.prepare import prepare
data = prepare(study.spec.data, study.spec.seed, open_home(), lambda what, done, total: None)
print(json.dumps({"seconds": time.perf_counter() - start, "rows": len(data.dataset.y)}))
"""


def seconds_of(command: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - start


def main() -> None:
    parser = arguments(__doc__ or "")
    parser.add_argument("--study", default="lr_aug_sweep")
    parser.add_argument("--root", help="data.root of the study")
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    overrides = json.dumps([f"data.root={options.root}"] if options.root else [])
    bare = median(seconds_of([sys.executable, "-c", "pass"]) for _ in range(options.runs))
    helped = median(seconds_of([sys.executable, "-m", "harness", "--help"]) for _ in range(options.runs))
    with tempfile.TemporaryDirectory() as home:
        environment = {**os.environ, "HARNESS_HOME": home}
        command = [sys.executable, "-c", PREPARE, options.study, overrides]
        runs = [
            json.loads(subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout)
            for _ in range(options.runs + 1)
        ]
    again = median(run["seconds"] for run in runs[1:])
    publish(
        "cold_start",
        min(0.5 / helped, 2.0 / again),
        1.0,
        options,
        help_seconds=round(helped, 3),
        python_start_seconds=round(bare, 3),
        first_data_seconds=round(runs[0]["seconds"], 3),
        second_data_seconds=round(again, 3),
        rows=runs[0]["rows"],
    )


if __name__ == "__main__":
    main()
