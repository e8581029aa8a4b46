"""The JSON schema of a study file, for editors that complete and check it: made from the typed configuration.

Where a value may be searched, a range may stand. JSON schema 7, which YAML editors know best. What no schema can say
(keys that fit together, a range's low end below its high end, backbones) is said by `harness study run` alone.
"""

from collections.abc import Iterator
from typing import Any

from harness.study.load import all_keys
from harness.study.space import SEARCHABLE
from harness.study.spec import NAME, Spec

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
