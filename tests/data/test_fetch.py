"""Downloads from a real server that misbehaves in every way that servers do."""

import hashlib
import io
import socket
import zipfile
from pathlib import Path

import numpy as np
import pytest
from file_server import Files, serving

from harness.data.download import MEDMNIST, TRIES, Fetched, Source, fetch, find_source
from harness.errors import HarnessError, RequestError
from harness.store.home import Home, lock

BODY = np.random.default_rng(0).integers(0, 256, 1_500_000, dtype=np.uint8).tobytes()
SHA = f"sha256:{hashlib.sha256(BODY).hexdigest()}"
MD5 = f"md5:{hashlib.md5(BODY).hexdigest()}"


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def get(files: Files, to: Path, checksum: str = SHA, name: str = "set.npz", wait: float = 0.0) -> Fetched:
    home = Home(to.parent / "home")
    return fetch(find_source(f"{files.url}/{name}", checksum), to, home, lambda what, done, total: None, wait)


def left(to: Path) -> list[str]:
    return sorted(path.name for path in to.iterdir())


def test_a_file_comes_whole_and_leaves_nothing_else(tmp_path: Path) -> None:
    steps: list[tuple[str, int, int]] = []
    with serving(Files({"/a%20b.npz": BODY})) as files:
        source = find_source(f"{files.url}/a%20b.npz?download=1", MD5)
        done = fetch(source, tmp_path / "to", Home(tmp_path / "home"), lambda *step: steps.append(step))
    assert done == Fetched(tmp_path / "to/a b.npz", True, len(BODY), SHA.removeprefix("sha256:"))
    assert done.path.read_bytes() == BODY and left(tmp_path / "to") == ["a b.npz"]
    assert steps[-1] == ("fetch (kB)", 1500, 1500)


def test_a_cut_connection_goes_on_where_it_stopped(tmp_path: Path) -> None:
    with serving(Files({"/set.npz": BODY}, cut_after=[400_000, 1, 700_000])) as files:
        done = get(files, tmp_path / "to")
    assert files.asked == ["", "bytes=400000-", "bytes=400001-", "bytes=1100001-"]
    assert done.path.read_bytes() == BODY and done.bytes == len(BODY)


def test_a_cut_stream_of_unknown_length_goes_on_too(tmp_path: Path) -> None:
    with serving(Files({"/set.npz": BODY}, cut_after=[450_000], chunked=True)) as files:
        assert get(files, tmp_path / "to").path.read_bytes() == BODY
    assert files.asked == ["", "bytes=450000-"]


def test_a_later_command_goes_on_where_the_first_was_killed(tmp_path: Path) -> None:
    with serving(Files({"/set.npz": BODY}, cut_after=[600_000] + [0] * TRIES)) as files:
        with pytest.raises(HarnessError, match="600000 bytes are kept") as caught:
            get(files, tmp_path / "to")
        assert "\n" not in str(caught.value) and caught.value.exit_code == 1
        assert left(tmp_path / "to") == [".set.npz.part", ".set.npz.part.json"]
        done = get(files, tmp_path / "to")
    assert files.asked[-1] == "bytes=600000-" and done.bytes == len(BODY) - 600_000
    assert done.path.read_bytes() == BODY and left(tmp_path / "to") == ["set.npz"]


def test_a_download_that_only_missed_its_last_step_is_not_repeated(tmp_path: Path) -> None:
    with serving(Files({"/set.npz": BODY}, cut_after=[600_000] + [0] * TRIES)) as files:
        with pytest.raises(HarnessError):
            get(files, tmp_path / "to")
        (tmp_path / "to/.set.npz.part").write_bytes(BODY)
        done = get(files, tmp_path / "to")
    assert files.asked[-1] == f"bytes={len(BODY)}-" and done.bytes == 0 and done.path.read_bytes() == BODY


@pytest.mark.parametrize("how", ["no ranges", "another version", "no version"])
def test_what_cannot_go_on_begins_anew_and_never_mixes_versions(tmp_path: Path, how: str) -> None:
    old = bytes(len(BODY))
    files = Files({"/set.npz": old}, cut_after=[600_000] + [0] * TRIES, etag="" if how == "no version" else '"old"')
    with serving(files):
        with pytest.raises(HarnessError):
            get(files, tmp_path / "to")
        files.content["/set.npz"] = BODY
        files.ranges = how != "no ranges"
        files.etag = files.etag.replace("old", "new")
        assert get(files, tmp_path / "to").path.read_bytes() == BODY


def test_a_busy_server_is_asked_again(tmp_path: Path) -> None:
    with serving(Files({"/set.npz": BODY}, fail_first=[503, 429])) as files:
        assert get(files, tmp_path / "to").path.read_bytes() == BODY
    assert len(files.asked) == 3


def test_a_server_that_stays_broken_is_given_up(tmp_path: Path) -> None:
    broken = Files({"/set.npz": BODY}, fail_first=[500] * 50)
    with serving(broken) as files, pytest.raises(HarnessError, match="answers 500") as caught:
        get(files, tmp_path / "to")
    assert len(files.asked) == TRIES and "put it at" in str(caught.value) and "\n" not in str(caught.value)


def test_a_file_that_is_not_what_was_promised_is_thrown_away(tmp_path: Path) -> None:
    with serving(Files({"/set.npz": BODY[:-1] + b"?"})) as files, pytest.raises(HarnessError, match=SHA) as caught:
        get(files, tmp_path / "to")
    assert caught.value.exit_code == 1 and left(tmp_path / "to") == []


