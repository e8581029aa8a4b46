"""Names of labels: nothing is guessed, every refusal says what to type."""

import pytest

from harness.errors import RequestError
from harness.predict.external import columns_mapping, in_words, label_mapping

OURS = ("NORMAL", "PNEUMONIA")


def test_names_that_are_alike_need_no_map_and_others_are_mapped_or_left_out():
    assert label_mapping(["PNEUMONIA", "NORMAL"], OURS, []) == {"PNEUMONIA": "PNEUMONIA", "NORMAL": "NORMAL"}
    found = label_mapping(["0", "1", "2", "9"], OURS, ["0=NORMAL", "1=PNEUMONIA", "2=PNEUMONIA", "9=-"])
    assert found == {"0": "NORMAL", "1": "PNEUMONIA", "2": "PNEUMONIA", "9": None}
    assert in_words(found) == ["0 -> NORMAL", "1 -> PNEUMONIA", "2 -> PNEUMONIA", "9 -> left out"]
    assert label_mapping(["a=b", "NORMAL"], OURS, ["a=b=PNEUMONIA"])["a=b"] == "PNEUMONIA"


@pytest.mark.parametrize(
    ("theirs", "maps", "says"),
    [
        (["NORMAL", "Pneumonia"], [], r"'Pneumonia' is no class.*Did you mean PNEUMONIA.*--map Pneumonia=CLASS"),
        (["NORMAL", "tuberculosis"], [], r"--map tuberculosis=- to leave its rows out"),
        (["0", "1"], [], r"labels '0', '1' are no class"),
        (["0", "1"], ["0=NORMAL"], r"label '1' is no class"),
        (["0", "1"], ["0=NORMAL", "1=PNEUMONA"], r"no class 'PNEUMONA'.*Did you mean PNEUMONIA"),
        (["zero", "one"], ["zeor=NORMAL"], r"no label 'zeor'.*Did you mean zero"),
        (["0", "1"], ["0=NORMAL", "0=PNEUMONIA", "1=NORMAL"], r"0 is mapped twice"),
        (["0", "1"], ["0"], r"write theirs=ours, such as --map 0=PNEUMONIA"),
        (["0", "1"], ["=NORMAL"], r"write theirs=ours"),
        (["0", "1"], ["0=-", "1=-"], r"nothing would be evaluated"),
    ],
)
def test_what_is_wrong_is_refused(theirs, maps, says):
    with pytest.raises(RequestError, match=says):
        label_mapping(theirs, OURS, maps)


def test_columns_of_several_labels():
    assert columns_mapping(("b", "x", "a"), ("a", "b"), ["x=-"]) == {"b": "b", "a": "a"}
    with pytest.raises(RequestError, match=r"no column for b.*--map THEIRS=OURS"):
        columns_mapping(("a", "x"), ("a", "b"), ["x=-"])
    with pytest.raises(RequestError, match=r"x and y are both b.*--map y=-"):
        columns_mapping(("a", "x", "y"), ("a", "b"), ["x=b", "y=b"])
