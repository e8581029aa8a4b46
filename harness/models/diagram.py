"""A network as Mermaid or PlantUML.

A network as a drawing: its stages or what is inside them, what flows between, and how many parameters each has.

Drawn from the network itself (dataflow.py watches a forward pass), with repeated blocks folded into one box.

A drawing of boxes and arrows as the text of Mermaid or PlantUML. Knows nothing of what is drawn.
"""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

import torch
from torch import nn

from harness.errors import RequestError
from harness.models.dataflow import INPUT, OUTPUT, Flow, Joint, watch
from harness.models.network import Network
from harness.models.stages import stages

ESCAPES = str.maketrans({'"': "#quot;", "<": "#lt;", ">": "#gt;", "#": "#35;", "&": "#amp;", "`": "#96;", "\\": "#92;"})
"""what Mermaid would read as its own, as the entities that it shows instead"""


@dataclass(frozen=True)
class Box:
    key: str
    """unique in its drawing"""
    lines: tuple[str, ...]
    """of its text, the title first"""
    inside: tuple[str, ...] = ()
    """titles of the frames around it, the outermost first"""
    round: bool = False
    """an end of the drawing: what goes in and what comes out"""


@dataclass(frozen=True)
class Arrow:
    start: str
    end: str
    label: str = ""


@dataclass(frozen=True)
class Drawing:
    boxes: tuple[Box, ...]
    """those of one frame stand together"""
    arrows: tuple[Arrow, ...]


@dataclass
class _Frame:
    title: str
    parts: "list[_Frame | Box]" = field(default_factory=list)


def mermaid(drawing: Drawing) -> str:
    """A flowchart from top to bottom, as GitHub and others draw it."""
    number = _numbers(drawing)

    def box(one: Box, indent: str) -> list[str]:
        left, right = ("([", "])") if one.round else ("[", "]")
        return [f'{indent}{number[one.key]}{left}"{"<br/>".join(map(_entities, one.lines))}"{right}']

    def frame(title: str, count: int, body: list[str], indent: str) -> list[str]:
        return [f'{indent}subgraph f{count}["{_entities(title)}"]', *body, f"{indent}end"]

    lines = ["flowchart TB", *_body(_framed(drawing), box, frame)]
    for arrow in drawing.arrows:
        label = f'|"{_entities(arrow.label)}"|' if arrow.label else ""
        lines.append(f"    {number[arrow.start]} -->{label} {number[arrow.end]}")
    return "\n".join(lines) + "\n"


def plantuml(drawing: Drawing) -> str:
    """The same as a PlantUML diagram of rectangles."""
    number = _numbers(drawing)

    def box(one: Box, indent: str) -> list[str]:
        kind = "storage" if one.round else "rectangle"
        return [
            f'{indent}{kind} "{chr(92).join(("n" + _quoted(line)) for line in one.lines)[1:]}" as {number[one.key]}'
        ]

    def frame(title: str, count: int, body: list[str], indent: str) -> list[str]:
        return [f'{indent}frame "{_quoted(title)}" as f{count} {{', *body, f"{indent}}}"]

    lines = ["@startuml", *_body(_framed(drawing), box, frame)]
    for arrow in drawing.arrows:
        lines.append(
            f"    {number[arrow.start]} --> {number[arrow.end]}" + (f" : {_quoted(arrow.label)}" * bool(arrow.label))
        )
    return "\n".join([*lines, "@enduml"]) + "\n"


def _entities(text: str) -> str:
    return " ".join(text.split()).translate(ESCAPES)


def _quoted(text: str) -> str:
    """PlantUML has no escape for a quotation mark; a backslash and a tilde are its own."""
    return " ".join(text.split()).replace('"', "''").replace("\\", "/").replace("~", "~~")


def _numbers(drawing: Drawing) -> dict[str, str]:
    return {box.key: f"b{number}" for number, box in enumerate(drawing.boxes)}


