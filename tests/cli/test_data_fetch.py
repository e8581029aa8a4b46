"""harness data fetch, by the real program."""

import hashlib
import json
import shutil
from pathlib import Path

import pytest
from cli_program import Place
from file_server import Files, serving

HERE = {"NO_PROXY": "127.0.0.1"}


def test_a_file_is_fetched_resumed_and_left_alone(place: Place) -> None:
    with serving(Files({"/set.npz": b"x" * 10_000}, cut_after=[4000])) as files:
        done = place.harness("data", "fetch", f"{files.url}/set.npz", "--json", **HERE)
        assert files.asked == ["", "bytes=4000-"]
        assert place.harness("data", "fetch", f"{files.url}/set.npz", **HERE).stdout.endswith(
            "(it was there already)\n"
        )
    assert done.returncode == 0, done.stderr
    digest = hashlib.sha256(b"x" * 10_000).hexdigest()
    assert json.loads(done.stdout) == {"path": "data/set.npz", "new": True, "bytes": 10_000, "sha256": digest}
    assert (place.cwd / "data/set.npz").read_bytes() == b"x" * 10_000


def test_offline_is_one_line_and_exit_code_1(place: Place) -> None:
    with serving(Files({})) as files:
        url = files.url
    done = place.harness("data", "fetch", f"{url}/set.npz", "--quiet", **HERE)
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.count("\n") == 1 and "cannot be reached" in done.stderr


def test_a_set_by_name_lies_where_its_study_looks(place: Place) -> None:
    kept = Path(__file__).parents[2].parent / "shared/data/medmnist/retinamnist.npz"
    if not kept.exists():
        pytest.skip(f"no {kept}")
    (place.cwd / "data/medmnist").mkdir(parents=True)
    shutil.copy(kept, place.cwd / "data/medmnist")
    done = place.harness("data", "fetch", "retinamnist")
    assert done.returncode == 0 and done.stdout == "data/medmnist/retinamnist.npz (it was there already)\n"
    assert place.harness("data", "show", "retinamnist").returncode == 0


def test_wrong_requests_are_exit_code_2(place: Place) -> None:
    with serving(Files({})) as files:
        done = place.harness("data", "fetch", f"{files.url}/set.npz", **HERE)
        assert done.returncode == 2 and "404" in done.stderr
    assert place.harness("data", "fetch", "brestmnist").returncode == 2
    done = place.harness("data", "fetch", "breastmnist", "--to", place.study)
    assert done.returncode == 2 and "--to" in done.stderr
