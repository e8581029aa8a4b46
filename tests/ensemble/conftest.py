"""Every ensemble method built once over the small study."""

import pytest

from harness.ensemble.methods import METHODS
from harness.ensemble.scores import EnsembleResult


@pytest.fixture(scope="session")
def built(small_study) -> dict[str, EnsembleResult]:
    from every_method import build_every

    return {name: build_every(small_study.home, [small_study.record], [name], 5, 0, "cpu")[0] for name in METHODS}
