"""Numbers and settings in words."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.output.format import compact_params, difference, duration, interval, number, p_value, plural, value
from harness.types import Difference, Interval


@pytest.mark.parametrize(
    ("given_", "text"),
    [
        (Difference(0.021, -0.010, 0.052, 0.41), "p = .41: not distinguishable"),
        (Difference(0.021, 0.002, 0.052, 0.0301), "p = .03: better"),
        (Difference(-0.021, -0.05, -0.002, 0.0004), "p < .001: worse"),
        (Difference(0.0, 0.0, 0.0, 1.0), "p = 1.00: not distinguishable"),
        (Difference(math.nan, math.nan, math.nan, math.nan), "no comparison"),
    ],
)
def test_a_difference_says_what_it_means(given_: Difference, text: str) -> None:
    assert text in difference(given_, higher_is_better=True)


def test_a_lower_loss_is_better() -> None:
    assert ": better" in difference(Difference(-0.1, -0.2, -0.05, 0.01), higher_is_better=False)


@given(st.floats(0, 1))
@settings(max_examples=50, deadline=None)
def test_a_p_value_is_never_rounded_to_significance(p: float) -> None:
    text = p_value(p)
    assert not text.endswith("= .00")
    if p >= 0.055:
        assert float(text.removeprefix("p = ")) >= 0.05


def test_no_number_is_a_dash() -> None:
    assert number(math.nan) == number(None) == number(math.inf) == "-"
    assert interval(None) == interval(Interval(math.nan, 0, 1)) == "-"
    assert interval(Interval(0.5, math.nan, math.nan)) == "0.500"
    assert interval(Interval(0.8421, 0.8, 0.9)) == "0.842 [0.800, 0.900]"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0.0 s"),
        (41.4, "41 s"),
        (99.4, "99 s"),
        (99.6, "1:40 min"),
        (119.7, "2:00 min"),
        (610.0, "10 min"),
        (7384, "2:03 h"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_settings_are_short_and_switches_that_are_off_are_left_out() -> None:
    params = {"optim.lr": 0.00123456, "augment.hflip": 0.5, "augment.rotate": 0.0, "train.class_weights": False}
    assert compact_params(params) == "lr 1.2e-03  hflip 0.5  class_weights false"
    assert compact_params({"optim.lr": 0.1, "augment.noise": 0.0, "augment.hflip": 0}) == "lr 0.1  no noise hflip"
    assert compact_params({"optim.lr": 0.1, "augment.policy": "none"}) == "lr 0.1  no policy"
    assert compact_params({"augment.policy": "randaugment", "augment.noise": 0.0}) == "policy randaugment"
    assert compact_params({}) == ""


def test_names_that_end_alike_keep_their_path() -> None:
    assert compact_params({"model.name": "a", "optim.name": "b"}) == "model.name a  optim.name b"


def test_small_words() -> None:
    assert (plural(1, "image"), plural(1200, "image")) == ("1 image", "1,200 images")
    assert [value(v) for v in (True, 0.0, 3, 12345.6, 0.25, "x", None)] == [
        *("true", "0", "3", "1.2e+04", "0.25", "x", "None")
    ]
