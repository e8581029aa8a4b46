"""How good the estimate before trial 0 is: three small studies, each estimated and then really run.

For each: the range that was said, the seconds it took, and `off`, what it took over the middle of the range (the root
of low times high). `ratio` is the worst of them, as min(off, 1 / off): 1 is a perfect guess, .5 one that is wrong by a
factor of 2.

    python -m benchmarks.estimate [--json]
"""

import tempfile
from pathlib import Path
from typing import Any

from benchmarks._report import arguments, publish
from benchmarks._tiny_study import tiny
from harness.config.load import Study
from harness.search.run import run_study
from harness.store.home import Home
from harness.types import Estimated, Event, StudyEnded

GOAL = 0.5
STUDIES: dict[str, dict[str, Any]] = {
    "one network, raced": {
        "train__epochs": 4,
        "search__trials": 6,
        "search__pruner": "race",
        "augment__rotate": {"choice": [0.0, 15.0]},
    },
    "two networks": {
        "model__backbone": {"choice": ["test_resnet", "test_vit"]},
        "train__epochs": 3,
        "search__trials": 4,
    },
    "64 px, 2 to 6 epochs": {
        "model__backbone": "resnet10t",
        "data__decode__size": 64,
        "train__epochs": {"choice": [2, 4, 6]},
        "search__trials": 3,
    },
}


def main() -> None:
    options = arguments(__doc__ or "").parse_args()
    found = {name: _measure(tiny(**values)) for name, values in STUDIES.items()}
    worst = min(min(one["off"], 1 / one["off"]) for one in found.values())
    publish("estimate", worst, GOAL, options, inside=f"{sum(o['inside'] for o in found.values())}/3", studies=found)


def _measure(study: Study) -> dict[str, Any]:
    events: list[Event] = []
    with tempfile.TemporaryDirectory() as folder:
        run_study(study, Home(Path(folder)), 1, "cpu", events.append, estimating=True)
    estimate = next(event.estimate for event in events if isinstance(event, Estimated))
    taken = next(event.seconds for event in events if isinstance(event, StudyEnded))
    middle = (estimate.low * estimate.high) ** 0.5
    return {
        "low": round(estimate.low, 1),
        "high": round(estimate.high, 1),
        "taken": round(taken, 1),
        "off": round(taken / middle, 2),
        "inside": estimate.low <= taken <= estimate.high,
    }


if __name__ == "__main__":
    main()
