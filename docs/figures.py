"""The figures of the documentation, made by harness itself.

python docs/figures.py       writes docs/images/augmentation.png and docs/images/best-of-n.svg
"""

import tempfile
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib import pyplot

from harness.config.data import Decode
from harness.config.spec import Augment
from harness.data.phantom import write_phantom
from harness.images.decode import decode
from harness.metrics import mean_over_folds
from harness.report.data_page import augmented
from harness.stats.optimism import Search, best_corrected

IMAGES = Path(__file__).parent / "images"
SWITCHES = (
    {},
    {"hflip": 1.0},
    {"rotate": 25.0},
    {"translate": 0.2},
    {"scale": 0.3},
    {"brightness": 0.4},
    {"contrast": 0.7},
    {"gamma": 0.9},
    {"noise": 0.15},
    {"blur": 2.5},
    {"erase": 1.0},
    {"policy": "trivialaugment", "policy_magnitude": 0.8},
)
TRIALS = (1, 2, 5, 10, 20, 50)
PATIENTS = 60  # of each class
SEPARATION = 1.19  # two normal distributions this far apart have an AUROC of .80


def augmentation() -> None:
    """One slice with a bleed, unchanged and under one switch at a time."""
    with tempfile.TemporaryDirectory() as folder:
        images = Path(folder)
        write_phantom(images, lambda what, done, total: None)
        pixels = decode(images / "images/img0003.png", Decode(size=96, channels=1))
    figure, axes = pyplot.subplots(2, 6, figsize=(9, 3.5), layout="constrained", facecolor="white")
    for number, (axis, switch) in enumerate(zip(axes.flat, SWITCHES, strict=True)):
        draws = augmented(pixels, Augment(**switch), 4, 3)
        shown = draws[2 if number < 11 else 3]  # type: ignore[arg-type]
        axis.imshow(shown.squeeze(-1), cmap="gray", vmin=0, vmax=255)
        name = next(iter(switch), "unchanged")
        axis.set_title(name if name != "policy" else "trivialaugment", fontsize=9)
        axis.axis("off")
    figure.savefig(IMAGES / "augmentation.png", dpi=110, metadata={"Software": None})


def best_of_n() -> None:
    """The best of N equally good trials: what it seems to be worth, and its value corrected for the choice."""
    rng = np.random.default_rng(0)
    y = np.repeat([0, 1], PATIENTS)
    groups, fold = np.arange(len(y)).astype(str), np.arange(len(y)) % 5
    seems: list[list[float]] = [[] for _ in TRIALS]
    corrected: list[list[float]] = [[] for _ in TRIALS]
    for _ in range(60):
        scores = rng.normal(size=(max(TRIALS), len(y))) * 0.8 + rng.normal(size=len(y)) * 0.6 + SEPARATION * y
        p = 1 / (1 + np.exp(-scores))
        trials = np.stack([1 - p, p], axis=-1)
        values = [float(mean_over_folds("auroc", y, one, fold)[0]) for one in trials]
        for place, number in enumerate(TRIALS):
            seems[place].append(max(values[:number]))
            corrected[place].append(best_corrected("auroc", y, fold, groups, Search(trials[:number])).value)
    matplotlib.rcParams["svg.hashsalt"] = "best-of-n"
    figure, axis = pyplot.subplots(figsize=(6.4, 3.4), layout="constrained", facecolor="white")
    axis.axhline(0.8, color="#555555", linewidth=1, linestyle=":", label="the truth")
    axis.plot(TRIALS, [np.mean(each) for each in seems], "o-", color="#d55e00", label="the best one's own score")
    axis.plot(TRIALS, [np.mean(each) for each in corrected], "s--", color="#0072b2", label="corrected for the choice")
    axis.set_xscale("log", base=10)
    axis.set_xticks(TRIALS, [str(number) for number in TRIALS])
    axis.minorticks_off()
    axis.set_xlabel("trials to choose from")
    axis.set_ylabel("out-of-fold AUROC")
    axis.legend(frameon=False)
    axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(IMAGES / "best-of-n.svg", metadata={"Date": None})


if __name__ == "__main__":
    matplotlib.use("agg")
    augmentation()
    best_of_n()
