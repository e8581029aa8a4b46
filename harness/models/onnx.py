"""A network as one ONNX file that other programs run: pixels in, logits and embedding out, normalisation inside.

The only file that knows onnx and onnxruntime (the extra `onnx`). What is written is run by onnxruntime and compared
with the network before it appears under its name.

B: images of a batch, H, W: sides.
"""

import io
import json
import logging
import os
import warnings
from collections.abc import Mapping
from contextlib import redirect_stdout, suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from harness.errors import HarnessError, RequestError
from harness.models.network import Network

TOLERANCE = 1e-4
"""largest difference to the network, of numbers up to 1; of larger ones, relative to the largest"""
SHOWN = (2, 3)
"""sizes of the batches that are compared: not those of the export, or a batch of fixed size would pass"""


class WithPixels(nn.Module):
    """uint8 pixels (B, H, W, channels) -> logits (B, C) and embedding (B, D)."""

    scale: Tensor
    shift: Tensor
    neutral: Tensor

    def __init__(self, network: Network, mean: tuple[float, ...], std: tuple[float, ...], stride: int = 0) -> None:
        """mean and std: per channel of pixel / 255. stride: images of any size are laid in the middle of a canvas
        whose sides are multiples of it, filled with the grey level next to `mean`; 0: images are of one size."""
        super().__init__()
        self.network = network
        self.stride = stride
        centre, spread = torch.tensor(mean).view(-1, 1, 1), torch.tensor(std).view(-1, 1, 1)
        self.register_buffer("scale", 1 / (255 * spread))
        self.register_buffer("shift", -centre / spread)
        self.register_buffer("neutral", (torch.round(centre * 255) / 255 - centre) / spread)

    def forward(self, pixels_BHWC: Tensor) -> tuple[Tensor, Tensor]:
        x = pixels_BHWC.permute(0, 3, 1, 2).float() * self.scale + self.shift
        if self.stride:
            height, width = (-x.shape[2]) % self.stride, (-x.shape[3]) % self.stride
            around = (width // 2, width - width // 2, height // 2, height - height // 2)
            x = nn.functional.pad(x - self.neutral, around) + self.neutral
        logits, embedding = self.network.embed(x)
        return logits, embedding


def write_onnx(
    path: Path,
    network: Network,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    channels: int,
    side: int,
    facts: Mapping[str, Any],
    stride: int = 0,
) -> float:
    """Write the network to `path`, whole or not at all, and return the largest difference found to it (see TOLERANCE).

    side: of the images it takes, or with `stride` of those that it is traced with. facts: kept in the file as metadata,
    each as JSON. Raises RequestError where the extra is not installed or the network cannot be exported, HarnessError
    where the file computes something else.
    """
    _require_extra()
    whole = WithPixels(network.cpu(), mean, std, stride).eval()
    example = torch.zeros(2, side, side, channels, dtype=torch.uint8)
    axes: dict[int, Any] = {0: torch.export.Dim("images")}
    if stride:
        axes |= {1: torch.export.Dim.DYNAMIC, 2: torch.export.Dim.DYNAMIC}
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                whole,
                (example,),
                None,
                dynamo=True,
                verbose=False,
                input_names=["pixels"],
                output_names=["logits", "embedding"],
                dynamic_shapes=(axes,),
            )
    except Exception as error:  # an exporter raises what it likes, its own kinds and those of three libraries
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise RequestError(f"this network cannot be written as ONNX by this version of torch: {reason}") from error
    assert program is not None
    _forget_places(program.model)
    program.model.metadata_props.update({name: json.dumps(value, sort_keys=True) for name, value in facts.items()})
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        program.save(temporary)
        apart = _difference(temporary, whole, channels, [(side, side)] + [(side + 9, side - 5)] * bool(stride))
        os.replace(temporary, path)
    except OSError as error:
        raise RequestError(f"{path} cannot be written: {error.strerror or error}. Name another file.") from error
    finally:
        with suppress(OSError):
            temporary.unlink()
    return apart


def _require_extra() -> None:
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise RequestError(
            f"ONNX files need {error.name}, which is not installed: pip install 'harness[onnx]'"
        ) from error


def _forget_places(model: Any) -> None:
    """Torch writes next to each operation in whose folders its code is: nobody else's business."""
    for graph in (model.graph, *model.functions.values()):
        for node in graph:
            node.metadata_props.clear()
            node.doc_string = None


def _difference(path: Path, whole: WithPixels, channels: int, sizes: list[tuple[int, int]]) -> float:
    """The largest difference between the file, run by onnxruntime, and the network, on noise. Raises HarnessError."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    rng, apart = np.random.default_rng(0), 0.0
    for height, width in sizes:
        for count in SHOWN:
            pixels = rng.integers(0, 256, (count, height, width, channels), dtype=np.uint8)
            with torch.inference_mode():
                expected = whole(torch.from_numpy(pixels))
            for found, wanted in zip(session.run(None, {"pixels": pixels}), expected, strict=True):
                largest = float(wanted.abs().max().clamp(min=1.0))
                apart = max(apart, float(np.abs(found - wanted.numpy()).max()) / largest)
    if not apart <= TOLERANCE:
        raise HarnessError(
            f"the ONNX file computes other numbers than the network ({apart:.2g} apart), so it was not kept. Another "
            "version of torch or onnxscript may export it."
        )
    return apart
