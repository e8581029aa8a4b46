"""How the rows of a table name their images: by path, by name, by number, by case. Part of `guess`."""

import re
from collections import Counter
from pathlib import Path

import numpy as np

from harness.data.guess_columns import Guess, Table, label_columns

SEPARATORS = re.compile(r"[_\-. ]")
LEAST_MATCHED = 0.5
"""share of a table's rows that must find their image"""
MOST_ROWS = 2000
"""looked at of a table"""
MOST_SHOWN = 6
"""values of a part of the file names that a remark lists"""


def name_images(table: Table, images: list[str]) -> tuple[Guess, Table, float] | None:
    """A draft with the keys labels and image (or pattern and join), and how good the match is; None without one."""
    best: tuple[float, str, str] = (0.0, "", "")
    known = set(images)
    for column in table.header:
        cells = table.columns[column][:: len(table.columns[column]) // MOST_ROWS + 1]
        for template in _templates(column, cells, images):
            matched = float(np.mean([template.format_map({column: cell}) in known for cell in cells]))
            best = max(best, (matched, column, template))
    matched, column, template = best
    if matched >= LEAST_MATCHED:
        why = f"{matched:.0%} of the rows of {table.name} name an image this way"
        found = Guess({"labels": table.name, "image": template}, {"image": why})
        # A table with labels is better than one without, whatever else it has.
        return found, table, matched + (label_columns(table, {column}) != [])
    joined = _joined(table, images)
    return None if joined is None else (joined, table, 0.5)


def _templates(column: str, cells: list[str], images: list[str]) -> list[str]:
    """Ways in which a column's cells may name the images: by path, name, name without suffix, number with zeros."""
    if "{" in column or "}" in column or set(column) & set(".[]"):
        return []
    name = f"{{{column}}}"
    folders = [folder for folder, _ in Counter(path.rpartition("/")[0] for path in images).most_common(3)]
    suffixes = [suffix for suffix, _ in Counter(Path(path).suffix for path in images).most_common(2)]
    found = [name]
    for folder in folders:
        prefix = f"{folder}/" if folder else ""
        found.append(prefix + name)
        found += [prefix + name + suffix for suffix in suffixes]
        stems = {Path(path).stem for path in images if path.rpartition("/")[0] == folder}
        widths = {len(stem) for stem in stems if stem.isdigit()}
        if len(widths) == 1 and all(cell.isdigit() for cell in cells):
            found += [f"{prefix}{{{column}:0>{widths.copy().pop()}}}{suffix}" for suffix in suffixes]
    return list(dict.fromkeys(found))


def _joined(table: Table, images: list[str]) -> Guess | None:
    """Images that say which case they belong to by a part of their names, and a table of cases."""
    folder, suffix = Counter(path.rpartition("/")[0] for path in images).most_common(1)[0][0], Path(images[0]).suffix
    prefix = f"{folder}/" if folder else ""
    here = [path[len(prefix) :].removesuffix(suffix) for path in images if path.rpartition("/")[0] == folder]
    parts = [SEPARATORS.split(stem) for stem in here]
    if len({len(one) for one in parts}) != 1 or len(parts[0]) < 2:
        return None
    for column in table.header:
        values = table.values(column)
        for place in range(len(parts[0])):
            unique = len(values) == len(table.columns[column])
            if unique and column.isidentifier() and np.mean([one[place] in values for one in parts]) >= LEAST_MATCHED:
                names = [column if number == place else f"part_{number + 1}" for number in range(len(parts[0]))]
                gaps = SEPARATORS.findall(here[0])
                inside = f"[^/{''.join(sorted(set(gaps), reverse=True))}]+"
                groups = [f"(?P<{name}>{inside})" for name in names]
                pattern = groups[0] + "".join(
                    f"{re.escape(gap)}{group}" for gap, group in zip(gaps, groups[1:], strict=True)
                )
                whole = f"{re.escape(prefix)}{pattern}{re.escape(suffix)}"
                why = f"{table.name} has one row for each {column}, which the names of the images say"
                found = Guess({"labels": table.name, "pattern": whole, "join": column}, {"join": why})
                others = [
                    _part(name, {one[number] for one in parts}) for number, name in enumerate(names) if number != place
                ]
                found.check.append(
                    f"Other parts of the names are {', '.join(others)}: name them in data.pattern, and choose by them "
                    "with data.where."
                )
                return found
    return None


def _part(name: str, values: set[str]) -> str:
    """With its values, unless they are so many that they may be names of people."""
    return f"{name} ({', '.join(sorted(values))})" if len(values) <= MOST_SHOWN else name
