"""One small bundle with all its parts, for whatever predicts with it: read it, never change it."""

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def mean_bundle(small_study) -> Path:
    from every_method import build_every

    return build_every(small_study.home, [small_study.record], ["mean"], 2, 0, "cpu")[0].bundle
