"""Networks that are built without drawing weights: whole once the file's tensors are in."""

import pytest
import torch

from harness.config.spec import Model
from harness.models.network import build_network
from harness.models.weights import load_tensors, without_drawing


@pytest.mark.parametrize("backbone", ["test_resnet", "test_vit", "resnet10t", "mobilenetv3_small_050", "swin_t"])
def test_after_loading_it_is_the_network_that_was_saved(backbone: str) -> None:
    model = Model(backbone=backbone)
    saved = build_network(model, 2, 3, 64, seed=3).eval()
    with without_drawing():
        network = build_network(model, 2, 3, 64, seed=0)
    load_tensors(network, saved.state_dict())
    everything = dict(network.named_buffers())  # those that files do not have, too
    assert all(torch.equal(everything[name], buffer) for name, buffer in saved.named_buffers())
    x = torch.rand(2, 3, 64, 64)
    with torch.inference_mode():
        assert torch.equal(network.eval()(x), saved(x))
    assert all(parameter.requires_grad for parameter in network.parameters())


def test_nothing_is_drawn_inside_and_all_is_drawn_outside() -> None:
    weight = torch.zeros(1000)
    with without_drawing():
        torch.nn.init.kaiming_normal_(weight.view(10, 100))
        torch.nn.init.trunc_normal_(weight.view(10, 100))
        assert not weight.any()
    torch.nn.init.normal_(weight)
    assert 0.8 < weight.std() < 1.2
