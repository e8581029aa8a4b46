"""The network of a fold: a backbone with its pooling, dropout and a linear head. It must not know data or training."""

import torch
from torch import Tensor, nn

from harness.errors import RequestError
from harness.models.backbones import build_backbone
from harness.study.training import Model


class Network(nn.Module):
    """x_BCHW -> logits (B, C); `embed` also gives the penultimate embedding (B, D)."""

    def __init__(self, backbone: nn.Module, embedding_size: int, classes: int, dropout: float) -> None:
        super().__init__()
        self.backbone = backbone
        self.embedding_size = embedding_size
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(embedding_size, classes)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        logits: Tensor = self.head(self.dropout(self.backbone(x_BCHW).flatten(1)))
        return logits

    def embed(self, x_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """(logits (B, C), embedding (B, D)) from one pass."""
        embedding = self.backbone(x_BCHW).flatten(1)
        return self.head(self.dropout(embedding)), embedding


def require_any_size(network: Network, backbone: str, channels: int) -> None:
    """Raises RequestError when the network takes images of one size only."""
    training = network.training
    network.eval()
    try:
        with torch.inference_mode():
            for height, width in ((96, 160), (224, 64)):
                network(torch.zeros(1, channels, height, width))
    except (RuntimeError, AssertionError, ValueError) as error:
        raise RequestError(
            f"model.backbone: {backbone} takes images of one size only. With data.decode.size: native choose a "
            "convolutional network, such as resnet10t or convnext_atto, or set a size in pixels."
        ) from error
    finally:
        network.train(training)


def build_network(model: Model, classes: int, channels: int, size: int, seed: int) -> Network:
    """The network of a spec, its new weights drawn from `seed` alone. Raises RequestError when parts do not fit."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        backbone, embedding_size = build_backbone(model.backbone, model.weights, channels, size, model.drop_path)
        network = Network(backbone, embedding_size, classes, model.dropout)
        nn.init.trunc_normal_(network.head.weight, std=0.02)
        nn.init.zeros_(network.head.bias)
    return network
