"""Small studies whose trials begin at one file of weights, as fine-tunes of a published network do."""

from pathlib import Path

from safetensors.torch import save_file

from benchmarks._tiny_study import tiny
from harness.config.spec import Model
from harness.models.network import build_network
from harness.search.run import run_study
from harness.store.home import Home
from harness.store.records import StudyRecord


def start_file(folder: Path, backbone: str = "test_resnet", seed: int = 7) -> Path:
    """The weights of a backbone, as a library would publish them."""
    folder.mkdir(parents=True, exist_ok=True)
    network = build_network(Model(backbone=backbone), 2, 1, 32, seed=seed)
    path = folder / f"{backbone}-{seed}.safetensors"
    tensors = {name: tensor.contiguous() for name, tensor in network.backbone.state_dict().items()}
    save_file(tensors, str(path))
    return path


def fine_tuned(home: Home, weights: str, name: str = "fine", **values) -> StudyRecord:
    """Three trials of three folds on the built-in data set, that differ in their learning rate."""
    start = {"name": name, "model__weights": weights, "optim__lr": {"choice": [1e-3, 2e-3, 4e-3]}}
    short = {"train__epochs": 1, "search__trials": 3, "search__sampler": "grid"}
    return run_study(tiny(**{**start, **short, **values}), home, 1, "cpu", lambda event: None)
