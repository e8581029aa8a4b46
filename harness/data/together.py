"""Copies of one picture become one group, so that no fold is scored on what another one has trained on.

For data sets whose patients are not known, or not all: images that are equal, almost equal or crops of one picture
(same_picture.py) are taken for one patient, and groups that share such a picture for one group. All rows are compared,
at one size for every data.decode, and no label is looked at. What is found is kept, once per store of those pictures.
"""

import numpy as np
import pandas as pd

from harness.data.copies import clusters
from harness.data.same_picture import same_picture, sizes_of
from harness.images.pixels import Pixels
from harness.numbering import by_appearance, first_rows, numbered
from harness.store.files import read_json, write_json
from harness.store.home import Home

VERSION = 2
"""part of the name of what is kept: raise it whenever other copies are found"""


def group_copies(rows: pd.DataFrame, pixels: Pixels, store: str, home: Home) -> pd.DataFrame:
    """The manifest's rows, their column `group` joined where groups share a picture. pixels, store: what the files
    show (prepare.py), and the name of the store that has it."""
    path = home.work_root / "copies" / f"{store}-{VERSION}.json"
    if not path.is_file():
        found = same_picture(pixels, sizes_of(rows), np.arange(len(rows), dtype=np.int64))
        write_json(path, np.concatenate([found.equal, found.near, found.possible, found.crops]).tolist())
    of_row = rows["group"].to_numpy(dtype=np.str_)
    group = by_appearance(of_row)
    names = of_row[first_rows(group)]
    pairs = np.array(read_json(path), dtype=np.int64).reshape(-1, 2)
    joined = names.copy()
    for cluster in clusters(group[pairs]):
        joined[cluster] = names[cluster[0]]
    return rows.assign(group=numbered(joined[group]))
