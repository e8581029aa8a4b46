"""benchmarks/ignored_polarity.py on the built-in data set, a third of which is stored bright for dark."""

import json
import shutil
import sys

import numpy as np
import pandas as pd
import pydicom
import pytest
from every_method import build_every

from benchmarks import ignored_polarity
from harness.config.load import check_study
from harness.data.prepare import prepare
from harness.errors import Leak, RequestError
from harness.store.home import Home, open_home
from harness.store.records import require_study


@pytest.fixture(scope="module")
def home(small_study, tmp_path_factory) -> Home:
    root = tmp_path_factory.mktemp("polarity") / "home"
    shutil.copytree(small_study.home.root, root)
    build_every(Home(root), [require_study(Home(root), "small")], ["mean"], 1, 0, "cpu")
    return Home(root)


def run(monkeypatch, home: Home, *words: str) -> None:
    monkeypatch.setenv("HARNESS_HOME", str(home.root))
    monkeypatch.setattr(sys, "argv", ["ignored_polarity", "--study", "small", *words])
    ignored_polarity.main()


def test_the_polarity_alone_is_ignored_and_a_bundle_sees_its_test_split_both_ways(
    home, small_study, tmp_path, monkeypatch, capsys
):
    out = tmp_path / "ignored"
    run(monkeypatch, home, "--out", str(out), "--evaluate", "small/mean-top1", "--json")
    printed = capsys.readouterr()
    found, command = json.loads(printed.out), printed.err.splitlines()[-1]
    assert command.startswith("harness evaluate small/mean-top1 --data") and "data.label=" in command
    turned = 0
    for source in small_study.images.rglob("*.*"):
        target = out / source.relative_to(small_study.images)
        if source.suffix != ".dcm" or "MONOCHROME2" in str(pydicom.dcmread(source).PhotometricInterpretation):
            assert not target.exists() or target.read_bytes() == source.read_bytes()
            continue
        before, after = pydicom.dcmread(source), pydicom.dcmread(target)
        assert after.PhotometricInterpretation == "MONOCHROME2"
        del before.PhotometricInterpretation, after.PhotometricInterpretation
        assert before == after and before.file_meta == after.file_meta
        turned += 1
    assert turned > 10

    spec = check_study(small_study.record.tree, "small").spec
    prepared = prepare(spec.data, spec.seed, home, lambda what, done, total: None)
    test = prepared.dataset.ids[prepared.folds.test_rows()]
    assert sorted(pd.read_csv(out / ignored_polarity.TEST_LABELS)["file"]) == sorted(test.tolist())
    assert found["all"]["images"] == len(test) and 0 < found["turned"]["images"] < len(test)
    bundle = json.loads((home.bundles("small") / "mean-top1" / "bundle.json").read_text())
    own = next(row for row in bundle["scores"] if row["kind"] == "ensemble")["test"]["auroc"]["value"]
    assert found["all"]["right"]["value"] == pytest.approx(own, abs=1e-6)
    apart = found["turned"]["ignored"]["value"] - found["turned"]["right"]["value"]
    assert found["turned"]["difference"]["value"] == pytest.approx(apart) and np.isfinite(apart) and apart != 0

    # a table that lists images of the bundle's own training is refused: turned, nobody would know them again
    shutil.copyfile(out / spec.data.labels, out / ignored_polarity.TEST_LABELS)
    with pytest.raises(Leak, match="another study's test split"):
        ignored_polarity.evaluated(open_home(), spec, out, "small/mean-top1")


def test_what_cannot_be_written_is_refused(home, small_study, tmp_path):
    spec, record = ignored_polarity.spec_of(home, "small", None)
    (tmp_path / "there").write_text("")
    with pytest.raises(RequestError, match="new or empty"):
        ignored_polarity.write_set(home, spec, record, tmp_path)
    names = pd.read_csv(small_study.images / "labels.csv", dtype=str)
    pictures = names[names["file"].str.endswith(".png")]
    plain = tmp_path / "pictures"
    for name in pictures["file"]:
        (plain / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(small_study.images / name, plain / name)
    pictures.to_csv(plain / "labels.csv", index=False)
    other = spec.model_copy(update={"data": spec.data.model_copy(update={"root": str(plain)})})
    with pytest.raises(RequestError, match="nothing to ignore"):
        ignored_polarity.write_set(home, other, None, tmp_path / "new")
