"""Bundles that somebody made to harm: each is refused, in words that are safe to print, without running anything in it
and without taking memory for what it only claims to hold.

Whoever writes a bundle writes its hashes as well, so here they are all right (spoiled_bundles.py).
"""

import json
import os
import pickle
import resource
import shutil
import stat
import struct
import subprocess
import sys
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from spoiled_bundles import bomb, checkpoint, npy, npz, put, rewrite, with_header, with_meta

from harness.ensemble import bundle_files as about_module
from harness.ensemble.bundle import load_bundle
from harness.errors import HarnessError, RequestError
from harness.store.arrays import pack, unpack

MEMORY = 64 * 2**20
"""what a refusal may take; the bundle itself is 3 MB"""


@pytest.fixture
def bundle(built, tmp_path) -> Path:
    """A copy, to spoil."""
    return shutil.copytree(built["stacking"].bundle, tmp_path / "bundle")


@pytest.fixture
def boosted(built, tmp_path) -> Path:
    return shutil.copytree(built["boosting"].bundle, tmp_path / "boosted")


class Dangerous:
    """Unpickled, it writes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def refused(folder: Path, match: str) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(RequestError, match=match) as caught:
            load_bundle(folder)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < MEMORY
    said = str(caught.value)
    assert len(said) < 1500 and "\x1b" not in said and "\n" not in said


# --- code


@pytest.mark.parametrize("form", ["object array", "plain pickle", "torch file", "compressed object array"])
def test_no_pickle_is_opened(bundle, tmp_path, form) -> None:
    trap = Dangerous(tmp_path / "executed")
    if form == "plain pickle":
        content = pickle.dumps(trap)
    elif form == "torch file":
        torch.save(trap, tmp_path / "a.pt")
        content = (tmp_path / "a.pt").read_bytes()
    else:
        save = np.savez if form == "object array" else np.savez_compressed
        save(tmp_path / "a.npz", weights=np.array([trap], dtype=object), bias=np.zeros(2), strength=np.array(1.0))
        content = (tmp_path / "a.npz").read_bytes()
    for name in ("stacking.npz", checkpoint(bundle)):
        spoiled = shutil.copytree(bundle, tmp_path / f"spoiled-{name[:8].replace('/', '-')}")
        put(spoiled, name, content)
        refused(spoiled, "Build the ensemble again")
    assert not (tmp_path / "executed").exists()
    pickle.loads(pickle.dumps(trap)).close()
    assert (tmp_path / "executed").exists()  # the trap does work


@pytest.mark.parametrize("name", ["model.pkl", "heads.joblib", "weights.pt", "run.py"])
def test_a_method_has_no_files_of_another_kind(bundle, tmp_path, name) -> None:
    put(bundle, name, pickle.dumps(Dangerous(tmp_path / "executed")))
    refused(bundle, rf"{name} is no file of a fitted method")
    assert not (tmp_path / "executed").exists()


def test_files_that_nobody_names_are_not_opened(bundle, tmp_path) -> None:
    (bundle / "extra.pkl").write_bytes(pickle.dumps(Dangerous(tmp_path / "executed")))
    (bundle / "members" / "sitecustomize.py").write_text("raise SystemExit")
    os.mkfifo(bundle / "pipe")  # whoever opened it would wait for ever
    assert load_bundle(bundle).method == "stacking"
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    ("backbone", "match"),
    [
        ("hf-hub:someone/with_code", "the library is timm or torchvision"),
        ("local-dir:/tmp/model", "the library is timm or torchvision"),
        ("timm/hf-hub:someone/with_code", "no backbone named"),
        ("../../etc/passwd", "the library is timm or torchvision"),
        ("", "no backbone named"),
    ],
)
def test_a_backbone_is_a_name_of_the_libraries_own_list(bundle, backbone, match) -> None:
    name = checkpoint(bundle)
    put(bundle, name, with_meta((bundle / name).read_bytes(), model={"backbone": backbone}))
    rewrite(bundle, lambda about: about["members"][0].update(model={"backbone": backbone}))
    refused(bundle, match)


def test_weights_that_would_be_fetched_or_read_from_elsewhere_are_not(bundle, tmp_path, monkeypatch) -> None:
    """A bundle's networks start from their checkpoints alone, whatever they say that they began with."""
    secret = tmp_path / "secret.pth"
    secret.write_bytes(pickle.dumps(Dangerous(tmp_path / "executed")))
    monkeypatch.setattr("urllib.request.urlopen", lambda *a, **k: pytest.fail("it went to the network"))
    for weights in (str(secret), "pretrained", "study:other/7"):
        about = json.loads((bundle / "bundle.json").read_text())
        for member in about["members"]:
            member["model"]["weights"] = weights
            model = member["model"]
            for fold in member["folds"]:
                put(bundle, fold["weights"], with_meta((bundle / fold["weights"]).read_bytes(), model=model))
        rewrite(bundle, lambda about, weights=weights: [m["model"].update(weights=weights) for m in about["members"]])
        from harness.ensemble.bundle import predict_bundle

        assert predict_bundle(load_bundle(bundle), [np.zeros((1, 32, 32, 1), np.uint8)]).shape == (1, 2)
    assert not (tmp_path / "executed").exists()


