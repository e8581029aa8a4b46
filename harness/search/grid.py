"""How many points a study has, whether its sampler can give them, and full grids. Pure functions, no Optuna."""

import random
from typing import Any

from harness.config.load import Study
from harness.config.space import Choice, FloatRange, Range
from harness.errors import RequestError
from harness.seeds import derive_seed

MOST_POINTS = 100_000
"""of a grid: all of them are shuffled in memory"""


def check_sampler(study: Study) -> None:
    """Raises RequestError where a sampler cannot do what is asked of it."""
    numbers = [name for name, range_ in study.space.items() if not isinstance(range_, Choice)]
    if study.spec.search.sampler == "cmaes" and len(numbers) < 2:
        raise RequestError(
            f"search.sampler: cmaes adapts the ellipse of two numbers or more, and {len(numbers)} are searched "
            f"({', '.join(numbers) or 'choices only'}). --set search.sampler=tpe"
        )


def total_trials(study: Study) -> int:
    """search.trials, or the size of the grid where that is smaller."""
    search = study.spec.search
    return min(search.trials, len(grid_points(study))) if search.sampler == "grid" else search.trials


def grid_points(study: Study) -> list[dict[str, Any]]:
    """Every point once, in an order drawn from the seed: a study that stops early has seen a fair sample.

    A point has the ranges that stand at it and no others, so two points never mean the same configuration. Raises
    RequestError for a range without a step, and for a grid that is too large to be one.
    """
    points: list[dict[str, Any]] = [{}]
    for name, range_ in study.space.items():
        values = axis(name, range_)
        grown: list[dict[str, Any]] = []
        for point in points:
            grown += [{**point, name: value} for value in values] if study.stands(name, point) else [point]
            if len(grown) > MOST_POINTS:
                raise RequestError(
                    f"search.sampler: this grid has more than {MOST_POINTS:,} points. Take fewer values, or "
                    "--set search.sampler=qmc, which spreads any number of trials evenly."
                )
        points = grown
    random.Random(derive_seed(study.spec.seed, "grid")).shuffle(points)
    return points


def axis(name: str, range_: Range) -> list[Any]:
    """Every value of a range. Raises RequestError for a range without a step."""
    if isinstance(range_, Choice):
        return list(range_.options)
    if isinstance(range_, FloatRange):
        if range_.step is None:
            raise RequestError(
                f"{name}: the grid sampler needs a choice, an int range or a step, such as "
                f"{{choice: [{range_.low:g}, {range_.high:g}]}}, or --set search.sampler=tpe."
            )
        count = int((range_.high - range_.low) / range_.step + 1e-9) + 1
        return [range_.low + i * range_.step for i in range(count)]
    return list(range(range_.low, range_.high + 1, range_.step))
