"""A drawing of boxes and arrows as the text of Mermaid or PlantUML. Knows nothing of what is drawn."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

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