def test_a_short_answer_without_a_length_fails_its_checksum(tmp_path: Path) -> None:
    with serving(Files({"/set.npz": BODY}, cut_after=[1000], says_length=False)) as files:
        with pytest.raises(HarnessError, match="checksum"):
            get(files, tmp_path / "to")
        assert get(files, tmp_path / "to").path.read_bytes() == BODY


def test_a_wrong_address_is_said_at_once(tmp_path: Path) -> None:
    with serving(Files({})) as files:
        with pytest.raises(RequestError, match="404") as caught:
            get(files, tmp_path / "to", name="nowhere.npz")
        assert len(files.asked) == 1 and files.url in str(caught.value)


def test_credentials_and_tokens_are_never_repeated(tmp_path: Path) -> None:
    with serving(Files({})) as files:
        url = files.url.replace("http://", "http://me:hush@") + "/x.npz?token=secret"
        with pytest.raises(RequestError) as caught:
            fetch(find_source(url), tmp_path, Home(tmp_path / "home"), lambda what, done, total: None, 0.0)
    assert "hush" not in str(caught.value) and "secret" not in str(caught.value)


def test_without_a_connection_one_line_says_what_to_do(tmp_path: Path) -> None:
    with socket.socket() as taken:  # bound and not listening: every connection is refused
        taken.bind(("127.0.0.1", 0))
        source = Source("set.npz", f"http://127.0.0.1:{taken.getsockname()[1]}/set.npz", SHA)
        with pytest.raises(HarnessError) as caught:
            fetch(source, tmp_path / "to", Home(tmp_path / "home"), lambda what, done, total: None, 0.0)
    said = str(caught.value)
    assert caught.value.exit_code == 1 and "\n" not in said
    assert said.startswith("127.0.0.1 cannot be reached") and str(tmp_path / "to/set.npz") in said


def test_what_is_there_is_checked_and_left_alone(tmp_path: Path) -> None:
    with serving(Files({"/set.npz": BODY})) as files:
        get(files, tmp_path / "to")
        assert get(files, tmp_path / "to") == Fetched(tmp_path / "to/set.npz", False, 0, "")
        assert len(files.asked) == 1
        (tmp_path / "to/set.npz").write_bytes(b"mine")
        with pytest.raises(RequestError, match="not the published file"):
            get(files, tmp_path / "to")
    assert (tmp_path / "to/set.npz").read_bytes() == b"mine"


def test_an_archive_is_unpacked_once_and_not_kept(tmp_path: Path) -> None:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        archive.writestr("images/a.png", b"a" * 1000)
        archive.writestr("labels.csv", "file,label")
    with serving(Files({"/set.zip": made.getvalue()})) as files:
        done = get(files, tmp_path / "to", checksum="", name="set.zip")
        assert done.path == tmp_path / "to/set" and (done.path / "images/a.png").read_bytes() == b"a" * 1000
        assert left(tmp_path / "to") == ["set"]
        assert get(files, tmp_path / "to", checksum="", name="set.zip").new is False
        assert len(files.asked) == 1


def test_two_downloads_of_one_file_do_not_mix(tmp_path: Path) -> None:
    busy = hashlib.blake2b(str((tmp_path / "to/set.npz").absolute()).encode(), digest_size=8).hexdigest()
    home = Home(tmp_path / "home")
    with (
        lock(home.work_root / "fetch" / f"{busy}.lock", "test"),
        pytest.raises(HarnessError, match="in use by another process"),
    ):
        get(Files({}, url="http://127.0.0.1:1"), tmp_path / "to")


def test_names_are_known_with_their_published_checksums() -> None:
    assert len(MEDMNIST) == 12 and all(len(digits) == 32 for digits in MEDMNIST.values())
    source = find_source("retinamnist")
    assert source.name == "retinamnist.npz" and source.checksum == "md5:bd4c0672f1bba3e3a89f0e4e876791e4"
    path = Path(__file__).parents[2].parent / "shared/data/medmnist/retinamnist.npz"
    if path.exists():
        assert f"md5:{hashlib.md5(path.read_bytes()).hexdigest()}" == source.checksum


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("retinamist", "Did you mean retinamnist"),
        ("ftp://host/file.zip", "https://"),
        ("https://", "https://"),
        ("https://host:port/x.zip", "https://"),
        ("https://host/folder/", "names no file"),
        ("https://host/..", "names no file"),
    ],
)
def test_what_is_neither_a_name_nor_an_address_is_refused(what: str, said: str) -> None:
    with pytest.raises(RequestError, match=said):
        find_source(what)


def test_a_name_in_an_address_never_leaves_the_folder() -> None:
    assert find_source("https://host/a/..%2F..%2Fetc%2Fset.zip").name == "set.zip"
    assert find_source("https://host/..%5C..%5Cset.zip").name == "set.zip"
    assert find_source("https://host/%2e%2ebashrc").name == "bashrc"


@pytest.mark.parametrize("checksum", ["md5:12", "crc:12345678", "sha256", "md5:" + "g" * 32])
def test_a_checksum_that_is_none_is_refused(checksum: str) -> None:
    with pytest.raises(RequestError, match="--checksum"):
        find_source("https://host/set.zip", checksum)
    with pytest.raises(RequestError, match="--checksum"):
        find_source("breastmnist", checksum)
