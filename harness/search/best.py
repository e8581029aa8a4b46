"""Which trial of a study is the best one."""

from harness.metrics import METRICS
from harness.records import TrialRecord


def best_trial(records: list[TrialRecord], metric: str) -> TrialRecord | None:
    """The complete trial with the best pooled out-of-fold value; ties go to the earlier one."""
    sign = 1.0 if METRICS[metric].higher_is_better else -1.0
    scored = [r for r in records if r.state == "complete" and r.oof[metric].value == r.oof[metric].value]
    return max(scored, key=lambda r: (sign * r.oof[metric].value, -r.number), default=None)
