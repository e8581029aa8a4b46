"""Study files: find, read strictly, override, check whole. The only file that imports yaml."""

import functools
import hashlib
import json
import re
import types
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Union, get_args, get_origin

import pydantic
import yaml

from harness.config.data import Data, Part
from harness.config.space import (
    Choice,
    Range,
    Space,
    check_enqueued,
    fill,
    find_ranges,
    flatten,
    ordered,
    probes,
    stands,
)
from harness.config.spec import Spec
from harness.errors import RequestError, nearest

SHIPPED = (Path(__file__).parents[1] / "studies", Path(__file__).parents[2] / "studies")
FREE_KEYS = ("search.trials", "search.timeout_minutes", "search.trial_minutes", "description", "data.root")
"""may differ between two runs of one study; that moved data are the same is checked by their content"""
FREE_BLOCKS = ("data.where", "data.acknowledge")
"""keys whose value is a block of names of its own"""


@dataclass(frozen=True)
class Study:
    """A study file, checked: the template with its ranges, and the spec with every range at its first value."""

    name: str
    tree: dict[str, Any]
    """complete, defaults filled in; ranges stand in their places as written"""
    space: Space
    """in an order in which conditions come before what they decide"""
    spec: Spec

    def stands(self, name: str, point: dict[str, Any]) -> bool:
        """Whether a range stands, given values for those before it (config.space)."""
        return stands(self.space[name], point, self._fixed, key_defaults())

    @functools.cached_property
    def _fixed(self) -> dict[str, Any]:
        return flatten(self.tree)

    def fill(self, values: dict[str, Any]) -> dict[str, Any]:
        """The tree of one trial. `values` must cover the ranges that stand; those that do not get their default."""
        point = {name: value for name, value in values.items() if name not in self.space}
        resting: dict[str, Any] = {}
        for name in self.space:
            if self.stands(name, point):
                point[name] = values[name]
            else:
                resting[name] = key_defaults()[name]
        return fill(self.tree, {**point, **resting})

    def draw(self, values: dict[str, Any]) -> Spec:
        """The spec of one trial. `values` must cover the ranges that stand."""
        return build_spec(self.fill(values), self.name)


class _StrictLoader(yaml.SafeLoader):
    """YAML that refuses a key written twice and reads 1e-3 as a number (YAML 1.1 reads it as text)."""


_StrictLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:[0-9][0-9_]*)(?:\.[0-9_]*)?[eE][-+]?[0-9]+$"),
    list("-+0123456789"),
)


