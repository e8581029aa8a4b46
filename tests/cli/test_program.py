"""The program from outside: contracts of its JSON, what it prints where, interruption."""

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from cli_program import Place, environment, start_program
from numbered_rows import names_by_row

from harness.config.load import list_study_files, load_study
from harness.store.home import Home

Said = tuple[Place, dict[str, subprocess.CompletedProcess[str]]]


def finite(node: object) -> bool:
    if isinstance(node, dict):
        return all(finite(child) for child in node.values())
    if isinstance(node, list):
        return all(finite(child) for child in node)
    return not isinstance(node, float) or math.isfinite(node)


def test_study_json(finished: Said) -> None:
    _, said = finished
    document = json.loads(said["study"].stdout)
    assert document["study"] == "tiny" and document["state"] == "complete"
    assert [trial["number"] for trial in document["trials"]] == [0, 1]
    for trial in document["trials"]:
        assert trial["state"] == "complete"
        assert set(trial["params"]) == {"optim.lr", "augment.hflip"}
        assert {"value", "lo", "hi", "coverage", "reason"} == set(trial["oof"]["auroc"])
        assert 0 <= trial["cv"]["auroc"] <= 1
    assert document["best"] in document["trials"]
    assert finite(document)


def test_progress_went_to_stderr_in_plain_lines(finished: Said) -> None:
    _, said = finished
    assert "32 images of 16 groups: 16 well, 16 sick" in said["study"].stderr
    assert "2 trials x 2 folds on cpu" in said["study"].stderr
    assert "trial 1 " in said["study"].stderr
    assert "\x1b[" not in said["study"].stderr


def test_show_prints_the_same_document(finished: Said) -> None:
    place, said = finished
    assert json.loads(place.harness("study", "show", "--json").stdout) == json.loads(said["study"].stdout)


@pytest.mark.parametrize("columns", ["60", "80"])
def test_tables_fit_the_window(finished: Said, columns: str) -> None:
    place, _ = finished
    shown = place.harness("study", "show", "tiny", COLUMNS=columns).stdout
    table = shown.split("\n\n")[0].splitlines()
    assert max(map(len, table)) <= int(columns)
    assert "harness ensemble build" in shown
    assert "the test split's" in shown


def test_a_finished_study_does_nothing_and_says_so(finished: Said) -> None:
    place, said = finished
    again = place.harness("study", "run", "tiny", "--json")
    assert again.returncode == 0
    assert "nothing was left to train" in again.stderr
    assert json.loads(again.stdout) == json.loads(said["study"].stdout)


def test_another_spec_under_the_same_name_is_refused(finished: Said) -> None:
    place, _ = finished
    done = place.harness("study", "run", "tiny", "--set", "train.batch_size=4")
    assert done.returncode == 2
    assert "train.batch_size: 8 -> 4" in done.stderr and "--as NEWNAME" in done.stderr


def test_ensemble_json(finished: Said) -> None:
    _, said = finished
    document = json.loads(said["ensemble"].stdout)
    assert document["study"] == "tiny" and document["method"] == "mean"
    assert document["members"] == [0, 1]
    assert Path(document["bundle"]).is_dir()
    assert {row["kind"] for row in document["scores"]} >= {"single", "ensemble"}
    for row in document["scores"]:
        for part in ("oof", "test"):
            assert set(row[part]["auroc"]) == {"value", "lo", "hi", "coverage", "reason"}
    for delta in ("delta_vs_single", "delta_vs_mean"):
        assert set(document[delta]) == {"value", "lo", "hi", "p", "p_holm", "coverage", "reason", "verdict"}
    assert finite(document)
    assert "the newest completed one" in said["ensemble"].stderr


