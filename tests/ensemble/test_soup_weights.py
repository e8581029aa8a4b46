"""The mean of weights, and what is not in the mean: counters, frozen layers, statistics of batch norm."""

import dataclasses

import numpy as np
import pytest
import torch

from harness.config.spec import Model
from harness.ensemble.new_networks import average, blend, disagreeing_norms, largest_shared_start
from harness.errors import HarnessError, RequestError
from harness.images.pixels import gather
from harness.models.network import build_network
from harness.train.batches import to_input
from harness.train.checkpoint import NO_FOLD, SEVERAL, FoldMeta, digest, load_fold, save_weights
from harness.train.inference import infer

SIDE = 32


def meta_of(model: Model, network, **changes) -> FoldMeta:
    facts = {
        "study": "s", "trial": 0, "fold": 0, "model": model.model_dump(mode="json"),
        "decode": {"size": SIDE, "channels": 1}, "classes": ("a", "b"), "mean": (0.5,), "std": (0.25,),
        "encoder_id": digest(network), "data_hash": "d", "folds_hash": "f", "start_id": "one",
    }  # fmt: skip
    return FoldMeta(**{**facts, **changes})


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (100, SIDE, SIDE, 1), dtype=np.uint8)


def fine_tunes(tmp_path, count=3, backbone="test_resnet", frozen=()):
    """Checkpoints that differ from one start in everything but the layers named `frozen`."""
    model, paths = Model(backbone=backbone), []
    for number in range(count):
        network = build_network(model, 2, 1, SIDE, seed=0)
        torch.manual_seed(number)
        with torch.no_grad():
            for name, tensor in network.state_dict().items():
                if not tensor.is_floating_point():
                    tensor.fill_(10 + number)
                elif not name.startswith(tuple(frozen) or ("-",)):
                    tensor.add_(0.02 * torch.rand_like(tensor))
        mean, std = (0.4 + 0.1 * number,), (0.2 + 0.01 * number,)
        paths.append(tmp_path / f"{number}.safetensors")
        save_weights(paths[-1], network, meta_of(model, network, trial=number, mean=mean, std=std))
    return paths


def test_average_is_the_mean_computed_by_hand() -> None:
    states = [
        {"w": torch.tensor([[1.0, 2.0]]), "half": torch.tensor([1.0], dtype=torch.float16), "count": torch.tensor(7)},
        {"w": torch.tensor([[3.0, 5.0]]), "half": torch.tensor([2.0], dtype=torch.float16), "count": torch.tensor(9)},
        {"w": torch.tensor([[5.0, -1.0]]), "half": torch.tensor([6.0], dtype=torch.float16), "count": torch.tensor(9)},
    ]
    found = average(states)
    assert found["w"].tolist() == [[3.0, 2.0]] and found["half"].tolist() == [3.0]
    assert found["half"].dtype == torch.float16
    assert found["count"].item() == 7 and found["count"].dtype == torch.int64


def test_average_of_one_is_itself_to_the_bit() -> None:
    state = {"w": torch.rand(50) / 3}
    assert torch.equal(average([state])["w"], state["w"])


@pytest.mark.parametrize("other", [{"w": torch.zeros(3)}, {"v": torch.zeros(2)}, {}])
def test_average_refuses_other_architectures(other) -> None:
    with pytest.raises(HarnessError, match="not of one architecture"):
        average([{"w": torch.zeros(2)}, other])


def test_blend_is_the_mean_with_statistics_of_its_own(tmp_path, pixels) -> None:
    paths = fine_tunes(tmp_path)
    network, meta = blend(paths, pixels, np.arange(60), "cpu", fold=2)
    states = [load_fold(path)[0].state_dict() for path in paths]
    own = network.state_dict()
    moved = [name for name in own if "running" in name]
    assert moved
    for name, tensor in own.items():
        if tensor.is_floating_point() and name not in moved:
            by_hand = np.mean([state[name].double().numpy() for state in states], axis=0)
            np.testing.assert_allclose(tensor.numpy(), by_hand, atol=1e-6)
    # one batch with all layers in training mode and momentum 1 is another way to the statistics of one batch
    reference, _ = load_fold(paths[0])
    reference.load_state_dict(average(states))
    few, _ = blend(paths, pixels, np.arange(40), "cpu", fold=2)
    for module in reference.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0
    x = torch.from_numpy(pixels[:40]).permute(0, 3, 1, 2)
    with torch.no_grad():
        reference.train()(to_input(x, meta.mean, meta.std, torch.channels_last))
    expected = reference.state_dict()
    for name in moved:
        torch.testing.assert_close(few.state_dict()[name], expected[name], atol=1e-4, rtol=1e-4)


