"""What a study file may say, as JSON schema and as a reference in Markdown.

The JSON schema of a study file, for editors that complete and check it: made from the typed configuration.

Where a value may be searched, a range may stand. JSON schema 7, which YAML editors know best. What no schema can say
(keys that fit together, a range's low end below its high end, backbones) is said by `harness study run` alone.

The reference of the study file, made from the typed configuration itself, so that it cannot grow stale.
"""

import json
import types
from collections.abc import Iterator
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic_core import PydanticUndefined

from harness.config.data import Part
from harness.config.load import all_keys
from harness.config.space import SEARCHABLE
from harness.config.spec import NAME, Spec

Schema = dict[str, Any]
SCALAR: Schema = {"type": ["string", "number", "boolean", "null"]}


def study_schema() -> Schema:
    """The whole schema, as plain data."""
    made = _plain(Spec.model_json_schema())
    blocks = made.pop("$defs")
    for name in SEARCHABLE:
        block = blocks[made["properties"][name]["$ref"].rpartition("/")[2]]
        block["properties"] = {key: _or_range(value) for key, value in block["properties"].items()}
    made["required"].remove("name")  # the file's own name stands for it
    made["properties"]["name"]["pattern"] = f"^{NAME}$"
    data = blocks["Data"]["properties"]
    data["classes"]["anyOf"][0]["items"] = SCALAR  # read as texts
    data["where"]["anyOf"][0]["additionalProperties"]["anyOf"].append({"type": "object"})  # as --set nests it
    point = blocks["Search"]["properties"]["enqueue"]["items"]
    point["propertyNames"] = {"enum": [key for key in all_keys() if key.startswith(SEARCHABLE)]}
    blocks["when"] = {
        "type": "object",
        "minProperties": 1,
        "description": "only where each of these keys has this value, or one of these",
        "propertyNames": {"enum": list(all_keys())},
        "additionalProperties": {"anyOf": [SCALAR, {"type": "array", "items": SCALAR, "minItems": 1}]},
    }
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "A study of harness",
        "description": "One YAML file: which images, which network, how it is trained, what is searched.",
        **{key: made[key] for key in ("type", "additionalProperties", "required", "properties")},
        "$defs": blocks,
    }


def key_values() -> dict[str, list[str]]:
    """Every key that can be set, by dotted name, with the values it may have where these are words."""
    whole = study_schema()
    return dict(_values(whole, whole["$defs"], ""))


def _values(block: Schema, blocks: dict[str, Schema], prefix: str) -> Iterator[tuple[str, list[str]]]:
    for name, value in block["properties"].items():
        if "$ref" in value:
            yield from _values(blocks[value["$ref"].rpartition("/")[2]], blocks, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", _words(value)


def _words(value: Schema) -> list[str]:
    words = ["true", "false"] if value.get("type") == "boolean" else [str(one) for one in value.get("enum", ())]
    if isinstance(value.get("const"), str):
        words.append(value["const"])
    return words + [word for one in value.get("anyOf", ()) for word in _words(one)]


def _or_range(value: Schema) -> Schema:
    """A value, or a range of such values in its place."""
    about: Schema = {key: value[key] for key in ("description", "default") if key in value}
    bare = {key: one for key, one in value.items() if key not in about}
    kinds = {one.get("type") for one in bare.get("anyOf", [bare])}
    ranges: list[Schema] = [{"choice": {"type": "array", "items": bare, "minItems": 1, "uniqueItems": True}}]
    if "number" in kinds:
        step = {"type": "number", "exclusiveMinimum": 0}
        ranges.append({"float": _ends(bare), "log": {"type": "boolean"}, "step": step})
    if kinds & {"number", "integer"}:
        ends = {"allOf": [_ends(bare), {"items": {"type": "integer"}}]}
        ranges.append({"int": ends, "log": {"type": "boolean"}, "step": {"type": "integer", "minimum": 1}})
    options = [
        {
            "type": "object",
            "additionalProperties": False,
            "required": [next(iter(one))],
            "properties": {**one, "when": {"$ref": "#/$defs/when"}},
        }
        for one in ranges
    ]
    return {**about, "anyOf": [*bare.get("anyOf", [bare]), *options]}


def _ends(value: Schema) -> Schema:
    return {"type": "array", "items": value, "minItems": 2, "maxItems": 2, "description": "[low, high], both included"}


def _plain(node: Any, names: bool = False) -> Any:
    """Without the titles that only repeat a key, and with fixed-length lists as JSON schema 7 writes them."""
    if isinstance(node, list):
        return [_plain(one) for one in node]
    if not isinstance(node, dict):
        return node
    kept = {key: value for key, value in node.items() if names or key != "title"}
    made = {key: _plain(value, names=key in ("properties", "$defs") and not names) for key, value in kept.items()}
    if "prefixItems" in made and not names:
        made["items"] = made.pop("prefixItems")
        made["additionalItems"] = False
    return made


HEAD = """# The study file

One YAML file is one study. This page is made from the configuration's own types by `harness study reference`.

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
