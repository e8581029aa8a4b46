"""What is known of every backbone without building it: a table that is made once for each version of the libraries.

    python -m harness.models.catalog      builds every backbone on the meta device and writes backbones.csv (minutes)

Reading it needs neither torch nor a library, so that `harness models list` answers at once.
"""

import csv
import io
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple


def chosen(rows: "list[Row]", text: str | None, library: str | None, family: str | None) -> "list[Row]":
    """The rows that fit, by name. Raises RequestError where none does."""
    from harness.errors import RequestError, listed, nearest

    families = sorted({row.family for row in rows})
    if family is not None and family not in families:
        raise RequestError(
            f"--family {family}: no such family.{nearest(family, families)} Families: {listed(families)}."
        )
    found = [
        row
        for row in rows
        if (text is None or text.lower() in row.name.lower())
        and (library is None or row.name.startswith(f"{library}/"))
        and (family is None or row.family == family)
    ]
    if not found:
        said = " ".join(
            f"--{key} {value}" for key, value in (("filter", text), ("library", library), ("family", family)) if value
        )
        raise RequestError(f"no backbone fits {said}. `harness models list` shows all of them.")
    return found


def describe(name: str) -> dict[str, Any]:
    """What `harness models show --json` prints. Raises RequestError."""
    from harness.models.backbones import about, resolve, weight_tags
    from harness.models.network import outline
    from harness.models.stages import stages

    backbone = resolve(name)
    facts = about(backbone)
    size = int(facts["input"][-1])
    network = outline(name, 2, 3, size)
    found = stages(network)
    total = sum(stage.parameters for stage in found)
    left = [total - sum(stage.parameters for stage in found[:level]) for level in range(len(found))]
    return {
        "name": backbone.name,
        "embedding": network.embedding_size,
        "size": size,
        "weights": weight_tags(backbone),
        "license": facts["license"] if weight_tags(backbone) else None,
        "mean": facts["mean"],
        "std": facts["std"],
        "stages": [{"name": stage.name, "parameters": stage.parameters} for stage in found],
        "freeze": [
            {"level": level, "frozen": [stage.name for stage in found[:level]], "trainable": count}
            for level, count in enumerate(left)
        ],
    }


LIBRARIES = ("timm", "torchvision")
FILE = Path(__file__).with_name("backbones.csv")


class Row(NamedTuple):
    name: str
    """with its library: timm/resnet18"""
    family: str
    """the module of the library that defines it"""
    parameters: int
    """of the backbone, without a classifier"""
    embedding: int
    """D with its own pooling"""
    size: int
    """side of the images that its published weights were trained on"""
    license: str
    """of the default weights, as the library states it; '?' where it does not, '' where there are none"""
    weights: str
    """the tag of the default weights; '' where none are published"""


def read_table() -> tuple[dict[str, str], list[Row]]:
    """(the versions of the libraries that it was made with, a row for each backbone)."""
    first, _, rest = FILE.read_text(encoding="utf-8").partition("\n")
    made_with = dict(part.split(" ") for part in first.removeprefix("# ").split(", "))
    rows = []
    for cells in list(csv.reader(io.StringIO(rest)))[1:]:
        name, family, parameters, embedding, size, license_, weights = cells
        rows.append(Row(name, family, int(parameters), int(embedding), int(size), license_, weights))
    return made_with, rows


def installed() -> dict[str, str]:
    """Versions of the libraries as installed."""
    return {library: version(library) for library in LIBRARIES}


def known_rows() -> list[Row]:
    """The rows of backbones that the installed libraries have; those that only newer versions have are not listed."""
    made_with, rows = read_table()
    if made_with == installed():
        return rows
    from harness.models.backbones import list_backbones

    here = set(list_backbones())
    return [row for row in rows if row.name in here]


def measure(name: str) -> Row | None:
    """The row of one backbone, built on the meta device. None where it gives no embedding."""
    from harness.errors import RequestError
    from harness.models.backbones import about, family, resolve, weight_tags
    from harness.models.network import outline

    backbone = resolve(name)
    tags, facts = weight_tags(backbone), about(backbone)
    size = int(facts["input"][-1])
    try:
        network = outline(name, 1, 3, size)
    except RequestError:
        return None
    parameters = sum(parameter.numel() for parameter in network.backbone.parameters())
    license_ = str(facts["license"]) if tags else ""
    return Row(name, family(backbone), parameters, network.embedding_size, size, license_, tags[0] if tags else "")


def main() -> None:
    """Write the table of all backbones of the installed libraries."""
    from harness.models.backbones import list_backbones

    names = list_backbones()
    rows: list[Row] = []
    for number, name in enumerate(names, start=1):
        row = measure(name)
        if row is None:
            print(f"left out: {name} gives no embedding", file=sys.stderr)
        else:
            rows.append(row)
        if number % 50 == 0:
            print(f"{number} of {len(names)}", file=sys.stderr)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(Row._fields)
    writer.writerows(rows)
    made_with = ", ".join(f"{library} {number}" for library, number in installed().items())
    FILE.write_text(f"# {made_with}\n{text.getvalue()}", encoding="utf-8")


if __name__ == "__main__":
    main()
