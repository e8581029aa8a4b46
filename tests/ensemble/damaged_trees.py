"""python damaged_trees.py FILE N: N random changes of trees; what is not refused predicts.

Prints how many were refused and how many were harmless. A crash or an endless loop shows as this process's end.
"""

import json
import random
import re
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import xgboost

from harness.ensemble.boosting import check_trees, read_trees
from harness.errors import RequestError


def damaged(data: bytes, rng: random.Random) -> bytes:
    changed = bytearray(data)
    kind = rng.choice(["bytes", "cut", "run", "length"])
    if kind == "bytes":
        for _ in range(rng.randint(1, 4)):
            changed[rng.randrange(len(changed))] = rng.randrange(256)
    elif kind == "cut":
        del changed[rng.randrange(len(changed)) :]
    elif kind == "run":
        start = rng.randrange(len(changed))
        changed[start : start + 8] = rng.randbytes(8)
    else:
        start = rng.choice([found.end() for found in re.finditer(rb"#L", data)])
        changed[start : start + 8] = rng.choice([2**62, 2**40, 2**31, -1, 3]).to_bytes(8, "big", signed=True)
    return bytes(changed)


def main() -> None:
    data, count = Path(sys.argv[1]).read_bytes(), int(sys.argv[2])
    booster = xgboost.Booster()
    booster.load_model(bytearray(data))
    features = booster.num_features()
    x = np.random.default_rng(0).normal(size=(20, features)).astype(np.float32)
    found: Counter[str] = Counter()
    for seed in range(count):
        spoiled = damaged(data, random.Random(seed))
        try:
            check_trees(spoiled, "trees")
            trees = read_trees(np.arange(2), 2, spoiled, "trees")
        except RequestError:
            found["refused"] += 1
            continue
        p = trees.predict(x)
        assert len(p) == len(x)
        found["harmless"] += 1
    print(json.dumps(found))


if __name__ == "__main__":
    main()
