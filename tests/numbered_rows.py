"""Bundles name no file: which file is a row of predictions.parquet?"""

from harness.data.people import read_people
from harness.numbering import as_text
from harness.store.home import Home


def names_by_row(home: Home, study: str) -> dict[str, str]:
    """The id of every row of a study, by what its bundles call the row."""
    table = read_people(home, study)
    assert table is not None
    return dict(zip(as_text(table.index.to_numpy(), "r").tolist(), table["id"].tolist(), strict=True))