def test_a_bundle_that_does_not_say_on_what_it_was_judged_is_refused(bundle) -> None:
    rewrite(bundle, lambda about: about.pop("judged_on"))
    refused(bundle, "'judged_on': Field required.*Build the ensemble again")
    rewrite(bundle, lambda about: about.update(judged_on="train"))
    refused(bundle, "'judged_on': Input should be 'test', 'nested_full' or 'none'")


# --- places


@pytest.mark.parametrize(
    "name",
    ["../outside.safetensors", "/etc/hostname", "..\\outside", "C:/outside", "", ".", "a//b", "a/../b", "./a", "a/",
     "a\x1b[2J", "a\nb", " a", "nul\x00", "x" * 300],
)  # fmt: skip
@pytest.mark.parametrize("where", ["members", "model", "files"])
def test_no_name_leads_out_of_the_bundle(bundle, name, where) -> None:
    def change(about):
        if where == "members":
            about["members"][0]["folds"][0]["weights"] = name
        else:
            about[where][name] = "0" * 64

    rewrite(bundle, change)
    refused(bundle, "outside the bundle: refused|steer a terminal|Build the ensemble again")


@pytest.mark.parametrize("name", ["members/trial-0000/fold_0/weights.safetensors", "stacking.npz", "bundle.json"])
@pytest.mark.parametrize("kind", ["link", "link to a folder", "pipe", "folder", "device"])
def test_only_regular_files_that_lie_inside_are_read(bundle, tmp_path, name, kind) -> None:
    inside = bundle / name
    outside = tmp_path / "elsewhere" / inside.name
    outside.parent.mkdir()
    shutil.move(inside, outside)
    if kind == "link":
        inside.symlink_to(outside)
    elif kind == "link to a folder":
        if inside.parent == bundle:
            pytest.skip("the folder is the bundle")
        inside.parent.rmdir()
        inside.parent.symlink_to(outside.parent)
    elif kind == "pipe":
        os.mkfifo(inside)
    elif kind == "folder":
        inside.mkdir()
    else:
        inside.symlink_to("/dev/zero")
    refused(bundle, "is a link|no regular file|no finished bundle")


# --- numbers that are too large


def sparse(path: Path, size: int, start: bytes = b"") -> None:
    """A file of any length that takes no room on the disk."""
    path.unlink(missing_ok=True)
    with path.open("wb") as file:
        file.write(start)
        file.truncate(size)


def test_files_of_absurd_length_are_not_read(bundle) -> None:
    name = checkpoint(bundle)
    for target, size in ((name, 2**41), ("stacking.npz", 2**40), ("bundle.json", 2**30)):
        before = (bundle / target).read_bytes()
        sparse(bundle / target, size)
        refused(bundle, "bytes long, more than the")
        (bundle / target).write_bytes(before)
    assert load_bundle(bundle)


@pytest.mark.parametrize("claimed", [10 * 2**30, 2**63, 99_000_000])
def test_a_header_that_says_it_is_ten_gigabytes_long(bundle, claimed) -> None:
    name = checkpoint(bundle)
    put(bundle, name, struct.pack("<Q", claimed) + (bundle / name).read_bytes()[8:])
    refused(bundle, "not readable as a checkpoint")


def test_a_tensor_that_claims_what_is_not_there(bundle) -> None:
    name = checkpoint(bundle)
    data = (bundle / name).read_bytes()

    def change(head):
        tensor = next(key for key in head if key != "__metadata__")
        head[tensor]["shape"] = [2**20, 2**20]

    put(bundle, name, with_header(data, change))
    refused(bundle, "not readable as a checkpoint")


