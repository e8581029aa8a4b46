"""harness ui: MLflow's own server over a home, its answers and the views that the printed addresses name."""

import json
import os
import shutil
import signal
import socket
import subprocess
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest
from cli_program import Place, start_program

from harness.store.home import Home
from harness.store.records import read_trials

Said = tuple[Place, dict[str, subprocess.CompletedProcess[str]]]


@pytest.fixture(scope="module")
def served(finished: Said, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, list[str], Home]]:
    """A copy of a finished home in another place, with the server over it: its address, the lines said, the home."""
    place, _ = finished
    home = Home(tmp_path_factory.mktemp("moved") / "home")
    shutil.copytree(place.home, home.root)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    server = start_program(home.root, place.cwd, "ui", "--port", port, **pipes)
    try:
        assert server.stdout is not None
        lines = [server.stdout.readline().rstrip("\n") for _ in range(4)]
        yield f"http://127.0.0.1:{port}", lines, home
    finally:
        os.killpg(server.pid, signal.SIGINT)
        assert server.wait(timeout=60) in (0, 130)


def fetch(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=60) as answer:
        return bytes(answer.read())


def experiment(address: str) -> dict[str, Any]:
    found = json.loads(fetch(f"{address}/api/2.0/mlflow/experiments/get-by-name?experiment_name=tiny"))
    return dict(found["experiment"])


def view_of(tags: dict[str, str], key: str) -> dict[str, Any]:
    return dict(json.loads(json.loads(tags[f"mlflow.sharedViewState.{key}"])["state"]))


def test_the_addresses_name_views_that_exist(served: tuple[str, list[str], Home]) -> None:
    address, lines, _ = served
    found = experiment(address)
    tags = {tag["key"]: tag["value"] for tag in found["tags"]}
    *views, models = lines[1:]
    assert models == f"  registered models: {address}/#/models"
    for line, start, key in zip(views, ("  study tiny: ", "  its ensembles: "), ("trials", "ensembles"), strict=True):
        number = found["experiment_id"]
        assert line.startswith(f"{start}{address}/#/experiments/{number}/runs?viewStateShareKey={key}&")
        view = view_of(tags, key)
        assert view["orderByKey"] == {"trials": "metrics.`cv/auroc`", "ensembles": "metrics.`oof/auroc`"}[key]
    assert "params.`optim.lr`" in view_of(tags, "trials")["selectedColumns"]


def test_a_copied_home_serves_its_own_artifacts(served: tuple[str, list[str], Home]) -> None:
    address, _, home = served
    assert experiment(address)["artifact_location"] == home.study_artifacts("tiny").as_uri()
    for trial in read_trials(home, "tiny"):
        spec = home.run_artifacts("tiny", trial.run_id) / "spec.yaml"
        spec.write_text(spec.read_text() + "# in the copy\n")
        answer = fetch(f"{address}/get-artifact?path=spec.yaml&run_uuid={trial.run_id}")
        assert answer == spec.read_bytes()


def test_a_server_elsewhere_is_named_as_such(place: Place) -> None:
    done = place.harness("ui", MLFLOW_TRACKING_URI="http://127.0.0.1:9")
    assert done.returncode == 2 and "unset MLFLOW_TRACKING_URI" in done.stderr
