"""Do heat maps point at what is there? The pointing game (Zhang et al. 2018) on the built-in data set.

A ResNet and a vision transformer are trained on the phantom as any study trains (two folds). Then slices of patients
that no study has are drawn, whose bleed's box is known, and counted is how often the hottest place of the heat map
(mean over the two fold models) lies inside the box. Beside it: chance, the box's share of the image; pointing always at
the image's middle; and the same networks with new random weights, whose maps must know nothing (Adebayo et al. 2018).

ratio: the lower end of the weaker network's hit rate over chance.
"""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks._report import arguments, publish
from benchmarks._tiny_study import tiny
from harness.config.data import Decode
from harness.config.spec import Model
from harness.data.phantom import PATIENTS, display, draw
from harness.images.decode import to_size
from harness.metrics import METRICS, softmax
from harness.models.network import Network, build_network
from harness.predict.explain import grad_cam, heat_maps, scaled
from harness.search.run import run_study
from harness.stats.intervals import share
from harness.store.home import Home
from harness.store.records import read_trials
from harness.train.checkpoint import load_fold, read_meta
from harness.train.inference import infer

BLEEDS = 150
"""new slices with a bleed"""
GOAL = 2.0
NETWORKS = {
    "cnn": {"backbone": "resnet10t", "size": 64, "lr": 2e-3, "epochs": 12},
    "vit": {"backbone": "deit_tiny_patch16_224", "size": 96, "lr": 5e-4, "epochs": 30},
}
Box = tuple[float, float, float, float]


def train(name: str, home: Home, backbone: str, size: int, lr: float, epochs: int) -> list[Path]:
    """The two fold models of one trial."""
    study = tiny(
        name=name,
        data__folds=2,
        data__decode__size=size,
        model__backbone=backbone,
        optim__lr=lr,
        augment={"hflip": 0.5, "vflip": 0.5, "rotate": 15, "translate": 0.1},
        train={"epochs": epochs, "batch_size": 16},
        search__trials=1,
    )
    run_study(study, home, 1, "auto", lambda event: None)
    (trial,) = read_trials(home, name)
    folder = home.run_artifacts(name, trial.run_id)
    return [folder / f"fold_{k}" / "weights.safetensors" for k in range(2)]


def new_slices(how: Decode) -> tuple[NDArray[np.uint8], list[Box], NDArray[np.int64], NDArray[np.str_]]:
    """(pixels, boxes in pixels of the bleeds in order, labels, patients) of patients beyond those of the data set."""
    pixels, boxes, labels, patients = [], [], [], []
    patient = PATIENTS
    while len(boxes) < BLEEDS:
        one = draw(patient, 0)
        height, width = one.hu.shape
        pixels.append(to_size(np.round(display(one) * 255).astype(np.uint8), how))
        labels.append(int(one.box is not None))
        patients.append(one.patient)
        if one.box is not None:  # where `pad` puts the image on its square
            scale = how.side / max(height, width)
            right, down = (how.side - width * scale) / 2, (how.side - height * scale) / 2
            x0, y0, x1, y1 = one.box
            sides = (width * scale, height * scale)
            boxes.append((right + x0 * sides[0], down + y0 * sides[1], right + x1 * sides[0], down + y1 * sides[1]))
        patient += 1
    return np.stack(pixels), boxes, np.array(labels), np.array(patients)


def is_inside(heat: NDArray[np.float32], box: Box) -> bool:
    y, x = np.unravel_index(int(heat.argmax()), heat.shape)
    return bool(heat.max() > 0 and box[0] <= x + 0.5 <= box[2] and box[1] <= y + 0.5 <= box[3])


def random_weights(network: Network, meta: Any) -> Network:
    """The same architecture as it was before any step."""
    model = Model.model_validate({**meta.model, "weights": "none"})
    how = Decode.model_validate(meta.decode)
    return build_network(model, len(meta.classes), how.channels, how.side, seed=meta.fold + 1)


def measure(weights: list[Path]) -> dict[str, Any]:
    how = Decode.model_validate(read_meta(weights[0]).decode)
    pixels, boxes, labels, patients = new_slices(how)
    bleeds = pixels[labels == 1]
    ones = np.ones(len(bleeds), dtype=np.int64)
    who = patients[labels == 1]
    networks = [load_fold(path) for path in weights]
    p = np.mean([softmax(infer(network, meta, pixels)[0]) for network, meta in networks], axis=0)
    untrained = [grad_cam(random_weights(*one), one[1], bleeds, ones) for one in networks]
    maps = {
        "hits": heat_maps(weights, bleeds, ones, "cpu"),
        "untrained": [scaled(np.mean(pair, axis=0)) for pair in zip(*untrained, strict=True)],
    }
    found: dict[str, Any] = {}
    for name, heats in maps.items():
        hit = np.array([is_inside(heat, box) for heat, box in zip(heats, boxes, strict=True)])
        found[name] = [round(x, 3) for x in vars(share(hit, who)).values()]
    middle = how.side / 2
    area = [(b[2] - b[0]) * (b[3] - b[1]) / how.side**2 for b in boxes]
    found["chance"] = round(float(np.mean(area)), 3)
    found["middle"] = round(float(np.mean([b[0] <= middle <= b[2] and b[1] <= middle <= b[3] for b in boxes])), 3)
    found["auroc"] = round(float(METRICS["auroc"].of(labels, p, None)[0]), 3)
    return found


def main() -> None:
    options = arguments(__doc__ or "").parse_args()
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, how in NETWORKS.items():
            found[name] = measure(train(name, Home(Path(folder)), **how))
    ratio = min(one["hits"][1] / one["chance"] for one in found.values())
    publish("overlay_hits", ratio, GOAL, options, bleeds=BLEEDS, columns="value, lo, hi", **found)


if __name__ == "__main__":
    main()