@pytest.mark.parametrize("backbone", ["vit_giant_patch14_224", "timm/eva_giant_patch14_560", "torchvision/vit_h_14"])
def test_a_network_much_larger_than_its_checkpoint_is_not_built(bundle, backbone) -> None:
    name = checkpoint(bundle)
    put(bundle, name, with_meta((bundle / name).read_bytes(), model={"backbone": backbone}))
    rewrite(bundle, lambda about: about["members"][0].update(model={"backbone": backbone}))
    refused(bundle, r"holds [\d,]+ numbers, and the .* has about [\d,]{10,}: refused")


def test_a_head_much_larger_than_its_checkpoint_is_not_built(bundle) -> None:
    name = checkpoint(bundle)
    model = {"backbone": "test_resnet", "head": "mlp", "hidden": 65536}
    put(bundle, name, with_meta((bundle / name).read_bytes(), model=model))
    rewrite(bundle, lambda about: about["members"][0].update(model=model))
    refused(bundle, "has about 6,")


ARRAYS = {
    "bomb": bomb(200),
    "stored bomb": npz({"weights.npy": npy("(1000000000000,)")}),
    "negative shape": npz({"weights.npy": npy("(-1,)")}),
    "shape of objects": npz({"weights.npy": npy("([1],)")}),
    "overflowing shape": npz({"weights.npy": npy("(4294967296, 4294967296, 4)")}),
    "code in the header": npz({"weights.npy": npy("(__import__('os').getpid(),)")}),
    "long header": npz({"weights.npy": npy("(" + "1," * 30_000 + ")")}),
    "records": npz({"weights.npy": npy("(1,)", "[('a', '<f4')]", bytes(4))}),
    "unknown version": npz({"weights.npy": b"\x93NUMPY\x09\x00" + bytes(100)}),
    "too short": npz({"weights.npy": npy("(9,)", data=bytes(8))}),
    "too long": npz({"weights.npy": npy("(1,)", data=bytes(80))}),
    "no arrays": npz({"readme.txt": b"hello"}),
    "no zip": b"PK\x03\x04" + bytes(100),
    "empty": b"",
}


@pytest.mark.parametrize("kind", ARRAYS)
def test_arrays_that_are_not_what_they_say(bundle, kind) -> None:
    assert len(ARRAYS[kind]) < 2**20
    put(bundle, "stacking.npz", ARRAYS[kind])
    refused(bundle, r"stacking\.npz cannot be read")


def test_parts_that_lie_over_each_other(bundle) -> None:
    """A zip whose directory names the same bytes many times unpacks to many times its length."""
    data = bytearray(npz({"a.npy": npy("(8192,)", data=bytes(32768))}))
    start, end = data.rindex(b"PK\x01\x02"), data.rindex(b"PK\x05\x06")
    entry = bytes(data[start:end])
    many = b"".join(entry.replace(b"a.npy", b"%c.npy" % letter) for letter in range(97, 123))
    tail = bytearray(data[end:])
    struct.pack_into("<HHI", tail, 8, 26, 26, len(many))
    put(bundle, "stacking.npz", bytes(data[:start]) + many + bytes(tail))
    refused(bundle, "its parts are larger than it is")


def test_arrays_of_every_kind_that_methods_store_come_back() -> None:
    rng = np.random.default_rng(0)
    arrays = {
        "f": rng.normal(size=(3, 4)).astype(np.float32),
        "columns": np.asfortranarray(rng.normal(size=(5, 2))),
        "i": np.arange(6).reshape(2, 3),
        "text": np.array("a name"),
        "none": np.zeros((0, 4)),
        "flag": np.array(True),
    }
    back = unpack(pack(arrays), "x")
    assert set(back) == set(arrays)
    for name, array in arrays.items():
        assert back[name].dtype == array.dtype and back[name].shape == array.shape and (back[name] == array).all()
        back[name].flags.writeable = True  # its own memory, as np.load would give


# --- bundle.json


def text_of(bundle: Path) -> str:
    return (bundle / "bundle.json").read_text()


