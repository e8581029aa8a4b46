"""The report of a study: its numbers are the records', its names are text, and no group is in it."""

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from markdown_it import MarkdownIt
from read_page import read

from harness.config.load import check_study, load_study
from harness.data.prepare import prepare
from harness.output.documents import Section, Table, latex, markdown, table_html, table_latex, table_markdown
from harness.output.format import interval
from harness.report.collect import Collected, collect
from harness.report.data_page import data_section
from harness.report.ensembles import ensembles_section
from harness.report.learning import by_fold
from harness.report.overview import question_section, reproduce_section, saved_folds
from harness.report.study_report import sections_of, write_report
from harness.search.ablation import find_arms
from harness.store.records import read_trials, require_study
from harness.types import TrialRecord

ANCHORS = ["answer", "data", "search", "learning", "ablation", "ranking"]


def nothing(what: str, done: int, total: int) -> None: ...


@pytest.fixture(scope="module")
def found(hostile) -> Collected:
    return collect(hostile.home, require_study(hostile.home, hostile.name), None, nothing)


@pytest.fixture(scope="module")
def told(hostile) -> dict[str, object]:
    """What the command prints with --json; the page is beside the study's records."""
    return json.loads(program(hostile.home.root, "study", "report", hostile.name, "--json"))


def program(home: Path, *arguments: str, **more: str) -> str:
    command = [sys.executable, "-m", "harness", *arguments]
    environment = {**os.environ, "HARNESS_HOME": str(home), "OMP_NUM_THREADS": "1", **more}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_its_numbers_are_those_of_the_records(hostile, told) -> None:
    shown = json.loads(program(hostile.home.root, "study", "show", hostile.name, "--json"))
    best = shown["best"]
    assert told["trial"] == best["number"] and told["oof"] == best["oof"]["auroc"]
    assert told["corrected"] == shown["best_corrected"]
    page = read(Path(told["report"]).read_text())
    text = " ".join(page.text.split())
    records = {trial.number: trial for trial in read_trials(hostile.home, hostile.name)}
    complete = [one for one in records.values() if one.state == "complete"]
    stopped = [one for one in records.values() if one.state == "pruned"]
    assert len(records) == 4 and len(complete) > 1 and stopped
    for one in complete:
        assert interval(one.oof["auroc"]) in text
    assert f"{len(complete)} complete, {len(stopped)} stopped early" in text
    table = json.loads((next(hostile.home.work_root.glob("*ablation*")) / "table.json").read_text())["table"]
    assert f"{table['rows'][0]['delta']:+.3f}" in text and "model.dropout" in text
    for bundle in hostile.home.bundles(hostile.name).glob("*/bundle.json"):
        about = json.loads(bundle.read_text())
        own = next(row for row in about["scores"] if row["kind"] != "single" and row["name"] == about["method"])
        assert f"{own['test']['auroc']['value']:.3f}" in text
    anchors = [one["anchor"] for one in told["sections"]]
    assert anchors[: len(ANCHORS)] == ANCHORS and anchors[-2:] == ["cost", "reproduce"]
    ids = {attrs["id"] for _, attrs in page.tags if "id" in attrs}
    assert set(anchors) <= ids and len(Path(told["report"]).read_bytes()) < 12e6


def test_hostile_names_are_text_and_no_group_is_in_it(hostile, told, found) -> None:
    document = Path(told["report"]).read_text()
    assert "</script><script>document.title" not in document and "<img src=x" not in document
    assert document.count("<script>") == document.count("</script>") == 2 + document.count("draw({")
    assert "document.title" in read(document).text
    dataset = found.data.dataset
    groups = set(dataset.groups.tolist())
    assert len(groups) == 24 and not any(group in document for group in groups) and "secret-patient" not in document
    for format_ in ("md", "latex"):
        written = write_report(found, sections_of(found, [], False), format_, False)
        assert not any(group in written for group in groups) and "secret-patient" not in written
        # In a fence it is text; what a renderer makes of the whole has no tag of the data's.
        assert format_ == "latex" or "<script>" not in MarkdownIt("gfm-like", {"linkify": False}).render(written)


