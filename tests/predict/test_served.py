"""A registered bundle behind a real `mlflow models serve`, asked over loopback; and what hostile requests come to."""

import base64
import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from every_method import build_every
from PIL import Image

from harness.ensemble.bundle import load_bundle
from harness.ensemble.results import register
from harness.errors import RequestError, Unreadable
from harness.predict.outputs import as_document
from harness.predict.predict import Asked, predict
from harness.predict.serving import LARGEST_FILE, Answerer, as_bytes
from harness.store.home import Home

START_SECONDS = 180.0


@pytest.fixture(scope="module")
def bundle(small_study) -> Path:
    return build_every(small_study.home, [small_study.record], ["stacking"], 2, 0, "cpu")[0].bundle


@pytest.fixture(scope="module")
def images(small_study) -> list[Path]:
    return sorted(small_study.images.rglob("*.png"))[:2] + sorted(small_study.images.rglob("*.dcm"))[:2]


def bomb() -> bytes:
    """A PNG of a few kilobytes that says it is 50,000 x 50,000 pixels large."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    header = (50_000).to_bytes(4, "big") * 2 + b"\x08\x00\x00\x00\x00"
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(bytes(2**20)))
        + chunk(b"IEND", b"")
    )


HOSTILE = {
    "text": b"this is no image",
    "empty": b"",
    "cut off": b"\x89PNG\r\n\x1a\n" + bytes(20),
    "bomb": bomb(),
    "pickle": b"\x80\x04\x95\x10\x00\x00\x00\x00\x00\x00\x00\x8c\x02os\x94\x8c\x06system\x94\x93\x94.",
    "dicom without a picture": bytes(128) + b"DICM" + bytes(64),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_row_that_is_no_image_is_named(bundle, images, kind) -> None:
    answerer = Answerer(load_bundle(bundle), "cpu")
    with pytest.raises(RequestError, match=r"^row 1 is no image that can be read: \S"):
        answerer.answer([images[0].read_bytes(), HOSTILE[kind]])
    assert len(answerer.answer([images[0].read_bytes()])) == 1


def test_bytes_base64_and_data_addresses_are_one_image(bundle, images) -> None:
    data = images[0].read_bytes()
    text = base64.b64encode(data)
    forms = [data, text, text.decode(), b"data:image/png;base64," + text, base64.encodebytes(data)]
    answerer = Answerer(load_bundle(bundle), "cpu")
    answers = [answerer.answer([form]) for form in forms]
    assert all(answer == answers[0] for answer in answers)
    for wrong in (None, 1.5, "", "no base64!", ["a"]):
        with pytest.raises((Unreadable, RequestError)):
            Answerer(load_bundle(bundle), "cpu").answer([as_bytes(wrong)])


def test_a_file_over_the_limit_is_refused_before_it_is_decoded() -> None:
    with pytest.raises(Unreadable, match=r"257 MB, more than the 256 MB"):
        as_bytes(bytes(LARGEST_FILE + 2**20))


def test_many_rows_in_parts_are_the_same_numbers(bundle, images, monkeypatch) -> None:
    rows = [image.read_bytes() for image in images] * 3
    whole = Answerer(load_bundle(bundle), "cpu").answer(rows)
    monkeypatch.setattr("harness.predict.serving.BATCH_BYTES", 2 * 32 * 32)  # two images at a time
    parts = Answerer(load_bundle(bundle), "cpu").answer(rows)
    p, q = (np.array([list(row["probabilities"].values()) for row in found]) for found in (whole, parts))
    np.testing.assert_allclose(p, q, atol=1e-6)
    assert Answerer(load_bundle(bundle), "cpu").answer([]) == []


class Server:
    def __init__(self, address: str) -> None:
        self.address = address

    def ask(self, body: bytes | dict[str, Any], kind: str = "application/json") -> tuple[int, Any]:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.address}/invocations", data, {"Content-Type": kind})
        try:
            with urllib.request.urlopen(request, timeout=120) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def ask_images(self, files: list[bytes]) -> tuple[int, Any]:
        return self.ask({"dataframe_records": [{"image": base64.b64encode(file).decode()} for file in files]})


@pytest.fixture(scope="module")
def server(bundle, small_study, tmp_path_factory):
    """MLflow's own program, as docs/bundles.md says to start it, in a folder that has nothing to do with the home."""
    home = Home(tmp_path_factory.mktemp("registry") / "home")
    shutil.copytree(small_study.home.root, home.root)
    registered = register(home, home.root / bundle.relative_to(small_study.home.root))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    folder = tmp_path_factory.mktemp("server")
    command = [sys.executable, "-m", "mlflow", "models", "serve", "--env-manager", "local"]
    command += ["-m", f"models:/{registered.name}/{registered.version}", "-h", "127.0.0.1", "-p", str(port)]
    here = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # MLflow starts uvicorn by name
    settings = {"MLFLOW_TRACKING_URI": home.mlflow_uri, "MLFLOW_DISABLE_TELEMETRY": "true", "PATH": here}
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            command, cwd=folder, env={**os.environ, **settings}, stdout=log, stderr=log, start_new_session=True
        )
    try:
        address, end = f"http://127.0.0.1:{port}", time.monotonic() + START_SECONDS
        while True:
            try:
                urllib.request.urlopen(f"{address}/ping", timeout=5).close()
                break
            except OSError:
                assert process.poll() is None and time.monotonic() < end, (folder / "log").read_text()
                time.sleep(0.3)
        yield Server(address)
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(timeout=30)


