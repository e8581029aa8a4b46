"""Tables in a narrow window: nothing is cut, nothing is interpreted."""

import io
import math

import pytest
from rich.console import Console

from harness.output.result import plain
from harness.output.tables import table
from harness.output.terminal import escape_control
from harness.search.status import best_first, trials_table
from harness.types import Interval, TrialRecord

SWITCHES = ("hflip", "rotate", "translate", "scale", "brightness", "noise")


def trial(number: int, auroc: float, state: str = "complete", **more: object) -> TrialRecord:
    params = {"optim.lr": 0.00123, **{f"augment.{name}": 0.5 for name in SWITCHES}}
    return TrialRecord(
        number,
        state,
        params,
        f"run{number}",
        cv={"auroc": auroc},
        cv_se={"auroc": 0.0123},
        oof={"auroc": Interval(auroc, auroc - 0.05, auroc + 0.05)},
        fold_values=[auroc, auroc],
        seconds=41.3,
        **more,  # type: ignore[arg-type]
    )


def drawn(made: object, width: int) -> str:
    out = io.StringIO()
    Console(file=out, width=width, markup=False, emoji=False, highlight=False).print(made)
    return out.getvalue()


TRIALS = [
    trial(0, 0.7),
    trial(1, 0.9),
    trial(2, 0.5, state="pruned"),
    trial(3, math.nan, reason="auroc is not defined in fold 2: its rows have one class"),
    trial(4, 0.4, state="failed", reason="[bold]no memory[/]\nmore"),
]


def test_best_first_then_the_unfinished_by_number() -> None:
    assert [t.number for t in best_first(TRIALS, "auroc")] == [1, 0, 2, 3, 4]
    assert [t.number for t in best_first([trial(0, 0.7), trial(1, 0.9)], "log_loss")] == [0, 1]


def test_lower_is_better_where_it_is() -> None:
    losses = [TrialRecord(n, "complete", {}, "r", cv={"log_loss": v}) for n, v in [(0, 0.9), (1, 0.2)]]
    assert [t.number for t in best_first(losses, "log_loss")] == [1, 0]


@pytest.mark.parametrize("width", [60, 80, 100])
def test_every_number_of_the_trials_table_survives_a_narrow_window(width: int) -> None:
    text = drawn(trials_table(TRIALS, "auroc", width), width)
    assert max(len(line) for line in text.splitlines()) <= width
    assert ("0.900 [0.850, 0.950]" if width >= 80 else "[0.850, 0.950]") in text
    assert text.count("[0.850, 0.950]") == 1 and text.count("[0.650, 0.750]") == 1
    assert text.splitlines()[0].split()[-1] == "s" or width < 80
    assert [line.split()[-1] for line in text.splitlines()].count("41") == len(TRIALS)
    assert "0.900 ±.012" in text
    assert "1.2e-03" in text
    for name in SWITCHES:
        assert name in text
    assert "pruned after 2" in " ".join(text.split())
    assert "[bold]no" in text
    words = " ".join(text.split())
    assert width < 80 or ("not ranked:" in words and "old 2: its rows have one class" in words)
    assert "…" not in text


def test_names_are_printed_as_they_are() -> None:
    text = drawn(table(["file"], [["[red]a[/red] :bomb: \x1b[2J.png"]]), 80)
    assert "[red]a[/red] :bomb: \\x1b[2J.png" in text


def test_control_characters_are_shown_and_not_sent() -> None:
    assert escape_control("a\x1b]0;x\x07\nb\tü") == "a\\x1b]0;x\\x07\nb\tü"


def test_words_beside_numbers_use_the_whole_window() -> None:
    text = drawn(table(["", ""], [["python", "3.11.7 (/a/rather/long/path/to/python)"], ["processor", "2 cores"]]), 60)
    assert len(text.splitlines()) == 2 and "3.11.7 (/a/rather/long/path/to/python)" in text


def test_json_has_no_nan_anywhere() -> None:
    found = plain({"a": math.nan, "b": [math.inf, 1.5], "c": TRIALS[3], 3: (1, None)})
    assert found["a"] is None and found["b"] == [None, 1.5] and found["3"] == [1, None]
    assert found["c"]["oof"]["auroc"] == dict.fromkeys(("value", "lo", "hi", "coverage")) | {"reason": ""}


@pytest.mark.parametrize("width", [60, 80])
def test_scores_whose_epoch_was_picked_on_the_scored_rows_carry_a_star(width: int) -> None:
    text = drawn(trials_table([trial(0, 0.7), trial(1, 0.9, optimistic=True)], "auroc", width), width)
    assert "[0.850, 0.950]*" in text and "0.900 ±.012*" in text
    assert "[0.650, 0.750]*" not in text and "0.700 ±.012*" not in text
