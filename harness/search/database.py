"""Optuna's trials in a database server, for clusters: HARNESS_STORAGE=postgresql+psycopg://USER@HOST/NAME.

A server may be restarted while a study runs, and connections break. Every call is made again until the server answers,
with pauses that grow; trials train on meanwhile, up to their next event.
"""

import time
from collections.abc import Callable
from functools import wraps
from inspect import isfunction
from typing import Any

import optuna
from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, InterfaceError, OperationalError, SQLAlchemyError

from harness.errors import HarnessError, RequestError

OPEN_SECONDS = 20.0
"""how long the start of a study waits for the server"""
WAIT_SECONDS = 900.0
"""how long a study that runs does"""
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 15.0


class Database(optuna.storages.RDBStorage):
    """Optuna's own storage, patient: see `_patient` below, through which each of its methods goes."""


def open_database(url: str) -> Database:
    """Raises RequestError where the URL or its driver is wrong, HarnessError where no server answers.

    Several programs that open a new database at once get in each other's way while the tables are made: all but one
    fail, and find them at the next try.
    """
    try:
        parts = make_url(url)
        server = parts.get_backend_name() in ("postgresql", "mysql", "mariadb")
        settings: dict[str, Any] = {"pool_pre_ping": True}  # a connection that broke while idle is replaced
        settings |= {"connect_args": {"connect_timeout": 10}} if server else {}
        end, pause = time.monotonic() + OPEN_SECONDS, FIRST_PAUSE
        while True:
            try:
                return Database(url, engine_kwargs=settings)
            except (SQLAlchemyError, StorageInternalError) as error:
                if isinstance(error, ArgumentError) or time.monotonic() > end:
                    raise
                pause = _rest(pause)
    except ArgumentError as error:
        raise RequestError(
            "HARNESS_STORAGE is no database URL. Write postgresql+psycopg://USER:PASSWORD@HOST:5432/optuna, or unset "
            "it to keep the trials in the home's journal."
        ) from error
    except ImportError as error:
        raise RequestError(
            f"HARNESS_STORAGE={_shown(url)}: the database's driver is missing. Type: pip install 'harness[postgres]'"
        ) from error
    except (SQLAlchemyError, StorageInternalError) as error:
        raise HarnessError(
            f"HARNESS_STORAGE={_shown(url)}: the database does not answer: {_line(error)} Start it, or mend the URL."
        ) from error


def _patient(method: Callable[..., Any]) -> Callable[..., Any]:
    """The method, made again while the server is away.

    Made twice it does no harm: what the first time did before the connection broke is found done (a trial that has
    ended), or is what a resumed study finds begun (a new trial).
    """

    @wraps(method)
    def call(self: Database, *arguments: Any, **named: Any) -> Any:
        end, pause, again = time.monotonic() + WAIT_SECONDS, FIRST_PAUSE, False
        while True:
            try:
                return method(self, *arguments, **named)
            except UpdateFinishedTrialError:
                if again:
                    return True
                raise
            except (StorageInternalError, DBAPIError) as error:
                if not _is_away(error):
                    raise
                if time.monotonic() > end:
                    raise HarnessError(
                        f"the database of HARNESS_STORAGE={_shown(self.url)} has not answered for "
                        f"{WAIT_SECONDS / 60:.0f} minutes: {_line(error)} Start it and go on with: "
                        "harness study resume NAME"
                    ) from error
                pause, again = _rest(pause), True

    return call


WHOLE = ("_create_new_trial", "_set_trial_param", "_get_trials")
"""private methods that Optuna's cache calls; each, like the public ones, is one transaction, made again whole"""
for _name, _method in vars(optuna.storages.RDBStorage).items():
    if isfunction(_method) and (not _name.startswith("_") or _name in WHOLE):
        setattr(Database, _name, _patient(_method))


def _is_away(error: Exception) -> bool:
    """Whether the connection is what failed, and not what was asked."""
    cause = error if isinstance(error, DBAPIError) else error.__cause__
    return isinstance(cause, OperationalError | InterfaceError) or (
        isinstance(cause, DBAPIError) and cause.connection_invalidated
    )


def _rest(pause: float) -> float:
    time.sleep(pause)
    return min(2 * pause, LONGEST_PAUSE)


def _shown(url: str) -> str:
    return make_url(url).render_as_string(hide_password=True)


def _line(error: BaseException) -> str:
    return (str(error.__cause__ or error).strip().splitlines() or ["no message"])[0]
