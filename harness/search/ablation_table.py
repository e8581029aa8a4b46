"""The table of an ablation: from the trained arms' out-of-fold predictions to one row a factor, and into MLflow.

Never touches the test split.
"""

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from harness.data.prepare import Prepared
from harness.metrics import METRICS
from harness.search.ablation import Plan, finished_arms, key_of
from harness.stats.ablation import ablation_effects
from harness.stats.intervals import LEVEL
from harness.stats.paired import holm
from harness.store.files import read_json, without_nan, write_json
from harness.store.home import Home
from harness.store.records import is_optimistic
from harness.train.cross_validation import pooled_predictions


@dataclass(frozen=True)
class Row:
    """One factor. `delta` is the metric with `after` minus the metric with `before`, means over folds and seeds."""

    factor: str
    before: Any
    after: Any
    base: str
    """which of the two the base trial has: before, after"""
    delta: float
    lo: float
    hi: float
    p: float
    p_holm: float
    """corrected for the number of rows (Holm 1979)"""
    verdict: str
    """better or worse (p_holm below .05), inside the noise, not distinguishable, or failed"""
    values: tuple[float, ...]
    """the metric of the arm that is not the base, by seed"""
    reason: str = ""
    """why it failed"""


@dataclass(frozen=True)
class Table:
    study: str
    trial: int
    metric: str
    ablation: str
    """the study that holds the trainings"""
    seeds: int
    base: float
    """the metric of the base trial, mean over folds and seeds"""
    noise_floor: float
    """what two settings that do the same differ by at most, 95% of the time, by the noise of training alone"""
    seed_sd: float
    """standard deviation of one training's metric between seeds"""
    rows: list[Row]
    """the largest gain first; what failed is last"""
    not_factors: list[str]
    optimistic: bool


def tabulate(plan: Plan, home: Home, data: Prepared, reps: int = 2000) -> Table:
    """The table of what has been trained. Raises HarnessError where the base trial lacks a seed."""
    records = finished_arms(plan, home)
    metric, seeds, seed = plan.base.tree["search"]["metric"], plan.seeds, plan.base.tree["seed"]
    own = home.run_artifacts(plan.base.name, plan.trial.run_id)
    folders, arms, failed = [], [], {}
    for arm in [None, *plan.arms]:
        found = [records.get(key_of(arm, one)) for one in (seeds if arm else seeds[1:])]
        bad = next((record for record in found if record is not None and record.state != "complete"), None)
        if arm is not None and (bad is not None or None in found):
            failed[plan.arms.index(arm)] = bad.reason if bad else "not trained"
            continue
        arms += [arm] if arm else []
        paths = [home.run_artifacts(plan.study.name, record.run_id) for record in found if record is not None]
        folders += paths if arm else [own, *paths]
    rows, p = pooled_predictions(folders, data)
    y, groups = data.dataset.y[rows], data.dataset.groups[rows]
    p = p.reshape(len(arms) + 1, len(seeds), *p.shape[1:])
    pairs = [(0, i) if arm.base == "before" else (i, 0) for i, arm in enumerate(arms, start=1)]
    if not arms:
        p, pairs = np.concatenate([p, p]), []
    effects = ablation_effects(metric, y, p, groups, pairs, seed, reps, data.folds.fold[rows])
    corrected = holm(np.array([difference.p for difference in effects.differences]))
    sign = 1.0 if METRICS[metric].higher_is_better else -1.0
    made = []
    for arm, found_, p_holm, values in zip(arms, effects.differences, corrected, effects.values[1:], strict=False):
        verdict = _verdict(sign * found_.value, float(p_holm), effects.noise_floor)
        numbers = (found_.value, found_.lo, found_.hi, found_.p, float(p_holm))
        made.append(Row(arm.factor, arm.before, arm.after, arm.base, *numbers, verdict, tuple(values.tolist())))
    made.sort(key=lambda row: -sign * row.delta if math.isfinite(row.delta) else math.inf)
    for number, reason in failed.items():
        arm, none = plan.arms[number], math.nan
        made.append(
            Row(arm.factor, arm.before, arm.after, arm.base, none, none, none, none, none, "failed", (), reason)
        )
    return Table(
        plan.base.name,
        plan.trial.number,
        metric,
        plan.study.name,
        len(seeds),
        float(effects.values[0].mean()),
        effects.noise_floor,
        effects.seed_sd,
        made,
        plan.not_factors,
        is_optimistic(plan.tree),
    )