def test_mlflow_serves_it_over_http_and_survives_hostile_requests(server, bundle, images) -> None:
    """One test, because the server takes a while to start."""
    expected = predict(bundle, images, "cpu")
    status, found = server.ask_images([image.read_bytes() for image in images])
    assert status == 200
    said = [[row["probabilities"][name] for name in expected.classes] for row in found["predictions"]]
    assert {image.suffix for image in images} == {".png", ".dcm"}
    assert (np.array(said) == expected.probabilities).all()
    document = [{key: value for key, value in row.items() if key != "file"} for row in as_document(expected)]
    assert found["predictions"] == document and document[0]["decision"] in expected.classes
    asked = {"raw": True, "tta": 1, "decide": "sensitivity=0.95"}
    records = [{"image": base64.b64encode(image.read_bytes()).decode()} for image in images]
    status, found_raw = server.ask({"dataframe_records": records, "params": asked})
    raw = as_document(predict(bundle, images, "cpu", asked=Asked(**asked)))
    assert status == 200 and [row["probabilities"] for row in found_raw["predictions"]] == [
        row["probabilities"] for row in raw
    ]
    assert found_raw["predictions"][0]["decision"] == raw[0]["decision"]
    for params, word in (({"decide": "coin"}, "coin"), ({"tta": 999}, "--tta 999")):
        status, text = server.ask({"dataframe_records": records, "params": params})
        assert status == 400 and word in text

    good = images[0].read_bytes()
    for name, data in HOSTILE.items():
        status, text = server.ask_images([good, data])
        assert status == 400 and "row 1 is no image" in text, (name, status, text)
    buffer = io.BytesIO()
    Image.new("L", (8, 8)).save(buffer, "PNG")
    huge = buffer.getvalue() + bytes(40 * 2**20)  # 53 MB of base64 behind a picture
    assert server.ask_images([huge])[0] in (200, 400)
    for body in (
        b"",
        b"[1, 2]",
        b"{",
        b'{"dataframe_records": 3}',
        b'{"dataframe_records": [{"picture": ""}]}',
        b"\xff\xfe",
    ):
        status, text = server.ask(body)
        assert status == 400, (body, status, text)
    assert server.ask(b"x", "text/html")[0] == 415
    assert server.ask_images([image.read_bytes() for image in images]) == (200, found)
