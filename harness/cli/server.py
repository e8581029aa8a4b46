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
from typing import Annotated

import typer

from harness.cli.output import claim_stdout, show
from harness.errors import HarnessError, RequestError
from harness.home import Home

HOST = "127.0.0.1"
START_SECONDS = 90.0


def ui(
    port: Annotated[int, typer.Option("--port", metavar="N", min=1, max=65535, help="Port on 127.0.0.1.")] = 5000,
) -> None:
    """Open MLflow's pages: the trials of a study as a table to sort and compare. Ctrl-C ends it."""
    claim_stdout()
    from harness.home import open_home

    home = open_home()
    _require_free(port)
    server = subprocess.Popen(_command(home, port), env=_environment(), stdin=subprocess.DEVNULL)
    try:
        _wait_until_up(server, port)
        show(f"MLflow is at http://{HOST}:{port}   (only from this machine; Ctrl-C ends it)")
        name = _newest_study(home)
        page = _experiment_page(port, name) if name else None
        if page:
            show(f"study {name}: {page}")
        elif name is None:
            show("No study has run here yet. Type: harness study run lr_aug_sweep")
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
    ]


def _environment() -> dict[str, str]:
    return {
        **os.environ,
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "DO_NOT_TRACK": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }


def _wait_until_up(server: "subprocess.Popen[bytes]", port: int) -> None:
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end:
        if server.poll() is not None:
            raise HarnessError(f"MLflow's server did not start (code {server.returncode}); its messages are above.")
        try:
            with urllib.request.urlopen(f"http://{HOST}:{port}/health", timeout=2):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    raise HarnessError(f"MLflow's server did not answer within {START_SECONDS:.0f} s.")


def _newest_study(home: Home) -> str | None:
    from harness.ledger import list_studies

    studies = list_studies(home)
    return max(studies, key=lambda study: study.finished or study.started).name if studies else None


def _experiment_page(port: int, name: str) -> str | None:
    """The page of a study's runs, asked from the server itself."""
    query = urllib.parse.urlencode({"experiment_name": name})
    url = f"http://{HOST}:{port}/api/2.0/mlflow/experiments/get-by-name?{query}"
    try:
        with urllib.request.urlopen(url, timeout=30) as answer:
            number = json.load(answer)["experiment"]["experiment_id"]
    except (urllib.error.URLError, OSError, KeyError, ValueError):
        return None
    return f"http://{HOST}:{port}/#/experiments/{number}/runs"


def _stop(server: "subprocess.Popen[bytes]") -> None:
    if server.poll() is None:
        server.terminate()
        try:
            server.wait(timeout=10)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()