def _verdict(gain: float, p_holm: float, floor: float) -> str:
    if p_holm < 1 - LEVEL:
        return "better" if gain > 0 else "worse"
    return "inside the noise" if abs(gain) <= floor else "not distinguishable"


def document(table: Table) -> dict[str, Any]:
    """Plain JSON of a table, with `from` and `to` as its columns are called."""
    whole = asdict(table)
    for row in whole["rows"]:
        row["from"], row["to"] = row.pop("before"), row.pop("after")
        row["base"] = {"before": "from", "after": "to"}[row["base"]]
    found: dict[str, Any] = without_nan(whole)
    return found


COLUMNS = ("factor", "from", "to", "base", "delta", "lo", "hi", "p", "p_holm", "verdict")
"""of the CSV file"""
SHOWN = ("factor", "delta", "lo", "hi", "p_holm", "verdict", "from", "to", "base", "p")
"""of the table in MLflow, whose page has room for the first few, and for a few digits"""


def publish(table: Table, home: Home) -> str:
    """The table as a run of kind `ablation` in the study's experiment; once, as long as it stays the same. Returns the
    run's id."""
    from harness.track.mlflow_store import Tracking, words_tags

    found = document(table)
    path = home.work(table.ablation) / "table.json"
    if path.exists() and (past := read_json(path))["table"] == found:
        return str(past["run_id"])
    tracking = Tracking(home, table.study)
    tags = {"harness.kind": "ablation", "harness.trial": str(table.trial), "harness.state": "complete"}
    tags |= {"harness.optimistic": "true"} if table.optimistic else {}
    params = {f"ablation.{name}": found[name] for name in ("trial", "seeds", "metric")}
    metrics = {f"cv/{table.metric}": table.base}
    metrics |= {"ablation/noise_floor": table.noise_floor, "ablation/seed_sd": table.seed_sd}
    names = [row.factor for row in table.rows]
    for row in table.rows:
        name = row.factor if names.count(row.factor) == 1 else f"{row.factor} {row.before}-{row.after}"
        metrics |= {
            f"ablation/{name}{end}": getattr(row, end.lstrip("_") or "delta") for end in ("", "_lo", "_hi", "_p")
        }
        metrics |= {f"ablation/{name}_p_holm": row.p_holm}
        tags |= words_tags("ablation", name, row.delta, row.lo, row.hi, row.p_holm)
    run_id = tracking.log_run(f"ablation-t{table.trial:04d}", tags, params, metrics, note=markdown(found))
    tracking.log_table(run_id, {name: [_short(row[name]) for row in found["rows"]] for name in SHOWN}, "ablation.json")
    write_json(path, {"table": found, "run_id": run_id})
    return run_id


def markdown(found: dict[str, Any]) -> str:
    """The table as MLflow's page of a run shows it."""
    lines = [
        f"Ablation of trial {found['trial']}: {found['metric']}, means over folds and {found['seeds']} seeds.",
        "",
        "| factor | from | to | delta | 95% | p | p (Holm) | |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in found["rows"]:
        numbers = [_text(row[name]) for name in ("delta", "lo", "hi", "p", "p_holm")]
        delta, lo, hi, p, p_holm = numbers
        cells = [row["factor"], row["from"], row["to"], delta, f"{lo} to {hi}", p, p_holm, row["verdict"]]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    lines += ["", f"delta: {found['metric']} with `to` minus with `from`. Noise floor: {_text(found['noise_floor'])}."]
    return "\n".join(lines)


def _short(cell: Any) -> Any:
    return round(cell, 5) if isinstance(cell, float) else cell


def _text(number: float | None) -> str:
    return "-" if number is None else f"{number:.4f}"
