"""What else a study's table and its images' headers say of each image: sex, age, scanner. For scores by kind only."""

import pandas as pd

from harness.config.data import Data
from harness.data.scan import root_of
from harness.data.sources import read_source
from harness.store.home import Home
from harness.types import Progress


def read_attributes(
    data: Data, rows: pd.DataFrame, home: Home, progress: Progress
) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """Columns of the source, in the order of the manifest's `rows`, and those of DICOM headers; and which of them are
    private: labels, groups, what tells people apart."""
    root = root_of(data, home, progress)
    source = read_source(data, root, home)
    table = source.columns.fillna("").astype(str)
    table.index = pd.Index(source.ids)
    table = table[~table.index.duplicated()].loc[list(rows["id"])].reset_index(drop=True)
    headers = rows[[name for name in rows if str(name).startswith("dicom.")]].astype(str).reset_index(drop=True)
    labels = (data.label,) if isinstance(data.label, str) else data.label
    private = [data.group, *labels, *([data.join] if data.join else [])]
    return pd.concat([table, headers], axis=1), tuple(private)
