"""In which number format each backbone of a study trains, and whether compiled: measured before trial 0."""

import math

from harness.data.prepare import Prepared, prepare
from harness.events import Event, Listener, SpeedMeasured
from harness.home import Home
from harness.study.load import Study
from harness.study.space import Choice
from harness.study.spec import Spec
from harness.train.fastest import choose_precision


def choose_precisions(
    study: Study, trials: int, data: Prepared, device: str, jobs: int, listener: Listener
) -> dict[str, str]:
    """str(Precision) by backbone. Raises RequestError where train.compile: true cannot be done."""

    def say(line: str) -> None:
        listener(SpeedMeasured(line))

    chosen = {}
    for backbone in _backbones(study):
        model = study.spec.model.model_copy(update={"backbone": backbone})
        spec = study.spec.model_copy(update={"model": model})
        chosen[backbone] = str(choose_precision(spec, device, _steps(spec, trials, data), jobs, say))
    return chosen


def measured_here(study: Study, home: Home, trials: int, device: str) -> tuple[dict[str, str], list[Event]]:
    """The same on a machine of a cluster, whose driver may have no card. Returns also what there is to tell."""
    data = prepare(study.spec.data, study.spec.seed, home, lambda what, done, total: None)
    said: list[Event] = []
    return choose_precisions(study, trials, data, device, 1, said.append), said


def _backbones(study: Study) -> list[str]:
    range_ = study.space.get("model.backbone")
    return [str(name) for name in range_.options] if isinstance(range_, Choice) else [study.spec.model.backbone]


def _steps(spec: Spec, trials: int, data: Prepared) -> int:
    """Training steps of the whole study, if no trial is pruned."""
    folds = data.folds
    rows = len(folds.development_rows()) * (folds.k - 1) // folds.k
    return trials * folds.k * spec.train.epochs * math.ceil(rows / spec.train.batch_size)
