"""Fitting one fold: exact resume, divergence, and the small decisions of the loop."""

import threading

import numpy as np
import pytest
import torch

from harness.config.load import build_spec
from harness.train import checkpoint
from harness.train.batches import batches, statistics
from harness.train.checkpoint import FoldMeta, ResumeState, digest, load_fold, save_weights
from harness.train.inference import infer
from harness.train.loop import Diverged, FoldData, fit_fold
from harness.train.loss import class_weights
from harness.train.precision import Precision, parse_precision
from harness.train.step import Stepper

FP32 = Precision("fp32", channels_last=False)


def tiny_spec(**blocks):
    return build_spec(
        {
            "name": "tiny",
            "data": {"root": "phantom", "group": "none", "decode": {"size": 32}},
            "model": {"backbone": "test_resnet", "dropout": 0.2},
            "train": {"epochs": 4, "batch_size": 8},
            "augment": {"hflip": 0.5, "rotate": 10.0, "noise": 0.05},
            **blocks,
        },
        "test",
    )


def tiny_data(n=33, seed=0):
    rng = np.random.default_rng(seed)
    y = np.arange(n) % 2
    x = rng.integers(0, 120, (n, 32, 32, 1)).astype(np.uint8)
    x[y == 1, 8:20, 8:20] += 100
    return FoldData(0, x[:25], y[:25], x[25:], y[25:], 2)


class Stop(Exception):
    pass


def fit(spec, path, stop_after=None, interrupt=False):
    def on_epoch(report):
        if stop_after is not None and report.epoch == stop_after:
            raise KeyboardInterrupt if interrupt else Stop

    return fit_fold(spec, tiny_data(), "cpu", FP32, ResumeState(path), on_epoch)