def test_all_methods_in_one_document(finished: Said, tmp_path: Path) -> None:
    place, said = finished
    home = shutil.copytree(place.home, tmp_path / "home")
    done = place.harness("ensemble", "build", "--method", "all", "--json", HARNESS_HOME=str(home))
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert (document["study"], document["method"], document["metric"]) == ("tiny", "all", "auroc")
    assert document["members"] == [0, 1] and finite(document)
    methods = [one["method"] for one in document["ensembles"]]
    assert {"mean", "weighted", "greedy", "bagging", "boosting", "stacking"} <= set(methods)
    assert [row["name"] for row in document["scores"] if row["kind"] == "ensemble"] == methods
    assert [row["kind"] for row in document["scores"]].count("mean") == 1
    for row in document["scores"]:  # no selection score without the honest ones beside it
        fitted = row["cross_fitted"] or row["name"].startswith("soup")
        assert row["test"] and row["oof"] and (row["selection"] is None or fitted)
    alone = json.loads(said["ensemble"].stdout)
    assert set(document["ensembles"][0]) == set(alone)
    assert document["ensembles"][0]["scores"][-1]["test"] == alone["scores"][-1]["test"]
    tests = [one["delta_vs_single"] for one in document["ensembles"]]
    assert all(one["p_holm"] >= one["p"] for one in tests)
    shown = place.harness("ensemble", "list", HARNESS_HOME=str(home)).stdout
    assert all(f"tiny/{method}-top5" in shown for method in methods)
    # one member of the table says of itself what the table says, p-values and verdict included
    show = json.loads(place.harness("ensemble", "show", "tiny/greedy-top5", "--json", HARNESS_HOME=str(home)).stdout)
    greedy = next(one for one in document["ensembles"] if one["method"] == "greedy")
    assert (show["delta_vs_mean"], show["recommended"]) == (greedy["delta_vs_mean"], document["recommended"])
    assert show["comparisons"] == document["comparisons"] == 2 * len(methods) - 1


def test_ensemble_list_and_show(finished: Said) -> None:
    place, said = finished
    built = json.loads(said["ensemble"].stdout)
    assert "tiny/mean-top5" in place.harness("ensemble", "list").stdout
    assert json.loads(place.harness("ensemble", "show", "tiny/mean-top5", "--json").stdout) == built
    assert json.loads(place.harness("ensemble", "list", "--json").stdout) == [built]
    shown = place.harness("ensemble", "show", built["bundle"], COLUMNS="60").stdout
    assert "mean of trials 0, 1" in shown and "best single  " in shown
    assert max(map(len, shown.split("\n\n")[1].splitlines())) <= 60


def test_predictions_are_those_of_the_build(finished: Said) -> None:
    import pyarrow.parquet as pq

    place, said = finished
    done = place.harness("predict", "tiny/mean-top5", place.data / "images", "--json", "--raw")
    assert done.returncode == 0, done.stderr
    rows = {Path(row["file"]).name: row["probabilities"] for row in json.loads(done.stdout)}
    assert len(rows) == 32
    stored = pq.read_table(Path(json.loads(said["ensemble"].stdout)["bundle"]) / "predictions.parquet").to_pylist()
    names = names_by_row(Home(place.home), "tiny")
    test = [row for row in stored if row["split"] == "test"]
    assert test
    for row in test:
        now = rows[Path(names[row["id"]]).name]
        np.testing.assert_allclose([now["well"], now["sick"]], row["probabilities"], atol=1e-5)


def test_a_network_leaves_as_an_onnx_file(finished: Said, tmp_path: Path) -> None:
    place, _ = finished
    out = tmp_path / "network.onnx"
    asked = place.harness("models", "export", "tiny/mean-top5", "--out", out)
    assert asked.returncode == 2 and "--member trial-0000 or trial-0001" in asked.stderr and not out.exists()
    which = ("--member", "trial-0001", "--fold", "1")
    done = place.harness("models", "export", "tiny/mean-top5", *which, "--out", out, "--json")
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["network"] == "trial-0001, fold 1" and said["bytes"] == out.stat().st_size > 10_000
    assert 0 <= said["largest_difference"] <= 1e-4


def test_predictions_as_csv(finished: Said, tmp_path: Path) -> None:
    place, _ = finished
    image = place.data / "images/p00_0.png"
    printed = place.harness("predict", "tiny/mean-top5", image)
    assert printed.returncode == 0
    assert printed.stdout.splitlines()[0] == "file,well,sick,decision,disagreement,out_of_distribution,abstain"
    assert len(printed.stdout.splitlines()) == 2
    place.harness("predict", "tiny/mean-top5", image, "--csv", tmp_path / "p.csv")
    assert (tmp_path / "p.csv").read_text() == printed.stdout


def test_an_unreadable_file_is_listed_and_the_rest_is_predicted(finished: Said, tmp_path: Path) -> None:
    place, _ = finished
    (tmp_path / "bad.png").write_bytes(b"no image")
    done = place.harness("predict", "tiny/mean-top5", place.data / "images/p00_0.png", tmp_path / "bad.png", "--json")
    assert done.returncode == 1
    good, bad = json.loads(done.stdout)
    assert set(good["probabilities"]) == {"well", "sick"}
    assert bad["probabilities"] is None and bad["problem"]
    assert "bad.png" in done.stderr


