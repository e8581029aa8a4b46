"""The network of a fold: a backbone with its pooling, dropout and a head. It must not know data or training."""

from pathlib import Path

import torch
from torch import Tensor, nn

from harness.config.spec import Model
from harness.errors import RequestError
from harness.models.backbones import build_backbone, embed
from harness.models.pooling import PooledFeatures
from harness.models.start import is_fold_checkpoint, load_start
from harness.models.weights import kind_of


class Network(nn.Module):
    """x_BCHW -> logits (B, C); `embed` also gives the penultimate embedding (B, D)."""

    def __init__(
        self,
        backbone: nn.Module,
        embedding_size: int,
        classes: int,
        dropout: float,
        pool: PooledFeatures | None = None,
        hidden: int = 0,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.embedding_size = embedding_size
        self.classes = classes
        self.dropout = nn.Dropout(dropout)
        self.head = _linear(embedding_size, classes) if hidden == 0 else _mlp(embedding_size, hidden, classes)
        self.pool = pool

    def _embedding(self, x_BCHW: Tensor) -> Tensor:
        return embed(self.backbone, self.pool, x_BCHW)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        logits: Tensor = self.head(self.dropout(self._embedding(x_BCHW)))
        return logits

    def embed(self, x_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """(logits (B, C), embedding (B, D)) from one pass."""
        embedding = self._embedding(x_BCHW)
        return self.head(self.dropout(embedding)), embedding


def _linear(inputs: int, outputs: int) -> nn.Linear:
    layer = nn.Linear(inputs, outputs)
    nn.init.trunc_normal_(layer.weight, std=0.02)
    nn.init.zeros_(layer.bias)
    return layer


def _mlp(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    """The hidden layer keeps torch's start, which is made for its width."""
    return nn.Sequential(nn.Linear(inputs, hidden), nn.GELU(), _linear(hidden, outputs))


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


def build_network(
    model: Model,
    classes: int,
    channels: int,
    size: int,
    seed: int,
    start: Path | None = None,
    class_names: tuple[str, ...] = (),
) -> Network:
    """The network of a spec, its new weights drawn from `seed` alone. Raises RequestError when parts do not fit.

    `start` is the fold checkpoint that model.weights: study:NAME comes to; the head starts from it, too, where its
    classes are `class_names`.
    """
    weights = model.weights
    if start is None and kind_of(weights) == "study":
        raise RequestError(f"model.weights: {weights} says where each fold starts, and no fold is given here.")
    if start is None and kind_of(weights) == "file" and is_fold_checkpoint(Path(weights).expanduser()):
        raise RequestError(f"model.weights: {weights} is a fold checkpoint. Write study:NAME, which knows its rows.")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        backbone, pool, embedding_size = build_backbone(
            model.backbone, "none" if start else weights, channels, size, model.drop_path, model.pooling
        )
        hidden = model.hidden if model.head == "mlp" else 0
        network = Network(backbone, embedding_size, classes, model.dropout, pool, hidden)
    if start is not None:
        load_start(network, start, class_names)
    return network


def outline(name: str, classes: int, channels: int, size: int) -> Network:
    """A network with shapes and no numbers, on the meta device: to count and to name. Raises RequestError."""
    model = Model(backbone=name)
    try:
        with torch.device("meta"):
            return build_network(model, classes, channels, size, seed=0)
    except RequestError as error:
        if "meta" not in str(error):
            raise
    return build_network(model, classes, channels, size, seed=0)  # torchvision's RegNets compute their widths
