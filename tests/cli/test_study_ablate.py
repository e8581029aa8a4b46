"""`study ablate` and `study compare` as a person types them."""

import csv
import json
import shutil

import pytest
from cli_program import Place


@pytest.fixture(scope="module")
def place(finished, tmp_path_factory) -> Place:
    """A copy of the finished study, to ablate."""
    cwd = tmp_path_factory.mktemp("ablated") / "place"
    shutil.copytree(finished[0].cwd, cwd)
    return Place(cwd, cwd / "home", cwd / "my data", cwd / "studies" / "tiny.yaml")


@pytest.fixture(scope="module")
def said(place):
    return place.harness("study", "ablate", "tiny", "--seeds", "2", "--factor", "augment", "--csv", "t.csv")


def test_a_dry_run_trains_nothing(finished):
    done = finished[0].harness("study", "ablate", "--dry-run", "--json")
    assert done.returncode == 0, done.stderr
    plan = json.loads(done.stdout)
    assert plan["missing"] == plan["trainings"] == (len(plan["arms"]) + 1) * 3 - 1
    assert {arm["factor"] for arm in plan["arms"]} == {"augment.hflip", "optim.weight_decay"}
    assert not (finished[0].home / "work" / plan["ablation"]).exists()
    assert "optim.lr" in finished[0].harness("study", "ablate", "--dry-run").stdout


def test_the_table_fits_a_terminal_and_says_what_it_is(place, said):
    assert said.returncode == 0, said.stderr
    rows = [line for line in said.stdout.splitlines() if line.startswith("hflip")]
    assert len(rows) == 1 and len(rows[0]) <= 80
    assert "inside the noise" in rows[0] or "not distinguishable" in rows[0]
    assert "Noise floor" in said.stdout and "3 of 3 trainings are missing" in said.stderr
    with open(place.cwd / "t.csv", newline="") as file:
        (row,) = csv.DictReader(file)
    assert row["factor"] == "augment.hflip" and float(row["lo"]) <= float(row["delta"]) <= float(row["hi"])


def test_again_it_trains_nothing_and_prints_the_same_as_json(place, said):
    again = place.harness("study", "ablate", "tiny", "--seeds", "2", "--factor", "augment", "--json")
    assert "0 of 3 trainings are missing" in again.stderr
    found = json.loads(again.stdout)
    assert set(found) >= {"rows", "noise_floor", "study", "trial", "metric", "seeds"}
    assert set(found["rows"][0]) >= {"factor", "delta", "lo", "hi", "p", "p_holm"}
    assert f"{found['rows'][0]['delta']:+.3f}" in said.stdout


def test_an_ablation_is_no_search(place, said):
    names = [row["study"] for row in json.loads(place.harness("study", "list", "--json").stdout)]
    assert "tiny" in names and not [name for name in names if ".ablation" in name]
    (own,) = [folder.name for folder in (place.home / "work").glob("tiny.ablation-*")]
    refused = place.harness("study", "resume", own)
    assert refused.returncode == 2 and "harness study ablate tiny" in refused.stderr
    assert json.loads(place.harness("study", "show", "--json").stdout)["study"] == "tiny"


def test_a_factor_that_does_not_exist_is_refused(place):
    refused = place.harness("study", "ablate", "tiny", "--factor", "augment.hflp")
    assert refused.returncode == 2 and "Did you mean augment.hflip" in refused.stderr


def test_trials_are_compared(finished):
    done = finished[0].harness("study", "compare", "tiny/0", "tiny/1")
    assert done.returncode == 0, done.stderr
    for part in ("A minus B", "DeLong", "McNemar", "corrected resampled t-test"):
        assert part in done.stdout
    best = json.loads(finished[0].harness("study", "show", "tiny", "--json").stdout)["best"]
    other = 1 - (best["number"])
    itself = finished[0].harness("study", "compare", "tiny", f"tiny/{1 - other}")
    assert itself.returncode == 2 and "compared with itself" in itself.stderr
    found = json.loads(finished[0].harness("study", "compare", "tiny", f"tiny/{other}", "--json").stdout)
    assert found["a"]["best_of"] == 2 and found["corrected"]["metric"] == "auroc" and found["notes"]
    assert {row["metric"] for row in found["metrics"]} >= {"auroc", "accuracy", "log_loss"}
    refused = finished[0].harness("study", "compare", "tiny", "tinny")
    assert refused.returncode == 2 and "Did you mean tiny" in refused.stderr