def test_predict_without_any_readable_file_is_a_wrong_request(finished: Said, tmp_path: Path) -> None:
    place, said = finished
    (tmp_path / "no.png").write_bytes(b"no")
    done = place.harness("predict", json.loads(said["ensemble"].stdout)["bundle"], tmp_path / "no.png")
    assert (done.returncode, done.stdout) == (2, "")
    assert "no.png: not an image" in done.stderr


def test_help_is_whole_in_a_narrow_window(place: Place) -> None:
    shown = place.harness("--help", COLUMNS="60").stdout
    assert "..." not in shown.replace("[ARGS]...", "")
    assert max(map(len, shown.splitlines())) <= 60


def test_one_trial_was_not_selected(finished: Said, place: Place) -> None:
    done = place.harness("study", "run", "tiny", "--set", "search.trials=1", "-q")
    assert "One trial: trial 0" in done.stdout and "selected" not in done.stdout
    assert "\nBest of 2: trial " in finished[0].harness("study", "show", "tiny").stdout


def test_a_damaged_bundle_does_not_hide_the_others(finished: Said) -> None:
    place, said = finished
    broken = place.home / "bundles/tiny/broken"
    broken.mkdir()
    try:
        (broken / "bundle.json").write_text("{")
        (broken / "DONE").touch()
        done = place.harness("ensemble", "list", "--json")
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout) == [json.loads(said["ensemble"].stdout)]
        assert "broken/bundle.json is damaged" in done.stderr
        assert place.harness("predict", "tiny/broken", place.data).returncode == 2
    finally:
        shutil.rmtree(broken)


def test_interrupted_studies_end_with_130_and_go_on(place: Place) -> None:
    slow = ("--set", "train.epochs=12", "--set", "search.trials=1")
    log = place.cwd / "log"
    with log.open("w") as file:
        running = start_program(place.home, place.cwd, "study", "run", "tiny", *slow, stderr=file)
        home = Home(place.home)
        end = time.monotonic() + 120
        while not list(home.artifacts.glob("**/fold_0/DONE")) and time.monotonic() < end and running.poll() is None:
            time.sleep(0.05)
        running.send_signal(signal.SIGINT)
        assert running.wait(timeout=60) == 130, log.read_text()
    assert "harness study resume tiny" in log.read_text()
    assert "Traceback" not in log.read_text()
    listed = json.loads(place.harness("study", "list", "--json").stdout)
    assert next(row for row in listed if row["study"] == "tiny")["state"] == "interrupted"
    again = place.harness("study", "resume", "tiny", "--json")
    assert again.returncode == 0, again.stderr
    assert "going on with trial 0" in again.stderr
    document = json.loads(again.stdout)
    assert document["state"] == "complete" and len(document["trials"]) == 1


def test_sigterm_is_an_interruption() -> None:
    code = "import os, signal; from harness.cli import app\n"
    code += "app._invoke = lambda arguments: os.kill(os.getpid(), signal.SIGTERM) or 0\nraise SystemExit(app.run([]))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 130
    assert done.stderr.strip() == "interrupted"