def test_what_a_blend_says_of_itself(tmp_path, pixels) -> None:
    paths = fine_tunes(tmp_path)
    network, meta = blend(paths, pixels, np.arange(60), "cpu", fold=2)
    assert (meta.trial, meta.fold, meta.start_id) == (SEVERAL, 2, "one")
    assert meta.encoder_id == digest(network)
    assert meta.mean == pytest.approx((0.5,)) and meta.std == pytest.approx((0.21,))
    assert blend(paths, pixels, np.arange(60), "cpu", NO_FOLD)[1].fold == NO_FOLD
    save_weights(tmp_path / "soup.safetensors", network, meta)
    again, read = load_fold(tmp_path / "soup.safetensors")
    assert read == meta
    np.testing.assert_array_equal(infer(again, read, pixels)[0], infer(network, meta, pixels)[0])


def test_statistics_come_from_the_given_rows_alone(tmp_path, pixels) -> None:
    paths, other = fine_tunes(tmp_path), pixels.copy()
    other[60:] = 255
    a, _ = blend(paths, pixels, np.arange(60), "cpu", 0)
    b, _ = blend(paths, other, np.arange(60), "cpu", 0)
    c, _ = blend(paths, other, np.arange(100), "cpu", 0)
    assert digest(a) == digest(b) != digest(c)


def test_the_soup_of_one_is_that_network(tmp_path, pixels) -> None:
    path = fine_tunes(tmp_path, count=1)[0]
    network, meta = blend([path], pixels, np.arange(60), "cpu", 0)
    assert digest(network) == meta.encoder_id == load_fold(path)[1].encoder_id


def test_frozen_layers_keep_their_statistics(tmp_path, pixels) -> None:
    paths = fine_tunes(tmp_path, frozen=("backbone.conv1", "backbone.bn1"))
    states = [load_fold(path)[0].state_dict() for path in paths]
    network, _ = blend(paths, pixels, np.arange(60), "cpu", 0)
    assert torch.equal(network.state_dict()["backbone.bn1.running_mean"], states[0]["backbone.bn1.running_mean"])
    moved = disagreeing_norms(network, states)
    every = [module for module in network.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    assert 0 < len(moved) < len(every) and network.backbone.bn1 not in moved


def test_networks_without_batch_norm_and_images_of_their_own_sizes(tmp_path, pixels) -> None:
    paths = fine_tunes(tmp_path, backbone="test_vit")
    network, meta = blend(paths, pixels, np.arange(60), "cpu", 0)
    assert np.isfinite(infer(network, meta, pixels)[0]).all()
    varied = gather([np.ascontiguousarray(image[: 20 + n % 12]) for n, image in enumerate(pixels)], 1)
    (tmp_path / "own").mkdir()
    network, meta = blend(fine_tunes(tmp_path / "own"), varied, np.arange(60), "cpu", 0)
    assert np.isfinite(infer(network, meta, varied)[0]).all()


class TestSharedStart:
    def metas(self, *starts, **changes):
        network = build_network(Model(backbone="test_resnet"), 2, 1, SIDE, seed=0)
        plain = meta_of(Model(backbone="test_resnet"), network)
        return [[dataclasses.replace(plain, start_id=one, **changes) for one in row] for row in starts]

    def test_the_largest_set_wins_and_then_the_one_with_the_best_member(self) -> None:
        a, b = ("a", "a"), ("b", "b")
        assert largest_shared_start(self.metas(a, b, b, a, b), [9, 1, 1, 9, 1]) == [1, 2, 4]
        assert largest_shared_start(self.metas(a, b, b, a), [1, 2, 3, 1]) == [1, 2]
        assert largest_shared_start(self.metas(a, b, b, a), [4, 2, 3, 1]) == [0, 3]

    def test_starts_are_compared_fold_by_fold(self) -> None:
        rows = self.metas(("a", "b"), ("b", "a"), ("a", "b"))
        assert largest_shared_start(rows, [3, 2, 1]) == [0, 2]

    def test_an_unknown_start_is_shared_with_nobody(self) -> None:
        with pytest.raises(RequestError, match=r"model\.weights.*--as NEWNAME"):
            largest_shared_start(self.metas(("", ""), ("", ""), ("a", "")), [1, 2, 3])

    def test_what_tensors_do_not_tell_must_agree_too(self) -> None:
        """Mean and maximum have no weights, and nothing in a network tells how its images were decoded."""
        average_pool = Model(backbone="test_resnet", pooling="avg").model_dump(mode="json")
        rows = self.metas(("a", "a")) + self.metas(("a", "a"), model=average_pool)
        with pytest.raises(RequestError, match="different starts is noise"):
            largest_shared_start(rows, [1, 2])
        rows = self.metas(("a", "a")) + self.metas(("a", "a"), decode={"size": 64, "channels": 1})
        with pytest.raises(RequestError, match="different starts is noise"):
            largest_shared_start(rows, [1, 2])
