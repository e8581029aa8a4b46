"""Which part of a network hands what to which: watched in one forward pass, not read off the code.

A part is a set of modules. Every tensor carries the name of what it comes from: a part, the network's input, or a
joint, where a function between parts brings several of them together (the sum at the end of a skip connection, the
concatenation of branches). Functions of one tensor (a reshape, an activation) leave the name as it is.
Knows modules and shapes, no drawing.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

INPUT, OUTPUT = "input", "output"


@dataclass(frozen=True)
class Flow:
    start: str
    """the name of a part or a joint, or INPUT"""
    end: str
    """the name of a part or a joint, or OUTPUT"""
    shape: tuple[int, ...]
    """of what enters `end`, of one image: (C, H, W), (tokens, D) or (D,)"""


@dataclass(frozen=True)
class Joint:
    name: str
    function: str
    """add, mul, cat, ..."""
    after: str
    """the part that was called last before it"""


class _Origins(TorchFunctionMode):
    """Remembers of every tensor what it comes from."""

    def __init__(self) -> None:
        super().__init__()
        self.last = INPUT
        """the part that was called last"""
        self.flows: dict[tuple[str, str], Flow] = {}
        self.joints: dict[str, Joint] = {}
        self._of: dict[int, str] = {}
        self._kept: list[Tensor] = []  # or the next tensor could have the same id

    def set(self, tensors: list[Tensor], origin: str) -> None:
        for tensor in tensors:
            self._of[id(tensor)] = origin
            self._kept.append(tensor)

    def enter(self, end: str, given: list[Tensor]) -> None:
        for tensor in given:
            start = self._of.get(id(tensor), end)
            if start != end:
                self.flows.setdefault((start, end), Flow(start, end, tuple(tensor.shape[1:])))

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = list(_tensors((args, kwargs)))
        origins = {self._of[id(tensor)] for tensor in given if id(tensor) in self._of}
        out = func(*args, **(kwargs or {}))
        made = list(_tensors(out))
        if made and len(origins) == 1:
            self.set(made, origins.pop())
        elif made and origins:
            function = func.__name__.strip("_")
            joint = Joint(f"joint {len(self.joints)}", "add" if function == "iadd" else function, self.last)
            self.joints[joint.name] = joint
            self.enter(joint.name, given)
            self.set(made, joint.name)
        return out


def watch(network: nn.Module, parts: dict[str, list[str]], x_BCHW: Tensor) -> tuple[list[Flow], list[Joint]]:
    """The flows between parts, in the order in which they happen, each pair once, and the joints that they meet in.

    `parts`: the modules' names by the part's name; no module inside another one. A part that is never called has none.
    """
    origins = _Origins()
    hooks = []
    for part, names in parts.items():
        for name in names:
            module = network.get_submodule(name)

            def enter(_: nn.Module, args: Any, kwargs: Any, part: str = part) -> None:
                origins.enter(part, list(_tensors((args, kwargs))))

            def leave(_: nn.Module, __: Any, out: Any, part: str = part) -> None:
                origins.set(list(_tensors(out)), part)
                origins.last = part

            hooks += [module.register_forward_pre_hook(enter, with_kwargs=True), module.register_forward_hook(leave)]
    try:
        origins.set([x_BCHW], INPUT)
        with torch.no_grad(), origins:
            out = network(x_BCHW)
        origins.enter(OUTPUT, list(_tensors(out)))
    finally:
        for hook in hooks:
            hook.remove()
    return _leading_on(list(origins.flows.values()), origins.joints)


def _leading_on(flows: list[Flow], joints: dict[str, Joint]) -> tuple[list[Flow], list[Joint]]:
    """Without the joints inside of parts, which lead to no other part."""
    wanted: set[str] = set()
    for flow in reversed(flows):
        if flow.end not in joints or flow.end in wanted:
            wanted.add(flow.start)
    kept = [flow for flow in flows if flow.end not in joints or flow.end in wanted]
    return kept, [joint for joint in joints.values() if joint.name in wanted]


def _tensors(node: Any) -> Iterator[Tensor]:
    if isinstance(node, Tensor):
        yield node
    elif isinstance(node, dict):
        for child in node.values():
            yield from _tensors(child)
    elif isinstance(node, list | tuple):
        for child in node:
            yield from _tensors(child)
