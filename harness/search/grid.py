"""Full grids over a search space: how many points, and in which order. Pure functions, no Optuna."""

import itertools
import math
import random
from typing import Any

from harness.errors import RequestError
from harness.seeds import derive_seed
from harness.study.search import Search
from harness.study.space import Choice, FloatRange, Space


def total_trials(search: Search, space: Space) -> int:
    """search.trials, or the size of the grid where that is smaller."""
    if search.sampler != "grid":
        return search.trials
    return min(search.trials, math.prod(len(values) for values in grid(space).values()))


def grid_points(space: Space, seed: int) -> list[dict[str, Any]]:
    """Every combination once, in an order drawn from the seed: a study that stops early has seen a fair sample."""
    values = grid(space)
    points = [dict(zip(values, combination, strict=True)) for combination in itertools.product(*values.values())]
    random.Random(derive_seed(seed, "grid")).shuffle(points)
    return points


def grid(space: Space) -> dict[str, list[Any]]:
    """Every value of every range. Raises RequestError for a range without a step."""
    values: dict[str, list[Any]] = {}
    for name, range_ in space.items():
        if isinstance(range_, Choice):
            values[name] = list(range_.options)
        elif isinstance(range_, FloatRange):
            if range_.step is None:
                raise RequestError(
                    f"{name}: the grid sampler needs a choice, an int range or a step, such as "
                    f"{{choice: [{range_.low:g}, {range_.high:g}]}}, or --set search.sampler=tpe."
                )
            count = int((range_.high - range_.low) / range_.step + 1e-9) + 1
            values[name] = [range_.low + i * range_.step for i in range(count)]
        else:
            values[name] = list(range(range_.low, range_.high + 1, range_.step))
    return values
