"""Networks whose numbers are about to be read from a file are built without drawing them first.

Drawing is most of the time that it takes to build a large network: two thirds of a ResNet-18's.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor
from torch.overrides import TorchFunctionMode

DRAWS = {Tensor.normal_, Tensor.uniform_}
"""what all starts of weights come down to"""


class _Undrawn(TorchFunctionMode):
    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return args[0] if func in DRAWS else func(*args, **(kwargs or {}))


@contextmanager
def without_drawing() -> Iterator[None]:
    """Inside, what would be drawn keeps the value that its memory has. For networks of which every tensor is replaced
    afterwards; only there."""
    with _Undrawn():
        yield
