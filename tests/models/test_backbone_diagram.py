"""Diagrams of backbones against what is known of them: their shapes, their parameters, their skip connections."""

import re

import pytest
import torch
from drawn_text import read_drawing
from torch import nn

from harness.errors import RequestError
from harness.models.dataflow import INPUT, OUTPUT, Flow, watch
from harness.models.diagram import Drawing, diagram, mermaid, plantuml
from harness.models.network import outline


def draw(name: str, depth: int = 1, size: int = 64) -> Drawing:
    return diagram(outline(name, 2, 3, size), name, 3, size, depth)


def lines(drawing: Drawing) -> list[tuple[str, ...]]:
    return [box.lines for box in drawing.boxes]


def counted(drawing: Drawing) -> int:
    """The parameters that its boxes speak of, repeated ones as often as they are said to be."""
    total = 0
    for box in drawing.boxes:
        found = re.fullmatch(r"(?:(\d+) x )?([\d,]+) parameters", box.lines[-1])
        total += int(found[1] or 1) * int(found[2].replace(",", "")) if found else 0
    return total


def test_a_resnet_has_the_shapes_of_its_paper() -> None:
    """He et al. 2016, table 1, ResNet-18 at 224 px, and 11.18 million parameters with a head for two classes."""
    drawing = draw("resnet18", size=224)
    assert [arrow.label for arrow in drawing.arrows] == [
        "3 x 224 x 224",
        *("64 x 56 x 56", "64 x 56 x 56", "128 x 28 x 28", "256 x 14 x 14"),
        *("512", "2"),
    ]
    assert ("layer1", "2 BasicBlock", "147,968 parameters") in lines(drawing)
    assert drawing.boxes[-1].lines == ("logits", "11,177,538 parameters in all")
    assert counted(drawing) == 11_177_538


def test_repeated_blocks_are_one_box() -> None:
    """ResNet-50 has 3, 4, 6 and 3 bottlenecks, of which the first of each stage is another."""
    drawing = draw("resnet50", depth=2, size=224)
    titles = [box.lines[0] for box in drawing.boxes]
    for stage, last in ((1, 2), (2, 3), (3, 5), (4, 2)):
        assert f"layer{stage}.0" in titles and f"layer{stage}.1 to layer{stage}.{last}" in titles
    assert counted(drawing) == sum(p.numel() for p in outline("resnet50", 2, 3, 224).parameters())


def test_a_transformers_blocks_fold_and_its_skips_are_drawn() -> None:
    drawing = draw("vit_tiny_patch16_224", depth=2, size=224)
    named = {box.lines[0]: box.key for box in drawing.boxes if len(box.lines) > 1}
    assert drawing.boxes[2].inside == ("blocks.0 to blocks.10, 11 x 444,864 parameters",)
    into = {arrow.end: [a.start for a in drawing.arrows if a.end == arrow.end] for arrow in drawing.arrows}
    adds = [box.key for box in drawing.boxes if box.lines == ("add",)]
    assert len(adds) == 2
    assert into[adds[0]] == [named["patch_embed.proj"], named["blocks.0.attn"]]
    assert into[adds[1]] == [adds[0], named["blocks.0.mlp"]]
    assert into[named["blocks.0.norm2"]] == [adds[0]] and into[named["blocks.11"]] == [adds[1]]


def test_branches_meet_in_their_concatenation() -> None:
    drawing = draw("torchvision/googlenet", depth=2)
    joint = next(box.key for box in drawing.boxes if box.lines == ("cat",))
    assert [a.start for a in drawing.arrows if a.end == joint] == [f"inception3a.branch{n}" for n in (1, 2, 3, 4)]
    assert not any("aux" in box.key for box in drawing.boxes)  # for training alone: never called


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(8, 2)
        self.unused = nn.Linear(1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a = self.a(x).relu_()
        b = self.b(a)
        b += a
        return self.c(torch.cat([b * 2, x.flip(1)], dim=1))


def test_what_flows_between_parts_of_a_network_written_by_hand() -> None:
    flows, joints = watch(Small(), {"A": ["a"], "B": ["b"], "C": ["c"], "U": ["unused"]}, torch.zeros(1, 4))
    assert [(joint.function, joint.after) for joint in joints] == [("add", "B"), ("cat", "B")]
    plus, cat = (joint.name for joint in joints)
    assert flows == [
        Flow(INPUT, "A", (4,)),
        Flow("A", "B", (4,)),
        Flow("B", plus, (4,)),
        Flow("A", plus, (4,)),
        Flow(plus, cat, (4,)),
        Flow(INPUT, cat, (4,)),
        Flow(cat, "C", (8,)),
        Flow("C", OUTPUT, (2,)),
    ]
    # one part for a and b: what happens inside of it, its own sum too, is not seen
    whole, _ = watch(nn.Sequential(Small()), {"S": ["0"]}, torch.zeros(1, 4))
    assert whole == [Flow(INPUT, "S", (4,)), Flow("S", OUTPUT, (2,))]


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "torchvision/regnet_y_400mf", "mobilenetv3_small_050"])
@pytest.mark.parametrize("depth", [1, 3])
def test_both_languages_say_the_same(name: str, depth: int) -> None:
    drawing = draw(name, depth)
    for write in (mermaid, plantuml):
        boxes, arrows = read_drawing(write(drawing), write.__name__)
        assert len(boxes) == len(drawing.boxes) and len(arrows) == len(drawing.arrows)
    starts, ends = ({getattr(arrow, end) for arrow in drawing.arrows} for end in ("start", "end"))
    assert starts | {OUTPUT} == ends | {INPUT} == {box.key for box in drawing.boxes}  # nothing hangs loose


def test_the_hooks_are_gone_afterwards() -> None:
    network = outline("test_resnet", 2, 3, 64)
    diagram(network, "test_resnet", 3, 64, 2)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())


@pytest.mark.parametrize("depth", [0, 99])
def test_a_depth_out_of_range_is_refused(depth: int) -> None:
    with pytest.raises(RequestError, match=f"--depth {depth}: give a number from 1"):
        draw("test_resnet", depth)
