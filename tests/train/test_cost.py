"""What an image costs: sums of real checkpoints, each architecture run once."""

import pytest

from harness.config.spec import Model
from harness.ensemble.members import choose_members
from harness.models.network import build_network
from harness.train.checkpoint import FoldMeta, digest, save_weights
from harness.train.inference import NOTHING, Cost, network_costs


def checkpoint(path, backbone):
    model = Model(backbone=backbone)
    network = build_network(model, 2, 1, 64, seed=0)
    decode, rest = {"size": 64, "channels": 1}, {"data_hash": "d", "folds_hash": "f"}
    facts = {"classes": ("a", "b"), "mean": (0.5,), "std": (0.25,), "encoder_id": digest(network)}
    save_weights(path, network, FoldMeta("s", 0, 0, model.model_dump(mode="json"), decode, **facts, **rest))
    return path


def test_members_of_one_architecture_are_run_once_and_cost_the_same(small_study):
    members = choose_members(small_study.home, small_study.record, "auroc", 5)
    networks = [[member.weights(fold) for fold in range(3)] for member in members]
    said = []
    costs = network_costs(networks, "cpu", lambda what, done, total: said.append((done, total)))
    assert said == [(1, 1)]
    assert len(costs) == 2 and costs[0].seconds == costs[1].seconds > 0
    for cost, paths in zip(costs, networks, strict=True):
        assert cost.megabytes == pytest.approx(sum(path.stat().st_size for path in paths) / 1e6)
    assert sum(costs, NOTHING).seconds == pytest.approx(2 * costs[0].seconds)
    assert network_costs([networks[0][:1]], "cpu")[0].megabytes == pytest.approx(costs[0].megabytes / 3, rel=1e-3)


def test_each_architecture_is_run(tmp_path):
    small, large = checkpoint(tmp_path / "a", "test_resnet"), checkpoint(tmp_path / "b", "resnet18")
    said = []
    costs = network_costs([[small], [large], [large, small]], "cpu", lambda what, done, total: said.append(total), 4)
    assert said == [2, 2]
    assert costs[1].megabytes > 10 * costs[0].megabytes
    assert costs[2] == Cost(costs[1].seconds + costs[0].seconds, costs[1].megabytes + costs[0].megabytes)
