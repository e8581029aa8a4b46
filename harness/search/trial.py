"""One trial, from a drawn configuration to its result. It knows neither Optuna nor MLflow: it says what happens to a
`Boss` and obeys what that answers, whether the boss sits in this process or behind a pipe.
"""

import shutil
import traceback
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from harness.config.load import build_spec, dump_yaml
from harness.config.spec import Search, parse_constraint, violations
from harness.data.prepare import Prepared
from harness.errors import DiskFull, HarnessError
from harness.hardware import give_back
from harness.store.files import is_disk_full, write_text
from harness.store.home import lock
from harness.train.cross_validation import Place, cross_validate
from harness.train.inference import trial_costs
from harness.train.precision import parse_precision, threads_of
from harness.types import EpochDone, EpochReport, FoldDone, FoldResult, TrialResult


@dataclass(frozen=True)
class Task:
    """All that a worker needs to run a trial; plain data, so that it crosses a pipe."""

    number: int
    tree: dict[str, Any]
    """the trial's spec as a plain tree"""
    study: str
    artifacts: Path
    running: Path
    precision: str
    metric: str
    start: tuple[Path, ...] = ()
    """for each fold the checkpoint that it starts from, where model.weights names an earlier study"""


@dataclass(frozen=True)
class Outcome:
    """How a trial ended."""

    number: int
    state: str
    """complete, pruned, failed, or died: what trained it went away, and the trial can go on from its last epoch"""
    result: TrialResult | None = None
    """without the predictions of the folds, which are on disk"""
    reason: str = ""
    costs: dict[str, float] = field(default_factory=dict)
    """where the study asks for them (train.costs)"""


class Boss(Protocol):
    """Who a running trial reports to."""

    def epoch(self, event: EpochDone) -> bool:
        """True: go on; False: stop, the trial is pruned. Called while the next epoch trains already."""
        ...

    def fold(self, event: FoldDone) -> bool:
        """True: go on with the next fold; False: stop, the trial is pruned."""
        ...


class _Pruned(Exception):
    """Its text says why, where that is not the pruner."""


ORPHAN_SECONDS = 60.0
"""how long a trial waits for a process of a killed driver to let go of it"""


def run_trial(task: Task, data: Prepared, device: str, boss: Boss) -> Outcome:
    """Train the trial's folds. A failure is an outcome with its reason; an interruption passes through.

    Raises DiskFull where there is no room to write: that is no fault of this trial.
    """
    with ExitStack() as held:
        try:
            held.enter_context(lock(task.running.with_suffix(".lock"), f"trial {task.number}", ORPHAN_SECONDS))
        except HarnessError as error:
            return Outcome(task.number, "died", reason=str(error))
        return _train(task, data, device, boss)


def _train(task: Task, data: Prepared, device: str, boss: Boss) -> Outcome:
    def on_epoch(report: EpochReport) -> None:
        if not boss.epoch(EpochDone(task.number, report)):
            raise _Pruned

    def on_fold(result: FoldResult) -> None:
        if not boss.fold(FoldDone(task.number, result.fold, result.metrics[task.metric])):
            raise _Pruned

    place = Place(task.study, task.number, task.artifacts, task.running, task.start)
    outcome = Outcome(task.number, "pruned")
    try:
        spec = build_spec(task.tree, f"trial {task.number} of {task.study}")
        write_text(task.artifacts / "spec.yaml", dump_yaml(spec.model_dump(mode="json")))
        precision = parse_precision(task.precision)
        with threads_of(precision):
            if spec.search.costs or spec.search.constraints:
                outcome = replace(outcome, costs=trial_costs(spec, data, device, task.artifacts))
                _refuse_infeasible(spec.search, outcome.costs)
            result = cross_validate(spec, data, place, device, precision, on_epoch, on_fold)
    except _Pruned as why:
        shutil.rmtree(task.running, ignore_errors=True)
        return replace(outcome, reason=str(why))
    except Exception as error:  # a trial's failure must not end the study: it is recorded with its reason
        if is_disk_full(error):
            raise DiskFull(f"trial {task.number}: {error}") from error
        shutil.rmtree(task.running, ignore_errors=True)  # a failed trial does not go on
        if isinstance(error, HarnessError):
            return replace(outcome, state="failed", reason=str(error))
        write_text(task.artifacts / "error.txt", traceback.format_exc())
        reason = (str(error).strip().splitlines() or ["no message"])[0]
        return replace(outcome, state="failed", reason=f"{type(error).__name__}: {reason}")
    finally:
        give_back()
    result.folds = []
    return replace(outcome, state="complete", result=result)


def _refuse_infeasible(search: Search, costs: dict[str, float]) -> None:
    broken = [text for text, by in violations(search, costs).items() if by > 0]
    if broken:
        found = ", ".join(f"{name} {costs[name]:.4g}" for name in {parse_constraint(text).cost for text in broken})
        raise _Pruned(f"not trained: it breaks {' and '.join(broken)} ({found})")
