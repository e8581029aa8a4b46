"""Gathering members from disk: what fits is read back, what does not is refused by name."""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from harness.ensemble.members import choose_members, read_oof
from harness.errors import HarnessError, RequestError
from harness.store.home import Home
from harness.store.records import StudyRecord, write_trial
from harness.types import TEST, Dataset, Folds, TrialRecord

N, K, C = 40, 3, 2
STUDY = StudyRecord("s", "complete", {}, "spec", "data", "folds", 0.0)


def make_data() -> tuple[Dataset, Folds]:
    rng = np.random.default_rng(0)
    fold = np.array([TEST, *range(K)] * (N // (K + 1)))
    rng.shuffle(fold)
    ids = np.array([f"images/{i:03d}.png" for i in rng.permutation(N)])
    groups = np.array([f"group-{i // 2}" for i in range(N)])
    dataset = Dataset(ids, tuple(ids.tolist()), rng.integers(0, C, N), groups, ("a", "b"), "data")
    return dataset, Folds(fold, K, "folds")


DATASET, FOLDS = make_data()


def logits_of(trial: int) -> np.ndarray:
    return np.random.default_rng(trial).normal(size=(N, C)).astype(np.float32)


def write_member(home: Home, trial: int, auroc: float = 0.7, state: str = "complete") -> None:
    """A trial's record and predictions as stage 1 leaves them, the rows in an order of their own."""
    cv = {"auroc": auroc, "log_loss": auroc}
    write_trial(home, "s", TrialRecord(trial, state, {}, f"run-{trial}", cv=cv))
    folder = home.run_artifacts("s", f"run-{trial}")
    for fold in range(K):
        rows = np.random.default_rng(fold).permutation(FOLDS.held_out_rows(fold))
        frame(trial, rows).to_parquet(made(folder / f"fold_{fold}") / "predictions.parquet")
    (folder / "DONE").touch()


def made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def frame(trial: int, rows: np.ndarray) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "id": DATASET.ids[rows],
            "group": DATASET.groups[rows],
            "y": DATASET.y[rows],
            "logits": list(logits_of(trial)[rows]),
        }
    )


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home(tmp_path)
    for trial, auroc in enumerate((0.6, 0.8, 0.7)):
        write_member(home, trial, auroc)
    return home


def test_the_best_complete_trials_by_number(home: Home) -> None:
    write_member(home, 3, 0.99, state="pruned")
    write_member(home, 4, math.nan)
    write_member(home, 5, 0.95)
    (home.run_artifacts("s", "run-5") / "DONE").unlink()
    assert [m.number for m in choose_members(home, STUDY, "auroc", 2)] == [1, 2]
    assert [m.number for m in choose_members(home, STUDY, "auroc", 50)] == [0, 1, 2]


def test_lower_is_better_for_a_loss(home: Home) -> None:
    assert [m.number for m in choose_members(home, STUDY, "log_loss", 1)] == [0]


def test_nothing_to_build_from(home: Home, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"--top 0.*Type --top 5"):
        choose_members(home, STUDY, "auroc", 0)
    with pytest.raises(RequestError, match=r"harness study run s --set search\.trials=N"):
        choose_members(Home(tmp_path / "empty"), STUDY, "auroc", 5)
    with pytest.raises(RequestError, match=r"no ranked trial .trial 0: brier is not defined in every fold"):
        choose_members(home, STUDY, "brier", 5)


def test_rows_come_back_in_their_places(home: Home) -> None:
    members = choose_members(home, STUDY, "auroc", 5)
    oof = read_oof(members, DATASET, FOLDS)
    expected = np.stack([logits_of(m.number)[FOLDS.development_rows()] for m in members], axis=1)
    assert oof.dtype == np.float32
    np.testing.assert_array_equal(oof, expected)


def with_training_row(rows: np.ndarray) -> pd.DataFrame:
    return frame(1, np.append(rows, FOLDS.train_rows(1)[0]))


def with_test_row(rows: np.ndarray) -> pd.DataFrame:
    return frame(1, np.append(rows, FOLDS.test_rows()[0]))


def of_another_fold(rows: np.ndarray) -> pd.DataFrame:
    return frame(1, FOLDS.held_out_rows(2))


def without_a_row(rows: np.ndarray) -> pd.DataFrame:
    return frame(1, rows[1:])


def with_a_row_twice(rows: np.ndarray) -> pd.DataFrame:
    return frame(1, np.append(rows, rows[0]))


def with_a_label_turned(rows: np.ndarray) -> pd.DataFrame:
    return frame(1, rows).assign(y=lambda f: [1 - f["y"].iloc[0], *f["y"].iloc[1:]])


def with_another_group(rows: np.ndarray) -> pd.DataFrame:
    return frame(1, rows).assign(group="group-0")


def with_an_unknown_image(rows: np.ndarray) -> pd.DataFrame:
    return frame(1, rows).assign(id=lambda f: ["elsewhere.png", *f["id"].iloc[1:]])


def with_three_classes(rows: np.ndarray) -> pd.DataFrame:
    return frame(1, rows).assign(logits=[np.zeros(3, dtype=np.float32)] * len(rows))


def with_nan(rows: np.ndarray) -> pd.DataFrame:
    return frame(1, rows).assign(logits=[np.full(C, np.nan, dtype=np.float32)] * len(rows))


@pytest.mark.parametrize(
    ("planted", "said"),
    [
        (with_training_row, r"trial 1, fold 1: 1 of its predicted rows .*would leak: refused"),
        (with_test_row, r"trial 1, fold 1: 1 of its predicted rows .*fold -1.*would leak: refused"),
        (of_another_fold, r"trial 1, fold 1: 10 of its predicted rows .*fold 2.*would leak: refused"),
        (without_a_row, r"trial 1, fold 1: 1 held-out rows have no prediction and 0"),
        (with_a_row_twice, r"trial 1, fold 1: 0 held-out rows have no prediction and 1 have several"),
        (with_a_label_turned, r"trial 1, fold 1: 1 rows carry another label"),
        (with_another_group, r"trial 1, fold 1: \d+ rows carry another group"),
        (with_an_unknown_image, r"trial 1, fold 1: predicts 1 images .*'elsewhere.png'"),
        (with_three_classes, r"trial 1, fold 1: its logits are not 2 numbers a row"),
        (with_nan, r"trial 1: 10 development rows have no finite out-of-fold prediction"),
    ],
)
def test_files_that_do_not_fit_are_refused(
    home: Home, planted: Callable[[np.ndarray], pd.DataFrame], said: str
) -> None:
    path = home.fold("s", "run-1", 1) / "predictions.parquet"
    planted(FOLDS.held_out_rows(1)).to_parquet(path)
    with pytest.raises(HarnessError, match=said):
        read_oof(choose_members(home, STUDY, "auroc", 5), DATASET, FOLDS)


def test_a_damaged_file_is_named(home: Home) -> None:
    path = home.fold("s", "run-2", 0) / "predictions.parquet"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(HarnessError, match=r"trial 2, fold 0: .*predictions\.parquet cannot be read"):
        read_oof(choose_members(home, STUDY, "auroc", 5), DATASET, FOLDS)