def test_mlflow_has_the_same_page_once(hostile, told) -> None:
    from mlflow import MlflowClient

    assert told["in_mlflow"] is True
    program(hostile.home.root, "study", "report", hostile.name, "--trial", str(told["trial"]), "--no-images")
    client = MlflowClient(tracking_uri=hostile.home.mlflow_uri)
    experiment = client.get_experiment_by_name(hostile.name).experiment_id
    runs = client.search_runs([experiment], "tags.`harness.kind` = 'report'")
    assert len(runs) == 1
    kept = hostile.home.run_artifacts(hostile.name, runs[0].info.run_id) / "report.html"
    assert kept.read_bytes() == Path(told["report"]).read_bytes()
    trial = client.search_runs(
        [experiment], f"tags.`harness.trial` = '{told['trial']}' and tags.`harness.kind`='trial'"
    )
    own = (hostile.home.run_artifacts(hostile.name, trial[0].info.run_id) / "report.html").read_text()
    alone = read(own)
    anchors = [attrs["id"] for tag, attrs in alone.tags if tag == "h2"]
    assert "learning" in anchors and "ranking" in anchors and "search" not in anchors and "ensembles" not in anchors
    assert not [attrs for tag, attrs in alone.tags if tag == "img"]


def test_a_store_that_is_away_costs_nothing_but_its_copy(hostile, tmp_path: Path) -> None:
    out = tmp_path / "report.html"
    arguments = ["study", "report", hostile.name, "--no-images", "--out", str(out), "--json"]
    told = json.loads(program(hostile.home.root, *arguments, MLFLOW_TRACKING_URI="http://127.0.0.1:9"))
    assert told["in_mlflow"] is False and read(out.read_text()).open == []


def test_what_is_missing_is_said(found) -> None:
    begun = replace(found, record=replace(found.record, state="interrupted"), built=[], ablations=[], data=None)
    sections = {one.anchor: one for one in sections_of(begun, [], True)}
    assert "not finished (interrupted): 4 of 4 trials" in sections["answer"].answer
    assert any("No ensemble has been built" in point for point in sections["answer"].points)
    assert "no ablation has been run" in sections["ablation"].answer
    assert "not there any more" in sections["data"].answer
    nobody = replace(begun, trials=[], chosen=None, runner_up=None, lead=None, epochs={})
    said = {one.anchor: one.answer for one in sections_of(nobody, [], True)}
    assert "no complete trial yet" in said["answer"] and said["learning"] == "No epoch has been logged."
    page = write_report(nobody, sections_of(nobody, [], True), "html", True)
    assert read(page).open == []


def test_every_read_of_the_test_split_is_counted_whichever_ensemble_came_last(found) -> None:
    """The newest bundle knows of all reads, and it need not be the best one."""
    for last in range(len(found.built)):
        built = [
            replace(one, about={**one.about, "test_reads": 7 if place == last else place + 1})
            for place, one in enumerate(found.built)
        ]
        section = ensembles_section(built, [], "auroc", found.name)
        assert "scored for 7 ensembles" in section.tables[0].note


def test_the_report_says_what_a_case_is(found) -> None:
    def said(**data: str) -> str:
        tree = {**found.record.tree, "data": {**found.record.tree["data"], **data}}
        return data_section(replace(found, record=replace(found.record, tree=tree)), False).answer

    assert "no patient stands in two parts (24 groups)" in said()
    assert "no patient, and no copy of an image, stands in two parts (24 groups)" in said(copies="together")
    assert "every image counts as a case of its own" in said(group="none")
    assert "copies of one picture are one case (24 groups)" in said(group="none", copies="together")


def test_moved_data_are_said_and_not_shown(hostile) -> None:
    moved = hostile.root.rename(hostile.root.with_name("elsewhere"))
    try:
        found = collect(hostile.home, require_study(hostile.home, hostile.name), None, nothing)
    finally:
        moved.rename(hostile.root)
    assert found.data is None and any("not there to be looked at" in note for note in found.notes)
    assert found.chosen is not None and question_section(found).tables