def _framed(drawing: Drawing) -> _Frame:
    whole = _Frame("")
    for box in drawing.boxes:
        here = whole
        for title in box.inside:
            last = here.parts[-1] if here.parts else None
            if not isinstance(last, _Frame) or last.title != title:
                last = _Frame(title)
                here.parts.append(last)
            here = last
        here.parts.append(box)
    return whole


def _body(
    whole: _Frame,
    box: Callable[[Box, str], list[str]],
    frame: Callable[[str, int, list[str], str], list[str]],
) -> Iterable[str]:
    count = 0

    def lines(of: _Frame, indent: str) -> list[str]:
        nonlocal count
        found: list[str] = []
        for part in of.parts:
            if isinstance(part, Box):
                found += box(part, indent)
            else:
                count += 1
                found += frame(part.title, count, lines(part, indent + "    "), indent)
        return found

    return lines(whole, "    ")


DEEPEST = 8
"""deeper than any backbone nests its modules"""


@dataclass(frozen=True)
class Part:
    """What one box shows."""

    name: str
    modules: tuple[str, ...]
    kind: str
    parameters: int
    inside: tuple[str, ...] = ()
    """titles of the frames around it"""
    times: int = 1
    """how many in a row are alike; the others are `hidden`"""
    last: str = ""
    """the name of the last one of these"""
    hidden: bool = False


def diagram(network: Network, name: str, channels: int, size: int, depth: int = 1) -> Drawing:
    """`depth` 1 shows the stages (those of train.freeze), 2 the modules in them, and so on down to single layers.

    Boxes are modules that have weights. Arrows are labelled with the shape of what enters a box, of one image, as the
    network has it: (C, H, W), or (tokens, D) in a transformer. Raises RequestError for a depth below 1.
    """
    if not 1 <= depth <= DEEPEST:
        raise RequestError(f"--depth {depth}: give a number from 1 (stages) to {DEEPEST} (single layers).")
    network = network.eval()
    called = _called(network, channels, size)
    parts = [
        _part(network, stage.name, [module for module in stage.modules if module in called], (), stage.parameters)
        for stage in stages(network)
    ]
    parts = [part for part in parts if part.modules]
    flows, joints = _flows(network, parts, channels, size)
    parts = _fold(parts, flows)
    for _ in range(depth - 1):
        parts = [one for part in parts for one in _opened(network, part, called)]
        flows, joints = _flows(network, parts, channels, size)
        parts = _fold(parts, flows)
    return _drawing(network, name, parts, flows, joints)


def _zeros(network: nn.Module, channels: int, size: int) -> torch.Tensor:
    return torch.zeros(1, channels, size, size, device=next(network.parameters()).device)


def _called(network: nn.Module, channels: int, size: int) -> set[str]:
    """Names of the modules with weights that a forward pass calls: classifiers for training alone are none of them."""
    found: set[str] = set()
    hooks = [
        module.register_forward_pre_hook(lambda _, __, name=name: found.add(name))
        for name, module in network.named_modules()
        if name and any(True for _ in module.parameters())
    ]
    try:
        with torch.no_grad():
            network(_zeros(network, channels, size))
    finally:
        for hook in hooks:
            hook.remove()
    return found


def _flows(network: nn.Module, parts: list[Part], channels: int, size: int) -> tuple[list[Flow], list[Joint]]:
    return watch(network, {part.name: list(part.modules) for part in parts}, _zeros(network, channels, size))


def _part(
    network: nn.Module, name: str, modules: list[str], inside: tuple[str, ...], parameters: int | None = None
) -> Part:
    found = [network.get_submodule(module) for module in modules]
    own = sum(p.numel() for module in found for p in module.parameters())
    return Part(name, tuple(modules), _kinds(found), own if parameters is None else parameters, inside)


def _kinds(modules: list[nn.Module]) -> str:
    """Their classes, each once with its number; of a container what it contains."""
    flat = [
        one
        for module in modules
        for one in (module.children() if isinstance(module, nn.Sequential | nn.ModuleList) else [module])
        if any(True for _ in one.parameters())
    ]
    count = Counter(type(module).__name__ for module in flat)
    return ", ".join(f"{number} {kind}" if number > 1 else kind for kind, number in count.items())


