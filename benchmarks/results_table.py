"""The results table of README.md, made from the bundles and ledgers of a home; never typed.

    python benchmarks/results_table.py [STUDY...]            print the table
    python benchmarks/results_table.py [STUDY...] --write    put it into README.md, between its two markers
    python benchmarks/results_table.py --json                the rows as JSON

Reads HARNESS_HOME (or mlruns/), or each --home PATH. For each study: the best single member (chosen out-of-fold), the
simple mean, and the most used ensembles, each with its 95% interval, the paired difference to the best single
member, and the commit of the program that computed it.
"""

import argparse
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq
from mlflow.tracking import MlflowClient

from harness.metrics import METRICS
from harness.output.format import interval, p_value
from harness.store.files import is_done, read_json
from harness.store.home import Home, open_home
from harness.store.records import StudyRecord, list_studies
from harness.types import Interval

README = Path(__file__).parents[1] / "README.md"
BEGIN, END = "<!-- results:begin -->", "<!-- results:end -->"
METHODS = ("mean", "greedy", "boosting", "stacking")
"""those of README.md; all of them: ensemble_results.py"""
COLUMNS = ("data set", "images", "folds", "model", "out-of-fold", "test", "test, minus best single", "commit")


def rows_of(home: Home, study: StudyRecord) -> list[dict[str, Any]]:
    """One row per model of a study that has bundles; empty without bundles, and where no test split is held out."""
    bundles = newest_bundles(home, study.name)
    if not bundles:
        return []
    metric = study.tree["search"]["metric"]
    first = next(iter(bundles.values()))
    about = read_json(first / "bundle.json")
    if about["judged_on"] != "test":
        return []
    scores = about["scores"]
    sign = 1 if METRICS[metric].higher_is_better else -1
    singles = [row for row in scores if row["kind"] == "single"]
    single = max(singles, key=lambda row: sign * row["oof"][metric]["value"])
    common = {
        "study": study.name,
        "metric": metric,
        "folds": study.tree["data"]["folds"],
        "trials": study.tree["search"]["trials"],
        **counts(first),
        "commit": commit_of(home, study.name),
    }
    rows = [{**common, **model_row("best single", single, metric), "delta": None}]
    mean = next((row for row in scores if row["kind"] == "mean"), None)
    if mean is not None and "mean" not in bundles:
        rows.append({**common, **model_row("simple mean", mean, metric), "delta": None})
    for method, path in bundles.items():
        about = read_json(path / "bundle.json")
        row = next(row for row in about["scores"] if row["kind"] == "ensemble")
        name = "simple mean" if method == "mean" else method
        rows.append({**common, **model_row(name, row, metric), "delta": about["delta_vs_single"]})
    return rows


def newest_bundles(home: Home, study: str, methods: Sequence[str] = METHODS) -> dict[str, Path]:
    """The newest finished bundle of each of the methods, in their order."""
    found: dict[str, Path] = {}
    folders = [path for path in home.bundles(study).glob("*") if is_done(path)]
    for path in sorted(folders, key=lambda path: (path / "DONE").stat().st_mtime):
        found[read_json(path / "bundle.json")["method"]] = path
    return {method: found[method] for method in methods if method in found}


def counts(bundle: Path) -> dict[str, int]:
    """Images and groups of the development data and of the test split, from the bundle's predictions."""
    table = pq.read_table(bundle / "predictions.parquet", columns=["split", "group"])
    parts = {name: table.filter(pc.field("split") == name) for name in ("oof", "test")}
    return {
        "development": parts["oof"].num_rows,
        "test_images": parts["test"].num_rows,
        "groups": pc.count_distinct(table["group"]).as_py(),
    }


def commit_of(home: Home, study: str) -> str:
    """The commits that MLflow noted for the study's runs, newest first."""
    client = MlflowClient(home.mlflow_uri)
    experiment = client.get_experiment_by_name(study)
    if experiment is None:
        return "unknown"
    runs = client.search_runs([experiment.experiment_id], max_results=10000)
    return ", ".join(dict.fromkeys(run.data.tags.get("harness.commit", "unknown") for run in runs))


def model_row(name: str, row: dict[str, Any], metric: str) -> dict[str, Any]:
    optimistic = row.get("optimistic", False)
    return {"model": name, "oof": row["oof"][metric], "test": row["test"][metric], "optimistic": optimistic}


def numbers(node: dict[str, Any]) -> dict[str, float]:
    return {key: math.nan if value is None else value for key, value in node.items()}


def markdown(rows: list[dict[str, Any]]) -> str:
    """The table, best single first within each data set."""
    lines = [f"| {' | '.join(COLUMNS)} |", f"|{'---|' * len(COLUMNS)}"]
    shown = None
    for row in rows:
        first = row["study"] != shown
        shown = row["study"]
        grouped = f" of {row['groups']} groups" if row["groups"] != row["development"] + row["test_images"] else ""
        cells = [
            f"`{row['study']}` ({row['metric']}, {row['trials']} trials)" if first else "",
            f"{row['development']} + {row['test_images']} test{grouped}" if first else "",
            str(row["folds"]) if first else "",
            row["model"],
            interval(Interval(**numbers(row["oof"]))) + (" (optimistic)" if row["optimistic"] else ""),
            interval(Interval(**numbers(row["test"]))),
            delta(row["delta"]),
            row["commit"] if first else "",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def delta(node: dict[str, Any] | None) -> str:
    if node is None or node["value"] is None:
        return "-"
    found = numbers(node)
    return f"{found['value']:+.3f} [{found['lo']:+.3f}, {found['hi']:+.3f}], {p_value(found['p'])}"


def put_between_markers(text: str, table: str) -> str:
    """The text with what stands between the markers replaced. Raises ValueError where they are missing."""
    head, begin, rest = text.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"README.md lacks {BEGIN} or {END}")
    return f"{head}{BEGIN}\n{table}\n{END}{tail}"


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("study", nargs="*", help="left out: every study that has ensembles")
    options.add_argument("--home", action="append", type=Path, help="several homes, one after another")
    options.add_argument("--write", action="store_true", help="put the table into README.md")
    options.add_argument("--json", action="store_true")
    chosen = options.parse_args()
    homes = [Home(path.absolute()) for path in chosen.home or ()] or [open_home()]
    known = [(home, study) for home in homes for study in list_studies(home)]
    named = [next((one for one in known if one[1].name == name), None) for name in chosen.study]
    missing = [name for name, one in zip(chosen.study, named, strict=True) if one is None]
    if missing:
        sys.exit(f"error: no study {missing[0]!r}. Those that ran: {', '.join(study.name for _, study in known)}")
    rows = [row for one in named or known if one is not None for row in rows_of(*one)]
    if not rows:
        places = ", ".join(str(home.root) for home in homes)
        sys.exit(f"error: no ensemble in {places}. Type: harness ensemble build --method stacking")
    if chosen.json:
        print(json.dumps(rows, indent=1, allow_nan=False))
    elif chosen.write:
        README.write_text(put_between_markers(README.read_text(), markdown(rows)))
        print(f"{README.name}: {len(rows)} rows")
    else:
        print(markdown(rows))


if __name__ == "__main__":
    main()
