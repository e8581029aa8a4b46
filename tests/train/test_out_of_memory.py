"""Memory that does not suffice, for real: a process of limited memory goes on in smaller pieces, or says so."""

import json
import subprocess
import sys

import pytest

from harness.train.out_of_memory import pieces

CODE = """
import json, resource, sys
import numpy as np
from pathlib import Path
import torch
from harness.study.load import build_spec
from harness.train.checkpoint import ResumeState
from harness.train.loop import FoldData, fit_fold
from harness.train.precision import Precision

torch.set_num_threads(1)
folder, batch = Path(sys.argv[1]), 64
tree = {"name": "memory", "data": {"root": "-", "group": "none", "decode": {"size": 96}},
        "model": {"backbone": "resnet10t"}, "optim": {"name": "sgd", "lr": 0.01},
        "train": {"epochs": 1, "batch_size": batch}}
rng = np.random.default_rng(0)
x, y = rng.integers(0, 255, (batch + 4, 96, 96, 1)).astype(np.uint8), np.arange(batch + 4) % 2

def fit(name, rows):
    reports, data = [], FoldData(0, x[:rows], y[:rows], x[-4:], y[-4:], 2)
    one = Precision("fp32", channels_last=True)
    fit_fold(build_spec(tree, "memory"), data, "cpu", one, ResumeState(folder / name), reports.append)
    return reports[0]

def limit(megabytes):
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + megabytes * 2**20, resource.RLIM_INFINITY))

said = {}
fit("warm", 4)
limit(150)
tight = fit("tight", batch)
said["tight"] = [tight.parts, tight.train_loss]
resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
whole = fit("whole", batch)
said["whole"] = [whole.parts, whole.train_loss]
limit(1)
try:
    fit("none", batch)
except Exception as error:
    said["none"] = f"{type(error).__name__}: {error}"
print(json.dumps(said))
"""


def test_a_batch_that_does_not_fit_is_computed_in_pieces_and_said_so_where_two_images_do_not(tmp_path):
    done = subprocess.run([sys.executable, "-c", CODE, str(tmp_path)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    said = json.loads(done.stdout.splitlines()[-1])
    (parts, tight), (whole_parts, whole) = said["tight"], said["whole"]
    assert parts > 1 and whole_parts == 1
    # the same rows and the same gradients but for batch norm's statistics, which are those of a piece
    assert tight == pytest.approx(whole, rel=0.3)
    assert said["none"].startswith("OutOfMemory: out of memory") or "memory" in said["none"]


def test_pieces_hold_every_row_once_and_never_a_single_one() -> None:
    for rows in range(2, 40):
        for parts in (1, 2, 4, 8, 64):
            found = pieces(rows, parts)
            assert [row for piece in found for row in range(rows)[piece]] == list(range(rows))
            assert min(len(range(rows)[piece]) for piece in found) >= 2
    assert pieces(1, 4) == [slice(0, 1)]