def _mapping(loader: _StrictLoader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: dict[Any, int] = {}
    for key_node, _ in node.value:
        key = loader.construct_object(key_node, deep=True)
        if key in seen:
            raise yaml.constructor.ConstructorError(
                None, None, f"the key {key!r} stands twice (first on line {seen[key]})", key_node.start_mark
            )
        seen[key] = key_node.start_mark.line + 1
    return loader.construct_mapping(node, deep=True)


_StrictLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def find_study(name: str) -> Path:
    """The file of a study: a path, studies/NAME.yaml here, or one that harness ships."""
    if name.endswith((".yaml", ".yml")):
        path = Path(name)
        if path.is_file():
            return path
        raise RequestError(f"no study file at {path}. `harness study list` shows the known studies.")
    for folder in (Path("studies"), *SHIPPED):
        for ending in (".yaml", ".yml"):
            path = folder / f"{name}{ending}"
            if path.is_file():
                return path
    known = sorted(path.stem for path in list_study_files())
    raise RequestError(
        f"no study named {name!r}: studies/{name}.yaml does not exist.{nearest(name, known)}"
        f" Known: {', '.join(known) or 'none'}."
    )


def list_study_files() -> list[Path]:
    """Every study file in reach, one per name, nearest folder first."""
    found: dict[str, Path] = {}
    for folder in (Path("studies"), *SHIPPED):
        for path in sorted(folder.glob("*.y*ml")) if folder.is_dir() else []:
            found.setdefault(path.stem, path)
    return [found[name] for name in sorted(found)]


def load_study(name: str, overrides: list[str] | None = None, rename: str | None = None) -> Study:
    """Read a study by name or path, apply `a.b=value` overrides, check it at its extremes.

    Raises RequestError that names file, key and what to type.
    """
    path = find_study(name)
    tree = _read(path)
    tree.setdefault("name", path.stem)
    if rename is not None:
        tree["name"] = rename
    return check_study(set_keys(tree, overrides or []), str(path))


def set_keys(tree: dict[str, Any], overrides: list[str]) -> dict[str, Any]:
    """The tree with `a.b=value` texts applied. Raises RequestError for one that names no key."""
    for override in overrides:
        key, value = parse_override(override)
        _known_key(key, "--set ")
        tree = fill(_without(tree, key), {key: value})
    return tree


def parse_override(text: str) -> tuple[str, Any]:
    """'optim.lr=1e-3' -> ('optim.lr', 0.001); the value is YAML, so ranges and lists work too."""
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise RequestError(f"--set {text}: write KEY=VALUE, such as --set optim.lr=1e-3.")
    try:
        return key.strip(), yaml.load(value, Loader=_StrictLoader) if value.strip() else ""
    except yaml.YAMLError as error:
        raise RequestError(f"--set {text}: the value cannot be read: {_yaml_problem(error)}") from error


def check_study(tree: dict[str, Any], place: str) -> Study:
    """A study from a plain tree: keys known, types right, every range right at both of its ends."""
    _known_keys(tree, Spec, "", place)
    try:
        ranges = find_ranges(tree)
        space = ordered(ranges, flatten(tree), key_defaults())
    except RequestError as error:
        raise RequestError(f"{place}: {error}") from None
    tree = fill(tree, {name: key_defaults()[name] for name in ranges if name not in space})
    points = probes(space)
    spec = build_spec(fill(tree, points[0]), place)
    whole = spec.model_dump(mode="json")
    study = Study(spec.name, fill(whole, {name: _as_tree(range_) for name, range_ in space.items()}), space, spec)
    for point in points:
        build_spec(study.fill(point), place)
    chosen = space.get("train.select")
    if isinstance(chosen, Choice) and "scored_fold" in chosen.options:
        raise RequestError(
            f"{place}: train.select: scored_fold cannot be searched: it picks by the scores that the search "
            "compares, so it would win. Write it as the one value of a study of its own, or leave it out."
        )
    if not space and spec.search.trials > 1:
        raise RequestError(
            f"{place}: nothing is searched, so {spec.search.trials} trials would all be the same. "
            "Write a range, such as optim.lr: {float: [1.0e-4, 1.0e-2], log: true}, or --set search.trials=1."
        )
    check_enqueued(spec.search.enqueue, space, flatten(study.tree), key_defaults(), place)
    return study


def _as_tree(range_: Range) -> dict[str, Any]:
    body = {key: value for key, value in vars(range_).items() if value is not None}
    when = {key: list(values) if len(values) > 1 else values[0] for key, values in range_.when}
    condition = {"when": when} if when else {}
    if "options" in body:
        return {"choice": list(body["options"]), **condition}
    kind = type(range_).__name__.removesuffix("Range").lower()
    tree: dict[str, Any] = {kind: [body["low"], body["high"]]}
    if body.get("log"):
        tree["log"] = True
    elif "step" in body and not (kind == "int" and body["step"] == 1):
        tree["step"] = body["step"]
    return {**tree, **condition}


def build_spec(tree: dict[str, Any], place: str) -> Spec:
    """The typed spec of a tree without ranges. Raises RequestError with the key's name."""
    try:
        return Spec.model_validate(tree)
    except pydantic.ValidationError as error:
        lines = []
        for problem in error.errors():
            key = ".".join(str(part) for part in problem["loc"]) or "study"
            if problem["type"] == "missing":
                lines.append(f"{place}: {key} is missing.{_purpose(key)}")
            else:
                lines.append(f"{place}: {key}: {_what_is_wrong(problem)}{_purpose(key)}")
        raise RequestError("\n".join(lines)) from error


def _what_is_wrong(problem: Mapping[str, Any]) -> str:
    """pydantic's words in those of a study file: 'Input should be a valid integer, not 'many'.'"""
    given = problem["input"]
    said = str(problem["msg"]).removeprefix("Value error, ").replace("a valid tuple", "a list, such as [a, b]")
    hint = ""
    if problem["type"] == "literal_error":
        hint = nearest(str(given), re.findall(r"'([^']*)'", said))
    elif isinstance(given, dict):
        hint = " A range is {float: [low, high]}, {int: [low, high]} or {choice: [a, b]}."
    if not problem["loc"]:  # a rule about several keys, which it names itself
        return said
    return f"{said}, not {given!r}.{hint}"


def dump_yaml(tree: dict[str, Any]) -> str:
    return str(yaml.safe_dump(tree, sort_keys=False, allow_unicode=True))


def read_spec(path: Path) -> Spec:
    """A trial's spec.yaml, as the artifacts keep it."""
    return build_spec(_read(path), str(path))


def spec_hash(tree: dict[str, Any]) -> str:
    """What a study remembers of its spec; keys that may grow later are left out."""
    flat = {key: value for key, value in _filled(tree).items() if not key.startswith(FREE_KEYS)}
    return hashlib.blake2b(json.dumps(flat, sort_keys=True, default=str).encode(), digest_size=8).hexdigest()


def differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Lines 'key: old -> new' for what differs between two studies and may not."""
    a, b = _filled(old), _filled(new)
    names = [name for name in dict.fromkeys([*a, *b]) if not name.startswith(FREE_KEYS)]
    return [f"{n}: {a.get(n, '(absent)')} -> {b.get(n, '(absent)')}" for n in names if a.get(n) != b.get(n)]


def _filled(tree: dict[str, Any]) -> dict[str, Any]:
    """The flat tree; a key that it was written without, because the program did not have it yet, has its default."""
    flat = flatten(tree)
    ranged = {name.rpartition(".")[0] for name in flat}
    return {**{name: value for name, value in key_defaults().items() if name not in ranged}, **flat}


@functools.cache
def key_defaults() -> dict[str, Any]:
    """The default of every key of a study file by dotted name; those that are required have an empty text."""
    return flatten(Spec(name="any", data=Data(root="", group="")).model_dump(mode="json", exclude={"name"}))


def _read(path: Path) -> dict[str, Any]:
    try:
        tree = yaml.load(path.read_text(encoding="utf-8"), Loader=_StrictLoader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RequestError(f"{path}: not readable as YAML: {_yaml_problem(error)}") from error
    if not isinstance(tree, dict):
        raise RequestError(
            f"{path}: a study file is a block of keys (name, data, optim, ...), not {type(tree).__name__}."
        )
    return tree


def _yaml_problem(error: Exception) -> str:
    mark = getattr(error, "problem_mark", None)
    text = getattr(error, "problem", None) or str(error)
    return f"line {mark.line + 1}, column {mark.column + 1}: {text}" if mark else text


def _without(tree: dict[str, Any], name: str) -> dict[str, Any]:
    """A copy of the tree in which the path to `name` is free, so that a value can replace a range."""
    copy = fill(tree, {})
    node: Any = copy
    for key in name.split(".")[:-1]:
        node = node.get(key)
        if not isinstance(node, dict):
            return copy
    node.pop(name.split(".")[-1], None)
    return copy


def _block(annotation: Any) -> type[Part] | None:
    """The block type behind an annotation, if it is one."""
    if get_origin(annotation) in (Union, types.UnionType):
        return next((found for arg in get_args(annotation) if (found := _block(arg))), None)
    return annotation if isinstance(annotation, type) and issubclass(annotation, Part) else None


def all_keys(block: type[Part] = Spec, prefix: str = "") -> dict[str, str]:
    """Every key of a study file by dotted name, with what it means."""
    keys: dict[str, str] = {}
    for name, field in block.model_fields.items():
        inner = _block(field.annotation)
        if inner:
            keys.update(all_keys(inner, f"{prefix}{name}."))
        else:
            keys[f"{prefix}{name}"] = field.description or ""
    return keys


def _purpose(key: str) -> str:
    text = all_keys().get(key, "")
    return f" ({key} is {text})" if text else ""


def _known_key(key: str, prefix: str = "") -> None:
    known = all_keys()
    if key in known or key.startswith(tuple(f"{name}." for name in FREE_BLOCKS)):
        return
    inside = [name for name in known if name.startswith(f"{key}.")]
    if inside:
        raise RequestError(f"{prefix}{key}: this is a block; set one of its keys, such as {inside[0]}.")
    tails = [name for name in known if name.rsplit(".", 1)[-1] == key.rsplit(".", 1)[-1]]
    hint = f" Did you mean {' or '.join(tails)}?" if tails else nearest(key, known)
    raise RequestError(f"{prefix}{key}: no such key.{hint} Every key: harness study reference")


def _known_keys(tree: dict[str, Any], block: type[Part], prefix: str, place: str) -> None:
    for key, value in tree.items():
        field = block.model_fields.get(str(key))
        if field is None:
            dotted = f"{prefix}{key}"
            known = all_keys()
            near = nearest(str(key), block.model_fields) or nearest(dotted, known)
            raise RequestError(f"{place}: {dotted}: no such key.{near} Known here: {', '.join(block.model_fields)}.")
        inner = _block(field.annotation)
        if inner is not None:
            if not isinstance(value, dict):
                raise RequestError(
                    f"{place}: {prefix}{key} is a block with the keys {', '.join(inner.model_fields)}, not {value!r}."
                )
            _known_keys(value, inner, f"{prefix}{key}.", place)
