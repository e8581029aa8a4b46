"""The drawing of how a bundle answers, against the bundle itself."""

import shutil

import pytest
from drawn_text import read_drawing
from spoiled_bundles import rewrite

from harness.ensemble.bundle import SHOWN, ensemble_diagram
from harness.ensemble.bundle_files import read_about
from harness.models.diagram import mermaid, plantuml


@pytest.mark.parametrize("method", ["mean", "stacking", "boosting"])
def test_every_step_of_an_answer_is_drawn(built, method) -> None:
    drawing = ensemble_diagram(*read_about(built[method].bundle))
    lines = {box.key: box.lines for box in drawing.boxes}
    assert lines["decode 0"] == ("decode", "32 x 32 px, grey", "fit: pad")
    assert lines["member 0"] == ("trial-0000", "test_resnet", "3 fold models")
    assert lines["method"][0] == method
    arrows = {(arrow.start, arrow.end): arrow.label for arrow in drawing.arrows}
    assert arrows["decode 0", "member 1"] == "1 x 32 x 32"
    assert arrows["member 1", "method"] == "3 x 2 logits" + (", embeddings" if method == "boosting" else "")
    for chain in (("method", "calibration"), ("calibration", "decisions"), ("decisions", "answer")):
        assert chain in arrows
    assert ("reference", "answer") in arrows
    for write in (mermaid, plantuml):
        boxes, drawn = read_drawing(write(drawing), write.__name__)
        assert len(boxes) == len(drawing.boxes) and len(drawn) == len(drawing.arrows)


def test_many_members_and_several_decodings(built, tmp_path) -> None:
    folder = shutil.copytree(built["mean"].bundle, tmp_path / "many")

    def change(about):
        first = about["members"][0]
        about["decodes"].append({"size": "native", "channels": 3, "longest": 512, "fit": "pad", "window": [40.0, 80.0]})
        about["members"] = [{**first, "name": f"trial-{n:04d}", "decode": n % 2} for n in range(50)]
        del about["calibration"], about["decisions"]

    rewrite(folder, change)
    drawing = ensemble_diagram(*read_about(folder))
    lines = {box.key: box.lines for box in drawing.boxes}
    assert sum(key.startswith("member ") for key in lines) == SHOWN
    assert lines["more"] == (f"{50 - SHOWN} more members", f"{3 * (50 - SHOWN)} fold models")
    assert lines["decode 1"][1:] == ("own size, up to 512 px, RGB", "fit: pad", "DICOM window (40.0, 80.0)")
    arrows = {(arrow.start, arrow.end) for arrow in drawing.arrows}
    assert {("decode 0", "more"), ("decode 1", "more"), ("method", "answer")} <= arrows
    read_drawing(mermaid(drawing), "mermaid")
