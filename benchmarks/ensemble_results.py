"""The page docs/ensemble-results.md, made from the bundles of a home; never typed.

    python -m benchmarks.ensemble_results STUDY... [--home PATH]             print the tables
    python -m benchmarks.ensemble_results STUDY... [--home PATH] --write     put them into docs/ensemble-results.md

One table per study with every method that was built: selection, cross-fitted and test score, what it gives beyond the
simple mean of the same members with the p-value after Holm, what fitting it took and what an image costs.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

from benchmarks.results_table import commit_of, counts, newest_bundles, numbers
from harness.ensemble.names import KNOWN
from harness.output.format import duration, interval, number, p_value
from harness.store.files import read_json
from harness.store.home import Home, open_home
from harness.store.records import StudyRecord, require_study
from harness.types import Interval

PAGE = Path(__file__).parents[1] / "docs" / "ensemble-results.md"
HEAD = """# Every method on three data sets

Made by `python -m benchmarks.ensemble_results {studies} --write` from the bundles that
`harness ensemble build --method all --study NAME --top N` made of the studies in `studies/`.
How to read a row: [ensembles.md](ensembles.md#how-to-read-a-row).
"""
COLUMNS = ("model", "selection", "cross-fitted", "test [95%]", "test, minus mean [95%], p (Holm)", "fit", "ms", "MB")


def table(home: Home, study: StudyRecord) -> str:
    bundles = newest_bundles(home, study.name, KNOWN)
    if not bundles:
        sys.exit(f"error: no ensemble of {study.name}. Type: harness ensemble build --method all --study {study.name}")
    metric, first = study.tree["search"]["metric"], next(iter(bundles.values()))
    about = read_json(first / "bundle.json")
    count = counts(first)
    members = ", ".join(f"{one['name']} ({one['model']['backbone']})" for one in about["members"])
    chosen = f"The best {about['top']} of {study.tree['search']['trials']} trials"
    lines = [
        f"\n## {study.name}\n",
        f"{metric}; {count['development']} development and {count['test_images']} test images of {count['groups']} "
        f"groups, {study.tree['data']['folds']} folds. {chosen}: {members}. Commits: {commit_of(home, study.name)}.\n",
        f"| {' | '.join(COLUMNS)} |",
        f"|{'---|' * len(COLUMNS)}",
    ]
    for one in about["scores"]:
        if one["kind"] == "single" and one.get("selection"):
            lines.append(line("best single", one, metric, "-", {}))
    for method, path in bundles.items():
        about = read_json(path / "bundle.json")
        row = next(row for row in about["scores"] if row["kind"] == "ensemble")
        lines.append(line(method, row, metric, against_mean(method, about["delta_vs_mean"]), about["cost"]))
    return "\n".join(lines)


def line(name: str, row: dict[str, Any], metric: str, delta: str, cost: dict[str, Any]) -> str:
    fitted = row.get("cross_fitted")
    cross_fitted = _value(fitted, metric) if fitted else f"{_value(row['oof'], metric)} ~"
    cells = [
        name,
        _value(row["selection"], metric) if row.get("selection") else "-",
        cross_fitted,
        interval(Interval(**numbers(row["test"][metric]))),
        delta,
        duration(cost["fit_seconds"]) if cost else "-",
        f"{1000 * cost['seconds_per_image']:.1f}" if cost else "-",
        f"{cost['megabytes']:.0f}" if cost else "-",
    ]
    return f"| {' | '.join(cells)} |"


def _value(scores: dict[str, Any], metric: str) -> str:
    return number(scores[metric]["value"])


def against_mean(method: str, node: dict[str, Any]) -> str:
    if method == "mean" or node["value"] is None:
        return "-"
    found = numbers(node)
    return f"{found['value']:+.3f} [{found['lo']:+.3f}, {found['hi']:+.3f}], {p_value(found['p_holm'])}"


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("study", nargs="+")
    options.add_argument("--home", type=Path)
    options.add_argument("--write", action="store_true", help=f"put them into docs/{PAGE.name}")
    chosen = options.parse_args()
    home = Home(chosen.home.absolute()) if chosen.home else open_home()
    studies = [require_study(home, name) for name in chosen.study]
    head = HEAD.format(studies=" ".join(chosen.study))
    foot = "\n\n`~`: fitted without each fold, its members chosen with it.\n"
    text = head + "\n".join(table(home, study) for study in studies) + foot
    if chosen.write:
        PAGE.write_text(text)
        print(f"docs/{PAGE.name}: {len(studies)} tables")
    else:
        print(text)


if __name__ == "__main__":
    main()