JSON = {
    "nested deeply": (lambda text: "[" * 100_000 + "]" * 100_000, "nested too deeply|no object"),
    "nested inside": (lambda text: text[:-2] + ', "x": ' + '{"a":' * 50_000 + "1" + "}" * 50_001, "nested too deeply"),
    "not a number": (lambda text: text[:-2] + ', "x": NaN}', "NaN is no number"),
    "infinite": (lambda text: text[:-2] + ', "x": -Infinity}', "Infinity is no number"),
    "infinite in figures": (lambda text: text[:-2] + ', "x": 1e999}', "too large for a number"),
    "long whole number": (lambda text: text[:-2] + ', "x": ' + "9" * 5000 + "}", "cannot be read"),
    "the same key twice": (lambda text: text[:-2] + ', "method": "mean"}', "'method' comes twice"),
    "a list": (lambda text: "[]", "no object"),
    "no JSON": (lambda text: "{", "cannot be read"),
    "terminal": (lambda text: text[:-2] + ', "x": "\\u001b[2J"}', "steer a terminal"),
    "right to left": (lambda text: text[:-2] + ', "x": "\\u202egnp.exe"}', "steer a terminal"),
    "half a character": (lambda text: text[:-2] + ', "x": "\\ud800"}', "steer a terminal"),
}


@pytest.mark.parametrize("kind", JSON)
def test_json_that_readers_understand_differently(bundle, kind) -> None:
    spoil, match = JSON[kind]
    (bundle / "bundle.json").write_text(spoil(text_of(bundle).rstrip() + "\n"))
    refused(bundle, match)


def test_json_in_another_encoding(bundle) -> None:
    (bundle / "bundle.json").write_bytes(text_of(bundle).encode("utf-16"))
    refused(bundle, "cannot be read")


def test_a_huge_but_real_json_is_not_parsed(bundle, monkeypatch) -> None:
    monkeypatch.setattr(about_module, "LARGEST_JSON", 1000)
    refused(bundle, "more than the 1,000")


@pytest.mark.parametrize(
    "change",
    [
        {"classes": [str(number) for number in range(100_000)]},
        {"classes": ["one"]},
        {"classes": ["a", "x" * 10_000]},
        {"classes": "normal"},
        {"multilabel": "no"},
        {"members": {}},
        {"method": ["stacking"]},
        {"decodes": [{"size": 10**9}]},
        {"decodes": [{"size": "native", "longest": 10**9}]},
        {"decodes": [{"size": 32, "channels": 10**6}]},
        {"decodes": []},
        {"decodes": 7},
        {"files": {"predictions.parquet": "SHA"}},
        {"format": 10**30},
        {"versions": None},
    ],
)
def test_a_bundle_that_says_what_cannot_be(bundle, change) -> None:
    rewrite(bundle, lambda about: about.update(change))
    refused(bundle, "Build the ensemble again")


@pytest.mark.parametrize(
    ("meta", "match"),
    [
        ({"classes": ["normal", "other"]}, "says classes"),
        ({"multilabel": True}, "says multilabel"),
        ({"encoder_id": "0" * 16}, "says encoder_id"),
        ({"decode": {"size": 64, "channels": 1}}, "says decode"),
        ({"model": {"backbone": "test_vit"}}, "says model"),
        ({"mean": [0.5, 0.5]}, "its mean is no number"),
        ({"std": [0.0]}, "its std is no number"),
        ({"std": ["a"]}, "its std is no number"),
        ({"mean": None}, "no checkpoint of this bundle"),
        ({"run": "this"}, "no checkpoint of this bundle"),
        ({"decode": {"size": 10**9}}, "no checkpoint of this bundle"),
    ],
)
def test_a_checkpoint_that_says_something_else_than_its_bundle(bundle, meta, match) -> None:
    name = checkpoint(bundle)
    put(bundle, name, with_meta((bundle / name).read_bytes(), **meta))
    refused(bundle, match)


@pytest.mark.parametrize("text", ["{", "[]", "null", '{"study": NaN}', "[" * 100_000])
def test_a_checkpoint_whose_own_words_are_no_json(bundle, text) -> None:
    name = checkpoint(bundle)
    spoiled = with_header((bundle / name).read_bytes(), lambda head: head["__metadata__"].update(harness=text))
    put(bundle, name, spoiled)
    refused(bundle, "no checkpoint of this bundle")


