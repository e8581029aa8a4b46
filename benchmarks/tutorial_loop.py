"""Training of a fold against the usual tutorial loop: files on disk, decoded and transformed anew in every epoch.

The tutorial's side is what a beginner writes from PyTorch's documentation: ImageFolder, PIL, torchvision's transforms,
a DataLoader with workers, fp32, Adam, validation every epoch, loss.item() every step. The harness's side is fit_fold on
its pixel store. Both see the same images, augmentations (flip, rotation), batches, validation rows and epochs. The
first epoch of each is left out; the store is decoded once, and how long that took is given beside.

    python -m benchmarks.tutorial_loop [--backbone resnet18] [--size 128] [--workers 2] [--json]
"""

import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import timm
import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader
from torchvision import datasets, transforms

from benchmarks._folds import card_memory, harness_epoch, spec_of, wait_for
from benchmarks._report import arguments, publish
from harness.images.pixels import Ragged, open_store, select
from harness.store.home import Home
from harness.train.loop import FoldData
from harness.train.precision import choose_precision

BACKBONES = ("resnet18", "resnet10t")
GREY = ([0.5] * 3, [0.25] * 3)


def draw_images(root: Path, rows: int, sides: tuple[int, int]) -> None:
    """root/{train,val}/{healthy,ill}/NNNN.jpg, a quarter as many to validate on: blurred noise, as compressible as
    photographs are."""
    rng = np.random.default_rng(0)
    for part, count in (("train", rows), ("val", rows // 4)):
        for number in range(count):
            folder = root / part / ("healthy", "ill")[number % 2]
            folder.mkdir(parents=True, exist_ok=True)
            coarse = Image.fromarray(rng.integers(0, 256, (sides[1] // 8, sides[0] // 8, 3), dtype=np.uint8))
            coarse.resize(sides, Image.Resampling.BICUBIC).save(folder / f"{number:05d}.jpg", quality=90)


def tutorial_epoch(root: Path, backbone: str, size: int, batch: int, epochs: int, workers: int, device: str) -> float:
    """Seconds of an epoch, the first one left out."""
    train_set = datasets.ImageFolder(
        root / "train",
        transforms.Compose(
            [
                transforms.Resize((size, size)),
                transforms.RandomHorizontalFlip(),
                transforms.RandomRotation(15),
                transforms.ToTensor(),
                transforms.Normalize(*GREY),
            ]
        ),
    )
    val_set = datasets.ImageFolder(
        root / "val",
        transforms.Compose([transforms.Resize((size, size)), transforms.ToTensor(), transforms.Normalize(*GREY)]),
    )
    train_loader = DataLoader(train_set, batch_size=batch, shuffle=True, num_workers=workers)
    val_loader = DataLoader(val_set, batch_size=batch, num_workers=workers)
    model = timm.create_model(backbone, num_classes=2).to(device)
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    start = 0.0
    for epoch in range(epochs):
        if epoch == 1:
            wait_for(device)
            start = time.perf_counter()
        model.train()
        running_loss = 0.0
        for images, labels in train_loader:
            images, labels = images.to(device), labels.to(device)
            optimizer.zero_grad()
            loss = criterion(model(images), labels)
            torch.autograd.backward(loss)
            optimizer.step()
            running_loss += loss.item()
        model.eval()
        correct = 0
        with torch.no_grad():
            for images, labels in val_loader:
                images, labels = images.to(device), labels.to(device)
                correct += (model(images).argmax(1) == labels).sum().item()
    wait_for(device)
    return (time.perf_counter() - start) / (epochs - 1)


def store_of(root: Path, size: int, home: Path) -> tuple[FoldData, float]:
    """The same images in a pixel store, and the seconds that decoding them took."""
    files = sorted(root.glob("*/*/*.jpg"))
    names = [path.relative_to(root).as_posix() for path in files]
    rows = pd.DataFrame({"id": names, "size_bytes": [path.stat().st_size for path in files], "mtime_ns": 1})
    how = spec_of("resnet18", size, 3, 2, 1).data.decode
    start = time.perf_counter()
    pixels = open_store(root, rows, how, Home(home), lambda what, done, total: None).pixels
    seconds = time.perf_counter() - start
    assert not isinstance(pixels, Ragged)
    train = np.flatnonzero([name.startswith("train/") for name in names])
    val = np.flatnonzero([name.startswith("val/") for name in names])
    y = np.array(["/ill/" in name for name in names], dtype=np.int64)
    return FoldData(0, select(pixels, train), y[train], select(pixels, val), y[val], 2), seconds


def main() -> None:
    on_card = torch.cuda.is_available()
    parser = arguments(__doc__ or "")
    parser.add_argument("--backbone", action="append", help=f"several times for several; {' and '.join(BACKBONES)}")
    parser.add_argument("--size", type=int, default=224 if on_card else 128)
    parser.add_argument("--batch", type=int, default=64 if on_card else 32)
    parser.add_argument("--rows", type=int, default=2048 if on_card else 256)
    parser.add_argument("--sides", type=int, nargs=2, default=(320, 256), metavar=("WIDTH", "HEIGHT"))
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--device", default="cuda" if on_card else "cpu")
    options = parser.parse_args()
    size, batch, epochs, device = options.size, options.batch, options.epochs, options.device
    found: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "images"
        draw_images(root, options.rows, tuple(options.sides))
        data, decoding = store_of(root, size, Path(folder) / "home")
        for backbone in options.backbone or BACKBONES:
            augment = {"hflip": 0.5, "rotate": 15.0}
            spec = spec_of(backbone, size, 3, batch, epochs, augment=augment, optim={"name": "adam"})
            precision = choose_precision(spec, device)
            usual, ours = [], []
            memory: dict[str, dict[str, float]] = {}
            card_memory(device)
            for _ in range(options.rounds):
                ours.append(harness_epoch(spec, data, device, precision))
                memory["harness"] = card_memory(device)
                usual.append(tutorial_epoch(root, backbone, size, batch, epochs, options.workers, device))
                memory["tutorial"] = card_memory(device)
            found.append(
                {
                    "backbone": backbone,
                    "ratio": round(min(usual) / min(ours), 2),
                    "precision": str(precision),
                    "images_per_second": {
                        "tutorial": round(options.rows / min(usual)),
                        "harness": round(options.rows / min(ours)),
                    },
                    **({"memory": memory} if device.startswith("cuda") else {}),
                }
            )
    publish(
        "tutorial_loop",
        min(case["ratio"] for case in found),
        8.0 if device.startswith("cuda") else 2.5,
        options,
        cases=found,
        size=size,
        batch=batch,
        rows=options.rows,
        files="{}x{} JPEG".format(*options.sides),
        workers=options.workers,
        decoding_seconds_once=round(decoding, 2),
        device=device,
    )


if __name__ == "__main__":
    main()
