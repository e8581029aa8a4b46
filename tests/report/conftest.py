"""A small study that was really run, stopped, ablated and made an ensemble of, on data with hostile names."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from harness.store.home import Home

EVIL = "</script><script>document.title='hit'</script>\"'&"


@dataclass(frozen=True)
class Hostile:
    home: Home
    name: str
    root: Path


@pytest.fixture(scope="session")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Hostile:
    """Two classes, one with a hostile name, 24 patients; four trials raced over three folds, an ablation of two seeds
    around the best, and two ensembles."""
    from harness.config.load import check_study
    from harness.ensemble.build import build
    from harness.search.ablation import plan_ablation, train_arms
    from harness.search.ablation_table import publish, tabulate
    from harness.search.run import run_study
    from harness.store.records import require_study

    folder = tmp_path_factory.mktemp("hostile")
    home, root = Home(folder / "home"), folder / "set"
    _write_images(root)
    data = {"root": str(root), "group": "patient", "folds": 3, "classes": ["well", EVIL], "test_fraction": 0.25}
    tree = {
        "name": "hostile",
        "description": f"Does a name run? {EVIL}",
        "data": {**data, "decode": {"size": 24, "channels": 1}},
        "model": {"backbone": "test_resnet", "dropout": {"choice": [0.0, 0.3]}},
        "optim": {"lr": {"float": [1e-6, 1e-2], "log": True}},
        "train": {"epochs": 2, "precision": "fp32", "batch_size": 16},
        "search": {
            "trials": 4, "sampler": "random", "pruner": "race", "race_p": 0.2,
            "enqueue": [{"optim.lr": 1e-2, "model.dropout": 0.0}, {"optim.lr": 9e-3, "model.dropout": 0.3}],
        },
    }  # fmt: skip
    study = check_study(tree, "test")
    record = run_study(study, home, 1, "cpu", lambda event: None)
    plan = plan_ablation(home, study.name, None, ["model.dropout"], 2)
    arms = train_arms(plan, home, 1, "cpu", lambda event: None)
    publish(tabulate(plan, home, arms, reps=200), home)
    build(home, [require_study(home, record.name)], ["mean", "greedy"], 2, 0, "cpu", reference=False)
    return Hostile(home, study.name, root)


def _write_images(root: Path) -> None:
    """A bright square tells the classes apart, if not always; one file has a hostile name."""
    rng = np.random.default_rng(0)
    (root / "images").mkdir(parents=True)
    lines = ["file,label,patient"]
    for i in range(72):
        ill = i // 3 % 2
        pixels = rng.integers(0, 200, (24, 24), dtype=np.uint8)
        if ill and rng.random() < 0.9:
            pixels[6:16, 6:16] += 55
        name = "images/<img src=x onerror=alert(1)>.png" if i == 0 else f"images/img{i:02d}.png"
        Image.fromarray(pixels).save(root / name)
        label = EVIL.replace('"', '""') if ill else "well"
        lines.append(f'"{name}","{label}",secret-patient-{i // 3}')
    (root / "labels.csv").write_text("\n".join(lines) + "\n")
