"""A home can be moved: bring the places of artifacts in its own SQLite store up to where the home is now.

MLflow writes absolute places of artifacts into its store. Only the SQLite file in the home is mended; a store that
MLFLOW_TRACKING_URI names belongs to others. Knows no mlflow, so that it costs nothing where nothing has moved.
"""

import sqlite3
from pathlib import Path
from urllib.parse import unquote, urlsplit

from harness.store.home import Home

DEFAULT_EXPERIMENT = 0
"""MLflow makes it by itself, with its artifacts in whatever folder the program was started in"""
PLACES = (
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)
"""what lies below an experiment's folder; all but the first are of registered models, which older stores lack"""


def relocate(home: Home) -> list[str]:
    """Names of the experiments whose artifacts are now looked for under this home.

    The caller holds the store's lock. An experiment is ours when its artifacts lay in a folder `artifacts/NAME`, and
    this home has that folder, or the old place is gone. All rows change in one transaction.
    """
    store = home.root / "mlflow.db"
    if home.mlflow_uri != f"sqlite:///{store}" or not store.exists():
        return []
    connection = sqlite3.connect(store, timeout=60, isolation_level=None)
    try:
        tables = _tables(connection)
        if not {"experiments", "runs"} <= tables or not _moved(connection, home):
            return []
        connection.execute("BEGIN IMMEDIATE")
        moved = _moved(connection, home)
        for number, _, old, new in moved:
            connection.execute(
                "UPDATE experiments SET artifact_location = ? WHERE experiment_id = ?",
                (new, number),
            )
            for table, column in PLACES:
                if table in tables:
                    connection.execute(
                        f"UPDATE {table} SET {column} = ? || substr({column}, ?) WHERE substr({column}, 1, ?) = ?",
                        (new, len(old) + 1, len(old) + 1, f"{old}/"),
                    )
        connection.execute("COMMIT")
        return [name for _, name, _, _ in moved]
    finally:
        connection.close()  # what was not committed is undone


def _tables(connection: sqlite3.Connection) -> set[str]:
    return {str(name) for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}


def _moved(connection: sqlite3.Connection, home: Home) -> list[tuple[int, str, str, str]]:
    """(id, name, old location, new location) of each experiment that this home should hold and that lies elsewhere."""
    rows = connection.execute("SELECT experiment_id, name, artifact_location FROM experiments").fetchall()
    found = []
    for number, name, location in rows:
        old = _local(location)
        if old is None:
            continue
        if number == DEFAULT_EXPERIMENT:
            here = home.artifacts / str(DEFAULT_EXPERIMENT)
            ours = not old.exists()
        else:
            here = home.artifacts / old.name
            ours = old.parent.name == home.artifacts.name and (here.exists() or not old.exists())
        if ours and old.resolve() != here.resolve():  # reached by a link, a home has not moved
            found.append((int(number), str(name), str(location), here.as_uri()))
    return found


def _local(location: str | None) -> Path | None:
    """The folder of a file URI or a plain path; None for anything else (s3://, mlflow-artifacts:/, ...)."""
    if not location:
        return None
    if location.startswith("/"):
        return Path(location)
    parts = urlsplit(location)
    return Path(unquote(parts.path)) if parts.scheme == "file" and not parts.netloc else None
