"""Coverage of 95% intervals and size of tests at .05, in simulated studies whose truth is known.

The studies are given to the project's own functions: intervals of every metric, paired differences of two models,
tables of subgroups, and out-of-fold scores of linear learners that are really trained, once a fold. Goal: coverage of
.93 and more in every cell with 20 patients of each class (.97 is passed near a score of 1, where no interval can end
beyond it), and p < .05 in .07 or less of studies in which nothing differs.

`--table` writes harness/stats/coverage.json, from which footnotes are made; `--page` writes docs/coverage.md.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks._coverage_models import Cell, Recipes, draw, trained, truth
from benchmarks._report import arguments, publish
from harness.metrics import METRICS
from harness.seeds import derive_seed
from harness.stats.intervals import intervals
from harness.stats.paired import paired_difference
from harness.stats.subgroups import Sample, subgroups, unpaired_differences

LEAST, ENOUGH, MOST_SIZE = 0.93, 20, 0.07
PATIENTS, IMAGES, PREVALENCES, AUROCS = (20, 40, 100, 400), (1, 4, 0), (0.5, 0.2), (0.7, 0.9, 0.97, 0.99)
PAIRS = ((0.7, 0.7), (0.9, 0.9), (0.97, 0.97), (0.85, 0.93))
SITES = ((6, 6, 4, 0.9), (6, 6, 1, 0.7), (6, 10, 4, 0.9), (4, 40, 1, 0.9))
"""sites, patients of each, images of each patient, AUROC"""
RECIPES = tuple(
    Recipes(patients, images, signal, ridge)
    for (patients, images), signal, ridge in product(((40, 4), (100, 2)), (0.0, 2.0), (1e-4, 0.5))
)
PAGE, TABLE = (Path(__file__).parent.parent / place for place in ("docs/coverage.md", "harness/stats/coverage.json"))
Row = dict[str, Any]


def single(reps: int, cells: Iterable[Cell]) -> list[Row]:
    """Intervals of every metric."""
    rows = []
    for cell in cells:
        rng, true = _rng("single", cell), truth(cell.auroc, cell.prevalence)
        held, width = dict.fromkeys(METRICS, 0), dict.fromkeys(METRICS, 0.0)
        for rep in range(reps):
            drawn = draw(rng, cell, (cell.auroc,))
            for name, found in intervals(drawn.y, drawn.p[0], drawn.groups, rep).items():
                held[name] += found.lo <= true[name] <= found.hi
                width[name] += found.hi - found.lo
        rows += [
            {
                **_named(cell),
                "metric": name,
                "truth": round(true[name], 4),
                "coverage": held[name] / reps,
                "width": round(width[name] / reps, 4),
            }
            for name in METRICS
        ]
    return rows


def paired(reps: int, cells: Iterable[tuple[Cell, tuple[float, float]]]) -> list[Row]:
    """Differences of two models on the same rows, equal in truth or not."""
    rows = []
    for cell, pair in cells:
        rng = _rng("paired", cell, pair)
        a, b = (truth(auroc, cell.prevalence) for auroc in pair)
        held, found_below = dict.fromkeys(METRICS, 0), dict.fromkeys(METRICS, 0)
        for rep in range(reps):
            drawn = draw(rng, cell, pair)
            for name in METRICS:
                found = paired_difference(name, drawn.y, drawn.p[0], drawn.p[1], drawn.groups, rep, 300)
                held[name] += found.lo <= a[name] - b[name] <= found.hi
                found_below[name] += found.p < 0.05
        rows += [
            {
                **_named(cell),
                "pair": list(pair),
                "metric": name,
                "coverage": held[name] / reps,
                "significant": found_below[name] / reps,
            }
            for name in METRICS
        ]
    return rows


def of_subgroups(reps: int, sites: Iterable[tuple[int, int, int, float]]) -> list[Row]:
    """How often a table of sites has a row with p < .05 after Holm, where no site differs; and differences of two
    independent samples of as many patients."""
    rows = []
    for count, patients, images, auroc in sites:
        cell = Cell(count * patients, images, 0.5, auroc)
        rng = _rng("subgroups", cell)
        family, held, below, compared = (dict.fromkeys(METRICS, 0) for _ in range(4))
        for rep in range(reps):
            drawn, other = draw(rng, cell, (auroc,)), draw(rng, cell, (auroc,))
            site = np.char.add("site ", (drawn.groups.astype(np.int64) % count).astype(np.str_))
            one, home = (Sample(side.y, side.p[0], side.groups) for side in (drawn, other))
            for name, found in unpaired_differences(one, home, rep).items():
                held[name] += found.lo <= 0 <= found.hi
                below[name] += found.p < 0.05
                table = subgroups(one, {"site": site}, name, rep)
                family[name] += any(row.p_holm < 0.05 for row in table)
                compared[name] += sum(np.isfinite(row.p_holm) for row in table)
        rows += [
            {
                "sites": count,
                "patients": patients,
                "images": images,
                "auroc": auroc,
                "metric": name,
                "family": family[name] / reps,
                "rows_compared": round(float(compared[name] / reps), 1),
                "unpaired_coverage": held[name] / reps,
                "unpaired_size": below[name] / reps,
            }
            for name in METRICS
        ]
    return rows


def out_of_fold(reps: int, cells: Iterable[Recipes]) -> list[Row]:
    """Pooled out-of-fold scores and differences of the means over folds, of learners that are really trained. The truth
    is the mean over all simulated studies: what the recipe scores on average."""
    rows = []
    for cell in cells:
        rng = _rng("out_of_fold", cell)
        with_folds: dict[str, list[tuple[float, float, float, float]]] = {name: [] for name in METRICS}
        without: dict[str, list[tuple[float, float, float]]] = {name: [] for name in METRICS}
        for rep in range(reps):
            drawn, fold = trained(rng, cell)
            aware = intervals(drawn.y, drawn.p[0], drawn.groups, rep, fold=fold)
            naive = intervals(drawn.y, drawn.p[0], drawn.groups, rep)
            for name in METRICS:
                p = [
                    paired_difference(name, drawn.y, drawn.p[0], drawn.p[1], drawn.groups, rep, 300, one).p
                    for one in (fold, None)
                ]
                with_folds[name].append((aware[name].value, aware[name].lo, aware[name].hi, p[0]))
                without[name].append((naive[name].lo, naive[name].hi, p[1]))
        for name in METRICS:
            value, lo, hi, p = np.array(with_folds[name]).T
            naive_lo, naive_hi, naive_p = np.array(without[name]).T
            true = float(value.mean())
            rows.append(
                {
                    "patients": cell.patients,
                    "images": cell.images,
                    "signal": cell.signal,
                    "memorises": cell.ridge < 0.01,
                    "metric": name,
                    "truth": round(true, 4),
                    "coverage": float(((lo <= true) & (true <= hi)).mean()),
                    "size": float((p < 0.05).mean()),
                    "coverage_without_fold": float(((naive_lo <= true) & (true <= naive_hi)).mean()),
                    "size_without_fold": float((naive_p < 0.05).mean()),
                }
            )
    return rows


def _rng(*of: object) -> np.random.Generator:
    return np.random.default_rng(derive_seed(0, *(repr(one) for one in of)))


def _named(cell: Cell) -> Row:
    kind = "image" if cell.by_image else "patient"
    return {
        "patients": cell.patients,
        "images": cell.images,
        "prevalence": cell.prevalence,
        "auroc": cell.auroc,
        "class_of": kind,
        "rarer": cell.rarer,
    }


def single_cells() -> list[Cell]:
    several = [Cell(*one) for one in product(PATIENTS, IMAGES, PREVALENCES, AUROCS)]
    return several + [Cell(*one, by_image=True) for one in product(PATIENTS, (4,), PREVALENCES, AUROCS)]


def paired_cells() -> list[tuple[Cell, tuple[float, float]]]:
    return [
        (Cell(patients, images, prevalence, pair[0]), pair)
        for (patients, prevalence), images, pair in product(
            ((6, 0.5), (10, 0.5), (20, 0.5), (40, 0.5), (100, 0.2), (100, 0.5)), (1, 4), PAIRS
        )
    ]


def simulate(reps: int) -> dict[str, list[Row]]:
    return {
        "single": single(reps, single_cells()),
        "paired": paired(reps, paired_cells()),
        "subgroups": of_subgroups(max(1, reps // 2), SITES),
        "out_of_fold": out_of_fold(max(1, reps // 2), RECIPES),
    }


def _goals(found: dict[str, list[Row]], reps: int) -> tuple[float, list[Row]]:
    """The share of cells with 20 patients of each class that reach the goal, up to two Monte-Carlo errors; and those
    that do not."""
    tried: list[tuple[bool, Row]] = []

    def judge(rows: Iterable[Row], good: Callable[[Row], bool]) -> None:
        tried.extend((good(row), row) for row in rows)

    error = 2 * (0.05 * 0.95 / reps) ** 0.5
    judge((row for row in found["single"] if row["rarer"] >= ENOUGH), lambda row: row["coverage"] >= LEAST - error)
    judge((row for row in found["paired"] if row["rarer"] >= ENOUGH), lambda row: row["coverage"] >= LEAST - error)
    equal = [row for row in found["paired"] if row["pair"][0] == row["pair"][1]]
    judge(equal, lambda row: row["significant"] <= MOST_SIZE + error)
    judge(found["subgroups"], lambda row: row["family"] <= MOST_SIZE + error * 2**0.5)
    judge(
        found["out_of_fold"],
        lambda row: row["coverage"] >= LEAST - error * 2**0.5 and row["size"] <= MOST_SIZE + error * 2**0.5,
    )
    return float(np.mean([good for good, _ in tried])), [row for good, row in tried if not good]


def look_up(found: dict[str, list[Row]], reps: int) -> dict[str, Any]:
    """What footnotes need: coverage of each metric by patients of the rarer class, images and true value. Cells that
    differ in the number of several images, or in whose class it is, are taken together."""
    pools: dict[tuple[str, bool, int, float], list[Row]] = {}
    for row in found["single"]:
        pools.setdefault((row["metric"], row["images"] != 1, row["rarer"], row["truth"]), []).append(row)
    cells = [
        {
            "metric": metric,
            "several": several,
            "rarer": rarer,
            "value": value,
            "coverage": round(float(np.mean([row["coverage"] for row in rows])), 3),
            "draws": reps * len(rows),
        }
        for (metric, several, rarer, value), rows in sorted(pools.items())
    ]
    pairs: dict[tuple[str, bool, int], list[float]] = {}
    for row in found["paired"]:
        pairs.setdefault((row["metric"], row["images"] != 1, row["rarer"]), []).append(row["coverage"])
    paired_cells = [
        {"metric": m, "several": s, "rarer": n, "coverage": round(float(np.mean(c)), 3), "draws": reps * len(c)}
        for (m, s, n), c in sorted(pairs.items())
    ]
    return {"single": cells, "paired": paired_cells}


def summary(found: dict[str, list[Row]], reps: int) -> list[str]:
    """The lines of the page: the lowest and the mean coverage by metric and patients of the rarer class."""
    lines = [
        f"Each cell: {reps} simulated studies, Monte-Carlo error of .95: {(0.05 * 0.95 / reps) ** 0.5:.3f}.",
        "",
        "## One score",
        "",
        "Mean (lowest to highest) coverage over images a patient (1, 4, 1 to 8), prevalence (.5, .2), class of the "
        "patient or of the image, and true AUROC (.70, .90, .97, .99), by patients of the rarer class:",
        "",
    ]
    sizes = sorted({row["rarer"] for row in found["single"]})
    lines += _grid(found["single"], METRICS, sizes, "metric", "rarer", "coverage")
    lines += ["", "The same by true AUROC, 20 patients of the rarer class and more:", ""]
    enough = [row for row in found["single"] if row["rarer"] >= ENOUGH]
    lines += _grid(enough, METRICS, sorted({row["auroc"] for row in enough}), "metric", "auroc", "coverage")
    lines += ["", "## Two models on the same rows", "", "Coverage of the difference:", ""]
    sizes = sorted({row["rarer"] for row in found["paired"]})
    lines += _grid(found["paired"], METRICS, sizes, "metric", "rarer", "coverage")
    lines += ["", "Share with p < .05 where both are equally good:", ""]
    equal = [row for row in found["paired"] if row["pair"][0] == row["pair"][1]]
    lines += _grid(equal, METRICS, sizes, "metric", "rarer", "significant")
    lines += ["", "## Subgroups, and two independent samples", ""]
    lines += [
        "| sites x patients | images | AUROC | metric | tables with a row below .05 | rows compared "
        "| unpaired: coverage | p < .05 |"
    ]
    lines += ["|---|---|---|---|---|---|---|---|"]
    lines += [
        f"| {row['sites']} x {row['patients']} | {row['images']} | {row['auroc']:.2f} | {row['metric']} "
        f"| {row['family']:.3f} | {row['rows_compared']} | {row['unpaired_coverage']:.3f} "
        f"| {row['unpaired_size']:.3f} |"
        for row in found["subgroups"]
    ]
    lines += [
        "",
        f"Monte-Carlo error of .05: {(0.05 * 0.95 / max(1, reps // 2)) ** 0.5:.3f}.",
        "",
        "## Out of fold",
        "",
    ]
    lines += [
        "Five folds, linear learners really trained on each. In brackets: as if one model had predicted all rows.",
        "",
        "| patients | images | learner | signal | metric | coverage of the pooled score | p < .05 for equal recipes |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row['patients']} | {row['images']} | {'memorises' if row['memorises'] else 'regularised'} "
        f"| {'yes' if row['signal'] else 'none'} | {row['metric']} | {row['coverage']:.3f} "
        f"({row['coverage_without_fold']:.3f}) | {row['size']:.3f} ({row['size_without_fold']:.3f}) |"
        for row in found["out_of_fold"]
    ]
    return lines


def _grid(rows: list[Row], down: Iterable[str], across: Iterable[float], by: str, over: str, value: str) -> list[str]:
    across = list(across)
    lines = [f"| | {' | '.join(f'{one:g}' for one in across)} |", "|---|" + "---|" * len(across)]
    for name in down:
        cells = []
        for one in across:
            found = [row[value] for row in rows if row[by] == name and row[over] == one]
            cells.append(f"{np.mean(found):.3f} ({min(found):.3f} to {max(found):.3f})" if found else "")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


PAGE_HEAD = """# How often intervals hold the truth