def test_tensors_of_another_network_are_refused_when_it_predicts(bundle) -> None:
    from harness.ensemble.bundle import predict_bundle

    name = checkpoint(bundle)

    def change(head):
        tensor = next(key for key in head if key.endswith("conv1.weight") or "conv1.0.weight" in key)
        head["backbone.renamed"] = head.pop(tensor)

    put(bundle, name, with_header((bundle / name).read_bytes(), change))
    with pytest.raises(HarnessError, match="its tensors are not those of test_resnet"):
        predict_bundle(load_bundle(bundle), [np.zeros((1, 32, 32, 1), np.uint8)])


# --- trees: XGBoost's own reader takes what it is given on trust


def trees_of(boosted: Path) -> tuple[str, bytes]:
    path = sorted(boosted.glob("booster_*.ubj"))[0]
    return path.name, path.read_bytes()


def test_real_trees_pass(boosted) -> None:
    assert load_bundle(boosted).method == "boosting"


def changed_trees(data: bytes, kind: str) -> bytes:
    children = data.index(b"left_children[$l#L") + len(b"left_children[$l#L")
    first = children + 8
    if kind == "a circle":  # node 0 is its own left child: XGBoost would walk for ever
        return data[:first] + struct.pack(">i", 0) + data[first + 4 :]
    if kind == "a child far away":  # XGBoost would read what lies there in memory
        return data[:first] + struct.pack(">i", 2**31 - 2) + data[first + 4 :]
    if kind == "a length of exabytes":
        return data[:children] + struct.pack(">q", 2**62) + data[children + 8 :]
    if kind == "a negative length":
        return data[:children] + struct.pack(">q", -1) + data[children + 8 :]
    if kind == "a feature far away":
        split = data.index(b"split_indices[$l#L") + len(b"split_indices[$l#L") + 8
        return data[:split] + struct.pack(">i", 2**30) + data[split + 4 :]
    if kind == "nested deeply":
        return b"[" * 100_000
    if kind == "cut off":
        return data[: len(data) // 2]
    if kind == "a key of another name":  # XGBoost looks it up all the same
        return data.replace(b"feature_segments", b"feature_segmentz")
    if kind == "numbers of another kind":  # this is left to XGBoost
        return data.replace(b"categories_nodes[$l#L", b"categories_nodes[$U#L")
    if kind == "something behind":
        return data + b"{}"
    return b"\x80\x04."


@pytest.mark.parametrize(
    "kind",
    ["a circle", "a child far away", "a length of exabytes", "a negative length", "a feature far away", "nested deeply",
     "cut off", "a key of another name", "numbers of another kind",
     "something behind", "a pickle"],
)  # fmt: skip
def test_trees_that_would_harm_are_refused_before_xgboost_reads_them(boosted, kind) -> None:
    name, data = trees_of(boosted)
    put(boosted, name, changed_trees(data, kind))
    refused(boosted, rf"{name} is no booster that can be read")


def test_random_damage_never_ends_the_process(boosted, tmp_path) -> None:
    """500 random changes of real trees, each refused, or read by XGBoost without harm, in a process of its own."""
    (tmp_path / "trees.ubj").write_bytes(trees_of(boosted)[1])
    script = Path(__file__).with_name("damaged_trees.py")
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path / "trees.ubj"), "500"], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-2000:]
    counts = json.loads(done.stdout)
    assert sum(counts.values()) == 500 and counts["refused"] > 250


# --- the process as a whole


def test_loading_and_predicting_need_little_memory_and_no_network(bundle) -> None:
    """With 4 GB of address space beyond what the libraries take, a spoiled bundle is refused and a whole one is not."""
    limit = resource.getrlimit(resource.RLIMIT_AS)
    assert stat.S_ISDIR(bundle.stat().st_mode)
    put(bundle, "stacking.npz", npz({"weights.npy": npy("(1000000000000,)")}, zipfile.ZIP_STORED))
    code = (
        "import resource, sys\n"
        "from pathlib import Path\n"
        "from harness.ensemble.bundle import load_bundle\n"
        "from harness.errors import RequestError\n"
        "used = int(Path('/proc/self/statm').read_text().split()[0]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (used + 2**30, resource.RLIM_INFINITY))\n"
        "try:\n    load_bundle(Path(sys.argv[1]))\nexcept RequestError as error:\n    print('refused')\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(bundle)], capture_output=True, text=True, timeout=300)
    assert done.stdout.strip() == "refused", done.stderr[-1000:]
    assert resource.getrlimit(resource.RLIMIT_AS) == limit
