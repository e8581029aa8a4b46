"""Everything that has a state, interrupted after every epoch; what each switch of the loop does to a training."""

import numpy as np
import pytest
import torch

from harness.config.load import build_spec
from harness.config.space import fill
from harness.train.checkpoint import ResumeState
from harness.train.loop import Diverged, Fitted, FoldData, fit_fold
from harness.train.precision import Precision

FP32 = Precision("fp32", channels_last=False)
TREE = {
    "name": "tiny",
    "data": {"root": "phantom", "group": "none", "decode": {"size": 32}},
    "model": {"backbone": "test_resnet"},
    "train": {"epochs": 4, "batch_size": 8},
}


def spec_of(**values):
    return build_spec(fill(TREE, {name.replace("__", "."): value for name, value in values.items()}), "test")


def rows(n=33, classes=2, inner=False, seed=0):
    rng = np.random.default_rng(seed)
    y = np.arange(n) % classes
    x = rng.integers(0, 120, (n, 32, 32, 1)).astype(np.uint8)
    x[y == 1, 8:20, 8:20] += 100
    data = FoldData(0, x[:25], y[:25], x[25:], y[25:], classes)
    return FoldData(0, x[:17], y[:17], x[25:], y[25:], classes, (), x[17:25], y[17:25]) if inner else data


def fit(spec, path, stop_after=None, data=None):
    def on_epoch(report):
        if report.epoch == stop_after:
            raise KeyboardInterrupt

    data = data or rows(inner=spec.train.select == "inner")
    return fit_fold(spec, data, "cpu", FP32, ResumeState(path), on_epoch)


def state(fitted: Fitted) -> dict[str, torch.Tensor]:
    return fitted.network.state_dict()


def same(a: Fitted, b: Fitted) -> bool:
    return all(torch.equal(x, y) for x, y in zip(state(a).values(), state(b).values(), strict=True))


STATEFUL = {
    "ema": {"train__ema": 0.9},
    "swa": {"train__swa": 0.6},
    "inner": {"train__select": "inner", "train__patience": 2},
    "scored fold": {"train__select": "scored_fold", "train__monitor": "auroc"},
    "thaw": {"train__freeze": 3, "train__unfreeze_every": 1, "optim__layer_decay": 0.7},
    "plateau": {"optim__schedule": "plateau", "optim__plateau_epochs": 1},
    "onecycle with momentum": {"optim__name": "sgd", "optim__schedule": "onecycle", "optim__lr": 0.05},
    "lamb": {"optim__name": "lamb"},
    "mixing": {"augment__mixup": 0.2, "augment__cutmix": 1.0, "train__sampling": "balanced"},
    "accumulation": {"train__accumulate": 2, "optim__l1": 1e-4, "optim__clip_value": 0.5},
    "noise in the network": {"model__dropout": 0.3, "train__focal": 2.0, "train__label_smoothing": 0.1},
}


@pytest.mark.parametrize("name", STATEFUL)
def test_whatever_has_a_state_resumes_bit_for_bit(name, tmp_path):
    spec = spec_of(**STATEFUL[name])
    whole = fit(spec, tmp_path / "whole.pt")
    for epoch in range(len(whole.history) - 1):
        path = tmp_path / f"cut{epoch}.pt"
        with pytest.raises(KeyboardInterrupt):
            fit(spec, path, stop_after=epoch)
        resumed = fit(spec, path)
        assert same(whole, resumed) and whole.epoch == resumed.epoch
        for key in ("train_loss", "val_loss", "inner_loss", "lr"):
            assert [entry[key] for entry in whole.history] == [entry[key] for entry in resumed.history]


@pytest.mark.parametrize("name", STATEFUL)
def test_no_switch_is_without_effect(name, tmp_path):
    assert not same(fit(spec_of(**STATEFUL[name]), tmp_path / "a.pt"), fit(spec_of(), tmp_path / "b.pt"))


def test_frozen_stages_keep_every_tensor_and_the_rest_learns(tmp_path):
    spec = spec_of(train__freeze=3, model__dropout=0.2)
    reports = []

    def watch(report):
        reports.append(report)

    from harness.models.network import build_network
    from harness.models.stages import stages
    from harness.seeds import derive_seed

    start = build_network(spec.model, 2, 1, 32, derive_seed(spec.seed, "fold", 0, "weights"))
    fitted = fit_fold(spec, rows(), "cpu", FP32, ResumeState(tmp_path / "s.pt"), watch)
    frozen = {name for stage in stages(start)[:3] for name in stage.tensors}
    assert any("running_mean" in name for name in frozen)
    before, after = start.state_dict(), state(fitted)
    assert {name for name in before if torch.equal(before[name], after[name])} == frozen


