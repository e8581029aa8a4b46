"""Who is behind a group's number and which image behind a row's: known to the home of a study, and to nothing it gives.

A data set's groups are numbers that mean nothing outside it. To know the same patients in another data set (a study
that starts from an earlier one, a comparison of studies of other images) each study keeps the salted hashes of its
patients beside its records. They are never drawn by, sorted by or given to anybody.
"""

import re

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from harness.errors import RequestError
from harness.store.files import write_bytes
from harness.store.home import Home
from harness.types import Dataset

NUMBER = re.compile(r"g\d{6,}")
FILE = "rows.parquet"
"""in the study's folder of records: id, group and identity of each row, in manifest order"""


def write_people(home: Home, study: str, dataset: Dataset) -> None:
    table = pd.DataFrame({"id": dataset.ids, "group": dataset.groups, "identity": dataset.identities})
    write_bytes(home.work(study) / FILE, table.to_parquet(index=False))


def read_people(home: Home, study: str) -> pd.DataFrame | None:
    """id, group and identity (text) of a study's rows in manifest order; None for a study of an earlier version, whose
    predictions themselves hold the salted hashes."""
    path = home.work(study) / FILE
    return pd.read_parquet(path) if path.is_file() else None


def identities(home: Home, study: str, ids: NDArray[np.str_], groups: NDArray[np.str_]) -> NDArray[np.str_]:
    """(n,) who the rows `ids` of a study's predictions are of; groups (n,): as they stand in the predictions.

    Raises RequestError where the home no longer knows: nobody may then be taken for a stranger.
    """
    table = read_people(home, study)
    of_row = {} if table is None else dict(zip(table["id"], table["identity"], strict=True))
    if table is None and not any(NUMBER.fullmatch(group) for group in groups.tolist()):
        return groups
    if not set(ids.tolist()) <= set(of_row):
        raise RequestError(
            f"whose images study {study!r} was trained on is no longer known: {home.work(study) / FILE} is gone or of "
            f"other data. Bring it back: harness study run {study}   (nothing is trained again)"
        )
    return np.array([of_row[name] for name in ids.tolist()], dtype=np.str_)
