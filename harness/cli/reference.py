"""The reference of the study file, made from the typed configuration itself, so that it cannot grow stale."""

import json
import types
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic_core import PydanticUndefined

from harness.study.part import Part
from harness.study.space import SEARCHABLE
from harness.study.spec import Spec

HEAD = """# The study file

One YAML file is one study. This page is made from the configuration's own types by

    harness study reference > docs/study-file.md

Keys are strict: an unknown key, a key written twice or a value of the wrong type is refused with the nearest known
name, before anything is trained. Any key can be set from the command line: `--set optim.lr=1e-3`.

## Search ranges

Under `{searchable}` a range may stand exactly where the value would stand. The dotted path
(`optim.lr`) is its only name: in the study file, in `--set`, in Optuna, as the MLflow column `params.optim.lr`, in
every table.

```yaml
optim:
  lr: {{float: [1.0e-5, 1.0e-2], log: true}}   # log-uniform
train:
  batch_size: {{int: [8, 64], step: 8}}         # both ends included
augment:
  rotate: {{choice: [0.0, 15.0]}}               # a switch: off or on
```

A range stands only where its condition holds with `when`, such as
`optim.momentum: {{float: [0.5, 0.99], when: {{optim.name: sgd}}}}`; elsewhere the key has its default. Samplers,
conditions, several objectives, constraints, budgets: [docs/searching.md](searching.md).

`search.trials` is the TOTAL number of trials: running a finished study again does nothing, a larger total adds trials
to it. `search.trials`, `search.timeout_minutes`, `search.trial_minutes` and `description` may change between two runs
of one study; any other change makes it another study, which needs another name (`--as NEWNAME`).
"""


def reference_page() -> str:
    """The Markdown page: one table per block of the study file."""
    lines = [HEAD.format(searchable="`, `".join(SEARCHABLE))]
    _block(Spec, "", lines)
    return "\n".join(lines).rstrip() + "\n"


def _block(block: type[Part], prefix: str, lines: list[str]) -> None:
    title = f"`{prefix.removesuffix('.')}`" if prefix else "Top level"
    lines += [f"## {title}", "", (block.__doc__ or "").strip(), "", "| key | type | default | meaning |"]
    lines += ["|---|---|---|---|"]
    inner: list[tuple[str, type[Part]]] = []
    for name, field in block.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Part):
            inner.append((name, field.annotation))
            continue
        default = "required" if field.default is PydanticUndefined else f"`{json.dumps(field.default)}`"
        bounds = _bounds(field.metadata)
        kind = ", ".join(part for part in (_kind(field.annotation), bounds) if part)
        meaning = (field.description or "").replace("\n", " ").replace("|", "\\|")
        lines.append(f"| `{prefix}{name}` | {kind} | {default} | {meaning} |")
    lines.append("")
    for name, part in inner:
        _block(part, f"{prefix}{name}.", lines)


def _kind(annotation: Any) -> str:
    """A type in words: 'whole number', 'one of `a`, `b`', 'list of texts or null'."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        inside = _bounds(list(arguments[1:]))
        return f"{_kind(arguments[0])} ({inside})" if inside else _kind(arguments[0])
    if origin is Literal:
        return "one of " + ", ".join(f"`{json.dumps(option).strip(chr(34))}`" for option in arguments)
    if origin in (Union, types.UnionType):
        return " or ".join(_kind(argument) for argument in arguments)
    if origin is dict:
        return f"block of names, each with {_kind(arguments[1])}"
    if origin is tuple:
        if len(arguments) == 2 and arguments[1] is Ellipsis:
            return f"list of {_kind(arguments[0])}s"
        return "[" + ", ".join(_kind(argument) for argument in arguments) + "]"
    words = {bool: "true or false", int: "whole number", float: "number", str: "text", type(None): "null"}
    return words.get(annotation, str(annotation))


def _bounds(metadata: list[Any]) -> str:
    """'0 to 1', 'above 0': what pydantic and annotated-types attached to a field."""
    found: dict[str, float] = {}
    for item in metadata:
        for entry in getattr(item, "metadata", [item]):
            for name in ("ge", "gt", "le", "lt"):
                bound = getattr(entry, name, None)
                if bound is not None:
                    found[name] = bound
    words = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}
    return " and ".join(f"{words[name]} {bound:.10g}" for name, bound in found.items())
