"""What augmentation does to real images: a few of them under several draws, at the largest changes a study allows."""

import numpy as np
import torch
from numpy.typing import NDArray

from harness.augment.pipeline import apply
from harness.augment.sampling import GATED, draw
from harness.config.load import Study
from harness.config.space import extremes
from harness.config.spec import Augment
from harness.seeds import derive_seed

MIXING = ("mixup", "cutmix", "synthetic", "drawn_lesions")
"""what needs more than one picture"""


def largest_augmentation(study: Study) -> Augment:
    """Every augmentation at the largest value that the study may draw, the first policy among several; those without a
    range at their own."""
    values = study.spec.augment.model_dump()
    for name, range_ in study.space.items():
        if name == "augment.policy":
            values["policy"] = next((end for end in extremes(range_) if end != "none"), "none")
        elif name.startswith("augment."):
            values[name.removeprefix("augment.")] = max(end for end in extremes(range_) if end is not None)
    return Augment(**values)


def changes(spec: Augment) -> dict[str, float | str]:
    """What changes a single picture, by the names of the keys, with their values; those that are off are left out."""
    on = {name: value for name, value in spec.model_dump().items() if value not in (0, "none") and name not in MIXING}
    strengths = {"randaugment": ("policy_ops", "policy_magnitude"), "trivialaugment": ("policy_magnitude",)}
    for name in {"policy_ops", "policy_magnitude"}.difference(strengths.get(spec.policy, ())):
        on.pop(name, None)
    if spec.probability == 1 or not any(name in on for name in GATED):
        on.pop("probability", None)
    if not spec.probability:
        on = {name: value for name, value in on.items() if name not in GATED}
    return on


def augmented(pixels: NDArray[np.uint8], spec: Augment, draws: int, seed: int) -> NDArray[np.uint8]:
    """(draws, S, S, channels) one image (S, S, channels) under that many draws."""
    generator = torch.Generator().manual_seed(derive_seed(seed, "preview"))
    image = torch.from_numpy(np.array(pixels, dtype=np.float32) / 255).permute(2, 0, 1)
    batch = image.expand(draws, *image.shape).contiguous()
    changed = apply(batch, draw(draws, generator), spec).permute(0, 2, 3, 1)
    return np.asarray((changed * 255).round().clamp(0, 255).to(torch.uint8).numpy())
