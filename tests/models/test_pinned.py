"""A file of weights that changed since its study began is noticed."""

import pytest
import safetensors.torch

from benchmarks._tiny_study import tiny_tree
from harness.config.load import check_study
from harness.errors import RequestError
from harness.models.backbones import build_backbone
from harness.models.network import pin_weights, require_same_weights
from harness.search.dry_run import dry_run
from harness.search.run import run_study
from harness.store.home import Home
from harness.store.records import read_study, read_trials


@pytest.fixture
def file(tmp_path):
    network, _, _ = build_backbone("test_resnet", "none", 1, 24)
    path = tmp_path / "start.safetensors"
    safetensors.torch.save_file({name: t.contiguous() for name, t in network.state_dict().items()}, path)
    return path


def change(path):
    state = safetensors.torch.load_file(path)
    name = next(name for name, tensor in state.items() if tensor.is_floating_point())
    safetensors.torch.save_file({**state, name: state[name] + 0.5}, path)


def test_a_resume_with_another_file_is_refused(tmp_path, file):
    home = Home(tmp_path / "home")

    def study(trials):
        tree = tiny_tree(
            name="begun", data__folds=2, data__decode__size=24, train__epochs=1, search__trials=trials,
            model__weights=str(file),
        )  # fmt: skip
        return check_study(tree, "begun")

    def run(trials):
        return run_study(study(trials), home, 1, "cpu", lambda event: None)

    home.root.mkdir()
    assert run(1).weights == pin_weights([str(file)], ["test_resnet"])
    before = file.read_bytes()
    change(file)
    for again in (run, lambda trials: dry_run(study(trials), home, 1, "cpu", lambda event: None)):
        with pytest.raises(RequestError, match=rf"{file} has changed since study 'begun' began.*--as NEWNAME"):
            again(2)
    assert len(read_trials(home, "begun")) == 1
    file.write_bytes(before)
    assert run(2).state == "complete" and len(read_trials(home, "begun")) == 2
    assert read_study(home, "begun").weights == pin_weights([str(file)], ["test_resnet"])
    change(file)
    assert run(2).state == "complete"  # nothing is left to train


def test_what_means_no_file_pins_none():
    assert pin_weights(["none", "study:other"], ["resnet18"]) == {}
    require_same_weights({}, "none", "resnet18", "any")
