"""Points of the unit cube as configurations: plain random search and a quasi-random sequence. No model, no Optuna.

The point of a trial depends on the study's seed and the trial's number alone, so nothing has to be remembered for a
resume, and trials asked for at the same time never get the same point.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.config.space import Choice, FloatRange, Range
from harness.seeds import derive_seed


def random_point(dimensions: int, number: int, seed: int) -> NDArray[np.float64]:
    """(dimensions,) uniform in [0, 1)."""
    return np.random.default_rng(derive_seed(seed, "sampler", number)).random(dimensions)


def sobol_point(dimensions: int, number: int, seed: int) -> NDArray[np.float64]:
    """(dimensions,) the trial's place in one scrambled Sobol sequence (Owen 1998, Joe and Kuo 2008) in [0, 1)."""
    from scipy.stats import qmc

    engine = qmc.Sobol(dimensions, scramble=True, rng=np.random.default_rng(derive_seed(seed, "sobol")))
    if number:
        engine.fast_forward(number)
    return np.asarray(engine.random(1)[0])


def value_at(range_: Range, u: float) -> Any:
    """The value of a range at u in [0, 1): uniform, on the logarithm where `log` says so, equal shares for steps."""
    if isinstance(range_, Choice):
        return range_.options[int(u * len(range_.options))]
    if isinstance(range_, FloatRange):
        if range_.step is not None:
            count = int((range_.high - range_.low) / range_.step + 1e-9) + 1
            return range_.low + int(u * count) * range_.step
        if range_.log:
            value = math.exp(math.log(range_.low) + u * (math.log(range_.high) - math.log(range_.low)))
            return min(max(value, range_.low), range_.high)
        return range_.low + u * (range_.high - range_.low)
    if range_.log:
        low, high = math.log(range_.low - 0.5), math.log(range_.high + 0.5)
        return min(max(round(math.exp(low + u * (high - low))), range_.low), range_.high)
    return range_.low + int(u * ((range_.high - range_.low) // range_.step + 1)) * range_.step