def test_an_interruption_inside_a_destructor_is_not_lost() -> None:
    code = """
import os, signal
from harness.cli import app
from harness.output.progress import study_listener
from harness.types import StudyEnded, Working

class Dying:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGINT)
        sum(range(1000))  # the exception is raised, and ignored, in here

def work(arguments):
    with study_listener() as listener:
        one = Dying()
        del one
        listener(StudyEnded("x", "interrupted", 0))
        print("still running", flush=True)
        listener(Working("training", 1, 2))
        print("never reached", flush=True)
    return 0

app._invoke = work
raise SystemExit(app.run([]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 130
    assert done.stdout == "still running\n"
    assert done.stderr.endswith("interrupted\n")


def test_a_reader_that_leaves_is_no_failure(place: Place) -> None:
    command = f"{sys.executable} -m harness models list | head -1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, env=environment(place.home))
    assert done.returncode == 0
    assert done.stdout.split() == ["name", "params", "D", "px", "licence"]
    assert "Traceback" not in done.stderr and "Broken" not in done.stderr


def test_doctor(place: Place, tmp_path: Path) -> None:
    found = json.loads(place.harness("doctor", "--json").stdout)
    assert found["packages"]["torch"] and found["home"] == str(place.home) and found["codecs"]["JPEG lossless"]
    assert not [problem for problem in found["problems"] if problem["breaks"]]
    assert found["next"] == "harness study run lr_aug_sweep"
    assert found["memory_free_gib"] > 0 and not place.home.exists()
    away = {"HARNESS_STORAGE": "postgresql+psycopg://me:secret@127.0.0.1:1/x"}
    done = place.harness("doctor", COLUMNS="60", MLFLOW_TRACKING_URI="http://127.0.0.1:1", **away)
    said = " ".join(done.stdout.split())
    assert done.returncode == 1 and "secret" not in said + done.stderr and "127.0.0.1:1/x" in said
    assert "BROKEN: HARNESS_STORAGE" in said and "unset HARNESS_STORAGE" in said
    assert "look: the MLflow store" in said  # a study trains on without it
    (tmp_path / "file").touch()
    done = place.harness("doctor", "--json", HARNESS_HOME=str(tmp_path / "file/home"))
    broken = [problem for problem in json.loads(done.stdout)["problems"] if problem["breaks"]]
    assert done.returncode == 1 and "HARNESS_HOME" in broken[0]["type"]


def test_doctor_sees_what_was_cut_off_and_what_is_damaged(finished: Said, tmp_path: Path) -> None:
    home = Home(shutil.copytree(finished[0].home, tmp_path / "home"))
    record = home.work("tiny") / "study.json"
    record.write_text(record.read_text().replace('"complete"', '"running"'))
    (home.root / "mlflow.db").write_bytes(b"SQLite format 3" + bytes(200))
    done = finished[0].harness("doctor", "--json", HARNESS_HOME=str(home.root))
    found = json.loads(done.stdout)
    assert done.returncode == 0 and found["used"]["artifacts"] > 100_000
    typed = [problem["type"].split("   ")[0] for problem in found["problems"]]
    assert f"mv {home.root}/mlflow.db {home.root}/mlflow.db.damaged" in typed and "harness study resume tiny" in typed


def test_version_and_help(place: Place) -> None:
    assert place.harness("--version").stdout.startswith("harness ")
    help_ = place.harness("--help")
    assert help_.returncode == 0
    for command in ("init", "study", "ensemble", "predict", "data", "models", "ui", "doctor"):
        assert f"\n  {command} " in help_.stdout
    assert not place.home.exists()


def test_every_shipped_study_loads() -> None:
    shipped = list_study_files()
    searching = [path for path in shipped if path.stem in ("lr_aug_sweep", "head_ct", "chest_xray", "ham10000")]
    assert len(searching) == 4 and not any(load_study(str(path)).spec.search.sampler == "grid" for path in searching)
    for path in shipped:
        study = load_study(str(path))
        assert study.name == path.stem
        search = study.spec.search
        written_out = search.sampler == "grid" or len(search.enqueue) == search.trials or not study.space
        # a study that searches shows a search; one whose every trial is written out asks one question
        assert written_out or (search.trials >= 8 and study.spec.data.folds >= 5 and "optim.lr" in study.space)
        assert path.read_text().startswith("#") and f"harness study run {study.name}" in path.read_text()


def test_the_sweep_switches_at_least_five_augmentations() -> None:
    study = load_study("lr_aug_sweep")
    assert sum(name.startswith("augment.") for name in study.space) >= 5


def test_the_reference_page_is_the_committed_one(place: Place) -> None:
    page = Path(__file__).parents[2] / "docs/study-file.md"
    assert place.harness("study", "reference").stdout == page.read_text(), (
        "harness study reference > docs/study-file.md"
    )


def test_ui_says_where_it_is_and_ends_on_ctrl_c(finished: Said) -> None:
    import socket

    place, _ = finished
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        taken = place.harness("ui", "--port", port)
        assert taken.returncode == 2 and f"port {port}" in taken.stderr and "harness ui --port" in taken.stderr
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    server = start_program(place.home, place.cwd, "ui", "--port", port, **pipes)
    assert server.stdout is not None
    lines = [server.stdout.readline() for _ in range(2)]
    assert f"http://127.0.0.1:{port}" in lines[0]
    assert "study tiny: http://127.0.0.1" in lines[1] and "/#/experiments/" in lines[1]
    os.killpg(server.pid, signal.SIGINT)
    assert server.wait(timeout=60) in (0, 130)