Written by `python -m benchmarks.coverage --page`; not by hand. {about}

An interval printed anywhere by harness whose cell below covers less than .93 carries the mark † and, in JSON, its
`coverage`. Patients are drawn with their class at random, so their numbers by class vary; scores are normal within each
class, images of one patient share half of their variance.
"""


def main() -> None:
    parser: argparse.ArgumentParser = arguments(__doc__ or "")
    parser.add_argument("--reps", type=int, default=400, help="simulated studies a cell (default 400)")
    parser.add_argument("--page", action="store_true", help="write docs/coverage.md")
    parser.add_argument("--table", action="store_true", help="write harness/stats/coverage.json")
    options = parser.parse_args()
    start = time.perf_counter()
    found = simulate(options.reps)
    ratio, missed = _goals(found, options.reps)
    lines = summary(found, options.reps)
    if options.table:
        TABLE.write_text(json.dumps(look_up(found, options.reps), indent=0) + "\n")
    if options.page:
        about = "Goal: .93 and more with 20 patients of each class and more."
        PAGE.write_text("\n".join([PAGE_HEAD.format(about=about), *lines]) + "\n")
    text = "\n".join([*lines, "", f"share of cells that reach the goal: {ratio:.3f}; those that do not:"])
    text += "".join(f"\n  {row}" for row in missed)
    seconds = round(time.perf_counter() - start)
    publish("coverage", ratio, 0.95, options, text, reps=options.reps, seconds=seconds, missed=missed, **found)


if __name__ == "__main__":
    main()