def test_accumulated_batches_are_one_large_batch(tmp_path):
    # without batch norm, whose statistics are those of a batch
    common = {"model__backbone": "test_vit", "train__epochs": 2, "train__class_weights": True, "optim__name": "sgd"}
    common |= {"optim__lr": 0.01, "augment__mixup": 0.0}
    large = fit(spec_of(**common, train__batch_size=10), tmp_path / "a.pt")
    small = fit(spec_of(**common, train__batch_size=5, train__accumulate=2), tmp_path / "b.pt")
    for a, b in zip(state(large).values(), state(small).values(), strict=True):
        torch.testing.assert_close(a, b, atol=2e-5, rtol=2e-4)
    assert [e["train_loss"] for e in large.history] == pytest.approx([e["train_loss"] for e in small.history], rel=1e-4)


def test_the_inner_part_chooses_and_the_scored_fold_does_not_touch_anything(tmp_path):
    spec = spec_of(train__select="inner", train__epochs=5, optim__lr=0.01)
    data = rows(inner=True)
    one = fit(spec, tmp_path / "a.pt", data=data)
    losses = [entry["inner"]["log_loss"] for entry in one.history]
    assert one.epoch == int(np.argmin(losses))
    flipped = FoldData(0, data.x_train, data.y_train, data.x_val, 1 - data.y_val, 2, (), data.x_inner, data.y_inner)
    assert same(one, fit(spec, tmp_path / "b.pt", data=flipped))


def test_patience_ends_a_training_early_and_the_best_epoch_is_kept(tmp_path):
    steep = {"optim__lr": 0.05, "optim__schedule": "constant"}
    spec = spec_of(train__select="inner", train__patience=1, train__epochs=30, **steep)
    fitted = fit(spec, tmp_path / "a.pt")
    assert len(fitted.history) < 30 and fitted.epoch == len(fitted.history) - 2
    assert fitted.images == 17 * len(fitted.history)


def test_an_exploding_loss_says_where_and_at_what_rate(tmp_path):
    spec = spec_of(optim__lr=1e6, optim__clip=0.0, optim__warmup=0.0, optim__name="sgd", optim__schedule="constant")
    with pytest.raises(Diverged, match=r"fold 0, epoch \d+, step \d+, at a learning rate of 1e\+06"):
        fit(spec, tmp_path / "d.pt")


def test_a_fold_that_lacks_a_class_still_trains_and_its_metrics_say_so(tmp_path):
    data = rows(classes=3)
    lacking = FoldData(0, data.x_train[data.y_train < 2], data.y_train[data.y_train < 2], data.x_val, data.y_val, 3)
    fitted = fit(spec_of(train__class_weights=True), tmp_path / "a.pt", data=lacking)
    assert np.isfinite(fitted.history[-1]["train_loss"]) and np.isfinite(fitted.history[-1]["val"]["auroc"])
    balanced = fit(spec_of(train__sampling="balanced"), tmp_path / "c.pt", data=lacking)
    assert np.isfinite(balanced.history[-1]["train_loss"])
    one_class = FoldData(0, data.x_train, data.y_train, data.x_val[:2] * 0, np.zeros(2, np.int64), 3)
    fitted = fit(spec_of(), tmp_path / "b.pt", data=one_class)
    assert np.isnan(fitted.history[-1]["val"]["auroc"]) and np.isfinite(fitted.history[-1]["val"]["log_loss"])


def test_deterministic_algorithms_are_asked_for_only_inside(tmp_path):
    seen = []

    def on_epoch(report):
        seen.append(torch.are_deterministic_algorithms_enabled())

    for wanted in (True, False):
        spec = spec_of(train__deterministic=wanted, train__epochs=1)
        fit_fold(spec, rows(), "cpu", FP32, ResumeState(tmp_path / f"{wanted}.pt"), on_epoch)
    assert seen == [True, False] and not torch.are_deterministic_algorithms_enabled()
