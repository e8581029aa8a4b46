"""Ensembles that must all be buildable."""

from typing import Any

from harness.ensemble.build import build
from harness.ensemble.scores import EnsembleResult
from harness.store.home import Home
from harness.store.records import StudyRecord


def build_every(
    home: Home, studies: list[StudyRecord], methods: list[str], top: int, seed: int, *more: Any, **named: Any
) -> list[EnsembleResult]:
    """The results of `build`, none of whose methods may be refused."""
    built = build(home, studies, methods, top, seed, *more, **named)
    assert not built.refused
    return built.results