def same_weights(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def test_an_interrupted_fold_resumes_bit_for_bit_after_every_epoch(tmp_path):
    whole = fit(tiny_spec(), tmp_path / "whole.pt")
    for epoch in range(3):
        path = tmp_path / f"cut{epoch}.pt"
        with pytest.raises(KeyboardInterrupt):
            fit(tiny_spec(), path, stop_after=epoch, interrupt=True)
        assert path.exists()
        resumed = fit(tiny_spec(), path)
        assert same_weights(whole.network, resumed.network)
        assert [h["train_loss"] for h in whole.history] == [h["train_loss"] for h in resumed.history]
        assert [h["epoch"] for h in resumed.history] == [0, 1, 2, 3]


def test_a_report_that_was_cut_off_is_made_again_and_one_that_arrived_is_not(tmp_path):
    heard = []

    def cut_off(report):
        if report.epoch == 1:
            raise KeyboardInterrupt

    state = tmp_path / "s.pt"
    with pytest.raises(KeyboardInterrupt):
        fit_fold(tiny_spec(), tiny_data(), "cpu", FP32, ResumeState(state), cut_off)
    resumed = fit_fold(tiny_spec(), tiny_data(), "cpu", FP32, ResumeState(state), heard.append)
    assert [report.epoch for report in heard] == [1, 2, 3]
    assert {**vars(heard[0])} == resumed.history[1]


@pytest.mark.parametrize("blocks", [{}, {"optim": {"schedule": "plateau"}}])
def test_a_stop_ends_the_fold_before_its_next_epoch_does(tmp_path, monkeypatch, blocks):
    steps, take = [], Stepper.take

    def counted(self, batches, rate):
        steps.append(rate)
        if len(steps) > 3:
            assert stopped.wait(30)  # the report of the first epoch has been answered by now
        return take(self, batches, rate)

    def stop(report):
        stopped.set()
        raise Stop

    stopped = threading.Event()
    monkeypatch.setattr(Stepper, "take", counted)
    with pytest.raises(Stop):
        fit_fold(tiny_spec(**blocks), tiny_data(), "cpu", FP32, ResumeState(tmp_path / "s.pt"), stop)
    assert len(steps) < 2 * 3  # of three steps an epoch
    assert not (tmp_path / "s.pt").exists()


def test_the_resume_state_is_a_copy_of_the_epoch_it_names(tmp_path):
    network, state = torch.nn.Linear(2, 2), ResumeState(tmp_path / "s.pt")
    state.keep({"network": network.state_dict()})
    state.complete(0, [], 1.0)
    before = {k: v.clone() for k, v in network.state_dict().items()}
    with torch.no_grad():
        network.weight.add_(1.0)
    state._on_disk = -1
    state.write()
    loaded = ResumeState(tmp_path / "s.pt").load("cpu")
    assert all(torch.equal(before[k], loaded["network"][k]) for k in before)


def test_a_state_of_another_version_is_not_loaded(tmp_path, monkeypatch):
    path = tmp_path / "s.pt"
    with pytest.raises(KeyboardInterrupt):
        fit(tiny_spec(), path, stop_after=1, interrupt=True)
    monkeypatch.setattr(checkpoint, "STATE", checkpoint.STATE + 1)
    assert ResumeState(path).load("cpu") is None
    fitted = fit(tiny_spec(), path)
    assert same_weights(fitted.network, fit(tiny_spec(), tmp_path / "whole.pt").network)
    assert [entry["epoch"] for entry in fitted.history] == [0, 1, 2, 3]


def test_another_seed_is_another_training(tmp_path):
    a, b = fit(tiny_spec(), tmp_path / "a.pt"), fit(tiny_spec(seed=1), tmp_path / "b.pt")
    assert not same_weights(a.network, b.network)


def test_a_diverging_training_says_where(tmp_path):
    spec = tiny_spec(optim={"lr": 1e30, "clip": 0.0, "warmup": 0.0, "name": "sgd"})
    with pytest.raises(Diverged, match=r"fold 0, epoch \d+, step \d+.*optim.lr"):
        fit(spec, tmp_path / "d.pt")


def test_every_row_once_an_epoch_and_no_batch_of_one():
    parts = batches(torch.arange(33), 8)
    assert [len(part) for part in parts] == [8, 8, 8, 9]
    assert torch.cat(parts).tolist() == list(range(33))
    assert [len(part) for part in batches(torch.arange(1), 8)] == [1]


def test_class_weights_and_statistics_come_from_the_training_rows():
    weights = class_weights(np.array([0, 0, 0, 1]), 3)
    assert weights.tolist() == pytest.approx([4 / 2 / 3, 2.0, 0.0])
    x = tiny_data().x_train
    mean, std = statistics(x)
    assert mean[0] == pytest.approx((x / 255).mean(), abs=1e-6)
    assert std[0] == pytest.approx((x / 255).std(), abs=1e-6)


def test_a_checkpoint_predicts_what_the_network_predicted(tmp_path):
    spec, data = tiny_spec(), tiny_data()
    fitted = fit(spec, tmp_path / "s.pt")
    meta = FoldMeta(
        "tiny", 0, 0, spec.model.model_dump(mode="json"), spec.data.decode.model_dump(mode="json"), ("a", "b"),
        fitted.mean, fitted.std, digest(fitted.network), "d", "f",
    )  # fmt: skip
    before, embedding = infer(fitted.network, meta, data.x_val)
    path = tmp_path / "weights.safetensors"
    save_weights(path, fitted.network, meta)
    network, loaded = load_fold(path)
    after, again = infer(network, loaded, data.x_val)
    assert loaded == meta
    assert digest(network) == meta.encoder_id
    np.testing.assert_array_equal(before, after)
    np.testing.assert_array_equal(embedding, again)
    one_by_one = np.concatenate([infer(network, meta, data.x_val[i : i + 1])[0] for i in range(len(data.x_val))])
    np.testing.assert_allclose(after, one_by_one, atol=1e-5)


def test_the_loop_learns_an_easy_task(tmp_path):
    fitted = fit(tiny_spec(train={"epochs": 12, "batch_size": 8}, augment={}, optim={"lr": 3e-3}), tmp_path / "s.pt")
    assert fitted.history[-1]["train_loss"] < 0.5 * fitted.history[0]["train_loss"]
    assert fitted.history[-1]["val"]["auroc"] > 0.9


def test_precision_names_round_trip():
    for precision in (Precision("fp32", False), Precision("bf16", True)):
        assert parse_precision(str(precision)) == precision
