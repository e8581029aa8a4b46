"""What programs hand over in place of a command's words: a home, a study, settings.

Places and settings as plain values; each becomes what the stages take.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from harness.config.load import Study
    from harness.store.home import Home

Place = str | Path | None
"""the home: a folder, or where it is None what HARNESS_HOME or the working directory say"""
StudyFile = str | Path | Mapping[str, Any]
"""a study's name, the path of its YAML file, or the same keys as a dict, with a `name`"""
Settings = Mapping[str, Any] | None
"""keys to set, by dotted name: {"optim.lr": 1e-3, "search.trials": 4}"""


def home_of(home: Place) -> Home:
    from harness.store.home import Home, open_home

    return open_home() if home is None else Home(Path(home).absolute())


def study_of(study: StudyFile, settings: Settings, name: str | None = None) -> Study:
    from harness.config.load import check_study, load_study, set_keys

    if not isinstance(study, Mapping):
        return load_study(str(study), assignments(settings), name)
    tree = set_keys({**study, **({"name": name} if name else {})}, assignments(settings))
    return check_study(tree, f"study {tree.get('name', '')}".rstrip())


def assignments(settings: Settings) -> list[str]:
    return [f"{key}={json.dumps(value)}" for key, value in (settings or {}).items()]
