"""harness ui: MLflow's own pages over this home, on this machine only.

MLflow runs as a program of its own; nothing of it is imported here.
"""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from typing import TYPE_CHECKING, Annotated, Any

import typer

from harness.cli.output import claim_stdout, show
from harness.errors import HarnessError, RequestError
from harness.store.home import Home

if TYPE_CHECKING:
    from harness.store.records import StudyRecord

HOST = "127.0.0.1"
START_SECONDS = 180.0


def ui(
    port: Annotated[int, typer.Option("--port", metavar="N", min=1, max=65535, help="Port on 127.0.0.1.")] = 5000,
) -> None:
    """Open MLflow's pages: the trials of a study as a table to sort and compare. Ctrl-C ends it."""
    claim_stdout()
    from harness.store.home import open_home
    from harness.track.mlflow_store import relocate, store_lock

    home = open_home()
    if home.mlflow_uri.startswith(("http://", "https://")):
        raise RequestError(
            "MLFLOW_TRACKING_URI names an MLflow server, which shows its pages itself: open that address. "
            "For the store in this home, unset MLFLOW_TRACKING_URI."
        )
    _require_free(port)
    address = f"http://{HOST}:{port}"
    with store_lock(home):  # the server makes the tables of a new store
        relocate(home)
        server = subprocess.Popen(_command(home, port), env=_environment(), stdin=subprocess.DEVNULL)
        try:
            _wait_until_up(server, address)
        except BaseException:
            _stop(server)
            raise
    try:
        show(f"MLflow is at {address}   (only from this machine; Ctrl-C ends it)")
        _show_pages(home, address)
        code = server.wait()
        if code != 0:
            raise HarnessError(f"MLflow's server ended with code {code}; its messages are above.")
    finally:
        _stop(server)


def _require_free(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise RequestError(
                f"port {port} on {HOST} cannot be used: {error.strerror}. Type: harness ui --port {_free_port()}"
            ) from error


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def _command(home: Home, port: int) -> list[str]:
    return [
        *(sys.executable, "-m", "mlflow", "server"),
        *("--backend-store-uri", home.mlflow_uri),
        *("--default-artifact-root", str(home.artifacts)),
        *("--host", HOST, "--port", str(port), "--workers", "1"),
        *("--uvicorn-opts", "--log-level warning"),  # else a line for every click
    ]


def _environment() -> dict[str, str]:
    return {
        **os.environ,
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "DO_NOT_TRACK": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_LOGGING_LEVEL": "WARNING",
        "PYTHONWARNINGS": "ignore",
    }


def _wait_until_up(server: "subprocess.Popen[bytes]", address: str) -> None:
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end:
        if server.poll() is not None:
            raise HarnessError(f"MLflow's server did not start (code {server.returncode}); its messages are above.")
        try:
            with urllib.request.urlopen(f"{address}/health", timeout=2):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    raise HarnessError(f"MLflow's server did not answer within {START_SECONDS:.0f} s.")


def _show_pages(home: Home, address: str) -> None:
    """Name the pages of the newest study: its trials as an ablation table, its ensembles once there are any."""
    from harness.store.records import list_studies
    from harness.track.mlflow_store import page

    every = sorted(list_studies(home), key=lambda study: study.finished or study.started)
    studies = [study for study in every if not study.ablates]
    if not studies:
        show("No study has run here yet. Type: harness study run lr_aug_sweep")
        return
    numbers = {study.name: _give_views(address, study) for study in studies}
    newest = studies[-1].name
    number = numbers[newest]
    if number is None:
        return
    show(f"  study {newest}: {page(address, number, 'trials')}")
    if any(home.bundles(newest).glob("*/DONE")):
        show(f"  its ensembles: {page(address, number, 'ensembles')}")
        show(f"  registered models: {address}/#/models")
    if any(study.ablates == newest for study in every):
        show(f"  its ablations: {page(address, number, 'ablations')}")


def _give_views(address: str, study: "StudyRecord") -> str | None:
    """Put the views of a study on its experiment's page. Returns the experiment's id, None where there is no such."""
    from harness.config.space import find_ranges
    from harness.store.records import is_optimistic
    from harness.track.mlflow_store import study_tags

    metric, varied = study.tree["search"]["metric"], list(find_ranges(study.tree))
    query = urllib.parse.urlencode({"experiment_name": study.name})
    try:
        found = _ask(f"{address}/api/2.0/mlflow/experiments/get-by-name?{query}")
        number = str(found["experiment"]["experiment_id"])
        known = {tag["key"]: tag["value"] for tag in found["experiment"].get("tags", [])}
        for key, value in study_tags(metric, varied, is_optimistic(study.tree)).items():
            if known.get(key) != value:
                body = {"experiment_id": number, "key": key, "value": value}
                _ask(f"{address}/api/2.0/mlflow/experiments/set-experiment-tag", body)
    except (urllib.error.URLError, OSError, KeyError, ValueError):
        return None
    return number


def _ask(url: str, body: dict[str, str] | None = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)


def _stop(server: "subprocess.Popen[bytes]") -> None:
    if server.poll() is None:
        server.terminate()
        try:
            server.wait(timeout=10)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()