def test_its_file_runs_the_same_study_again(found, tmp_path: Path) -> None:
    section = reproduce_section(found)
    (tmp_path / "hostile.yaml").write_text(section.listing)
    assert load_study(str(tmp_path / "hostile.yaml")).tree == found.record.tree
    (table,) = found.ablations
    (again,) = [row[0].split() for row in section.tables[0].rows if " ablate " in row[0]]
    wanted = [again[place + 1] for place, word in enumerate(again) if word == "--factor"]
    assert [again[4:8]] == [["--trial", str(table["trial"]), "--seeds", str(table["seeds"])]]
    arms, _ = find_arms(found.study.fill(found.chosen.params), found.study.space, wanted)
    named = {(row["factor"], row["from"], row["to"]) for row in table["rows"]}
    assert {(arm.factor, arm.before, arm.after) for arm in arms} == named
    facts = dict(section.tables[1].rows)
    assert facts["data hash"] == found.record.data_hash and facts["torch"] and "core" in facts["machine"]
    alone, file = reproduce_section(replace(found, asked=True)), f"hostile-trial-{found.chosen.number}"
    assert "choice:" not in alone.listing and "log: true" not in alone.listing
    (tmp_path / "alone.yaml").write_text(alone.listing)
    (line,) = [row[0] for row in alone.tables[0].rows if " ablate " in row[0]]
    assert line == " ".join(again).replace(f"ablate hostile --trial {table['trial']}", f"ablate {file} --trial 0")
    tree = load_study(str(tmp_path / "alone.yaml")).tree
    assert tree["optim"]["lr"] == found.chosen.params["optim.lr"] and check_study(tree, "alone").space == {}


def test_folds_saved_by_stopping_early() -> None:
    def trial(number: int, state: str, folds: int, seconds: float) -> TrialRecord:
        return TrialRecord(number, state, {}, "", fold_values=[0.5] * folds, seconds=seconds)

    trials = [trial(0, "complete", 3, 30.0), trial(1, "pruned", 1, 12.0), trial(2, "pruned", 0, 4.0)]
    copy = replace(trials[1], number=3, same_as=1)
    assert saved_folds([*trials, copy], 3) == (5, 30.0 * 2 - 16.0)
    assert saved_folds([], 3) == (0, 0.0)


def test_curves_by_fold_are_the_logged_epochs(found) -> None:
    epochs = found.epochs[found.chosen.number]
    curves = by_fold(epochs, lambda report: report.val_loss)
    assert curves.shape == (3, 2)
    for one in epochs:
        assert curves[one.report.fold, one.report.epoch] == one.report.val_loss


def test_a_table_says_the_same_in_every_format() -> None:
    evil = r'a|b & 100% <b> _x_ \ "q" $5 #1'
    table = Table("Some", ("name", "value"), [(evil, "0.5 [0.1, 0.9]")], note="A note.")
    page = table_html(table)
    assert evil in read(page).text and "<b>" not in page and '<span class="whole">[0.1, 0.9]</span>' in page
    row = table_markdown(table).splitlines()[4]
    assert row.startswith(r"| a\|b &amp; 100% &lt;b&gt; \_x\_ \\ ") and len(re.findall(r"(?<!\\)\|", row)) == 3
    assert r"a|b \& 100\% \textless{}b\textgreater{} \_x\_ \textbackslash{}" in table_latex(table)
    sections = [Section("a", "Title", "Answer.", "<p>only on a page</p>", (table,), ("Point.",), "key: value\n")]
    text, tex = markdown("Name", sections), latex("Name", sections)
    assert text.startswith("# Name\n\n## Title\n\nAnswer.\n\n- Point.\n\n**Some**") and "only on a page" not in text
    assert "````yaml\nkey: value\n````" in text and r"\begin{verbatim}" in tex and tex.count(r"\begin{table}") == 1


def test_wrong_requests_are_refused_with_what_to_type(hostile, tmp_path: Path) -> None:
    for arguments, said in (
        (["--format", "pdf"], "write html, md, latex"),
        (["--trial", "99"], "has no such trial. It has: 0, 1"),
        (["--out", str(tmp_path)], "this is a folder; name a file"),
    ):
        command = [sys.executable, "-m", "harness", "study", "report", hostile.name, *arguments]
        environment = {**os.environ, "HARNESS_HOME": str(hostile.home.root)}
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        assert done.returncode == 2 and said in done.stderr and not done.stdout


def test_the_data_must_be_those_of_the_study(hostile, found) -> None:
    spec = found.study.spec
    data = prepare(spec.data, spec.seed, hostile.home, nothing)
    assert data.dataset.data_hash == found.data.dataset.data_hash
    changed = replace(found.record, data_hash="other")
    assert collect(hostile.home, changed, None, nothing).data is None
