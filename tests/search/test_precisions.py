"""What a study is told of its number formats."""

from benchmarks._tiny_study import tiny
from harness.search.run import choose_precisions, say_precisions
from harness.types import PrecisionChosen


def told(chosen: dict[str, str], kept: dict[str, str] | None = None) -> list[str]:
    lines: list[str] = []
    say_precisions(chosen, lambda event: lines.append(event.line) if isinstance(event, PrecisionChosen) else None, kept)
    return lines


def test_every_backbone_has_a_format():
    study = tiny(model__backbone={"choice": ["test_resnet", "mobilenetv3_small_050"]}, train__precision="bf16")
    chosen = choose_precisions(study, "cpu")
    assert chosen == dict.fromkeys(("test_resnet", "mobilenetv3_small_050"), "bf16+channels_last")
    assert told(chosen) == [f"{name} trains in bf16+channels_last" for name in chosen]


def test_a_resume_on_other_hardware_keeps_the_format_and_says_so():
    here, begun = {"resnet18": "fp32+channels_last"}, {"resnet18": "bf16+channels_last"}
    (line,) = told(here, begun)
    assert "goes on in bf16+channels_last, as the study began" in line and line.endswith("fp32+channels_last")
    assert told(here, here) == []