def _opened(network: nn.Module, part: Part, called: set[str]) -> list[Part]:
    """The modules of a part, or the modules in its only one; the part itself where there are none."""
    if part.hidden:
        return [part]
    inner = list(part.modules) if len(part.modules) > 1 else _inner(network, part.modules[0], called)
    if not inner:
        return [part]
    title = f"{_title(part)}, {_count(part)}"
    return [_part(network, name.removeprefix("backbone."), [name], (*part.inside, title)) for name in inner]


def _inner(network: nn.Module, name: str, called: set[str]) -> list[str]:
    """The outermost called modules inside a module: a list of modules is not called itself."""
    found = []
    for child, _ in network.get_submodule(name).named_children():
        path = f"{name}.{child}"
        found += [path] if path in called else _inner(network, path, called)
    return found


def _fold(parts: list[Part], flows: list[Flow]) -> list[Part]:
    """Of parts that follow each other alone and are alike in kind, size and shapes the first stands for all."""
    after = {part.name: [flow.end for flow in flows if flow.start == part.name] for part in parts}
    before = {part.name: [flow for flow in flows if flow.end == part.name] for part in parts}

    def alike(one: Part, other: Part) -> bool:
        same = (one.kind, one.parameters, one.inside) == (other.kind, other.parameters, other.inside)
        chain = after[one.name] == [other.name] and [flow.start for flow in before[other.name]] == [one.name]
        return same and chain and {flow.shape for flow in before[one.name]} == {before[other.name][0].shape}

    folded = list(parts)
    first = 0
    for place in range(1, len(parts)):
        if parts[place].last or parts[place].hidden or parts[first].last or not alike(parts[place - 1], parts[place]):
            first = place
            continue
        folded[place] = replace(parts[place], hidden=True)
        folded[first] = replace(folded[first], times=folded[first].times + 1, last=parts[place].name)
    return folded


def _title(part: Part) -> str:
    return f"{part.name} to {part.last}" if part.last else part.name


def _count(part: Part) -> str:
    return f"{part.times} x {part.parameters:,} parameters" if part.last else f"{part.parameters:,} parameters"


def _drawing(network: Network, name: str, parts: list[Part], flows: list[Flow], joints: list[Joint]) -> Drawing:
    for part in parts:
        if part.hidden:
            flows = _without(flows, part.name)
    drawn = {end for flow in flows for end in (flow.start, flow.end)}
    boxes = [Box(INPUT, (name, "image"), round=True)]
    for part in parts:
        if not part.hidden:
            boxes.append(Box(part.name, (_title(part), part.kind, _count(part)), part.inside))
        met = [joint for joint in joints if joint.after == part.name and joint.name in drawn]
        boxes += [Box(joint.name, (joint.function,), part.inside, round=True) for joint in met]
    total = sum(parameter.numel() for parameter in network.parameters())
    boxes.append(Box(OUTPUT, ("logits", f"{total:,} parameters in all"), round=True))
    place = {box.key: number for number, box in enumerate(boxes)}
    flows.sort(key=lambda flow: (place[flow.start], place[flow.end]))
    arrows = [Arrow(flow.start, flow.end, " x ".join(map(str, flow.shape))) for flow in flows]
    return Drawing(tuple(boxes), tuple(arrows))


def _without(flows: list[Flow], name: str) -> list[Flow]:
    """What came to a part goes on to where it led."""
    starts = [flow.start for flow in flows if flow.end == name]
    through = [Flow(start, flow.end, flow.shape) for flow in flows if flow.start == name for start in starts]
    kept = [flow for flow in flows if name not in (flow.start, flow.end)]
    known = {(flow.start, flow.end) for flow in kept}
    return kept + [flow for flow in through if (flow.start, flow.end) not in known]
