"""Which trial of a study is the best one."""

from harness.metrics import METRICS
from harness.records import TrialRecord


def best_trial(records: list[TrialRecord], metric: str) -> TrialRecord | None:
    """The complete trial with the best pooled out-of-fold value; ties go to the earlier one.

    One that breaks a constraint of its study is never the best, nor is the copy of another.
    """
    sign = 1.0 if METRICS[metric].higher_is_better else -1.0
    sound = [r for r in records if r.state == "complete" and not r.infeasible and r.same_as is None]
    scored = [r for r in sound if r.oof[metric].value == r.oof[metric].value]
    return max(scored, key=lambda r: (sign * r.oof[metric].value, -r.number), default=None)
