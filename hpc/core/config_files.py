"""Configuration files: YAML read, overridden (``a.b=c``) and checked against a pydantic schema.

Anything unknown or of the wrong type is one line that names the file, the field and the nearest valid one. The one
module of this room that needs more than the standard library.
"""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, ValidationInfo, field_validator
from pydantic_core import ErrorDetails

from hpc.core.errors import BadInput

Schema = TypeVar("Schema", bound=BaseModel)

NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
"""A name that is also a file's: the ``pattern`` of its field."""


class Closed(BaseModel):
    """A part of a schema: no unknown fields, immutable, and true and false are no numbers."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _no_boolean(cls, value: Any, info: ValidationInfo) -> Any:
        """Pydantic takes True for 1."""
        if isinstance(value, bool) and not _takes_bool(cls.model_fields[str(info.field_name)].annotation):
            raise ValueError(f"{str(value).lower()} is no value for it")
        return value


def _takes_bool(annotation: Any) -> bool:
    return annotation in (bool, Any) or any(map(_takes_bool, get_args(annotation)))


def load(schema: type[Schema], path: Path, what: str, overrides: Sequence[str] = ()) -> Schema:
    """A file as ``schema`` says; ``what`` it is, for messages.

    Raises:
        BadInput: one line naming the file, the field and what would be right.
    """
    return validate(schema, read_yaml(path, what, schema), source=str(path), overrides=overrides)


def validate(
    schema: type[Schema], raw: dict[str, Any], *, source: str, overrides: Sequence[str] = ()
) -> Schema:
    """A mapping as ``schema`` says, after ``a.b=c`` overrides (values are YAML). ``source`` is only named in errors."""
    for item in overrides:
        apply_override(raw, item, schema)
    try:
        return schema.model_validate(raw)
    except ValidationError as error:
        raise BadInput(f"{source}: {explain(error, schema)}") from None


# libyaml's loader, where PyYAML was built with it: ten times faster
class Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """YAML 1.1 but for its numbers to the base 60: there 12:00:00 is 43200, and 08:00:00 a text."""

    def number(self, node: yaml.ScalarNode) -> Any:
        """A number, or the text where it has colons."""
        if ":" in node.value:
            return node.value
        floating = node.tag.endswith("float")
        return self.construct_yaml_float(node) if floating else self.construct_yaml_int(node)


for _tag in ("int", "float"):
    Loader.add_constructor(f"tag:yaml.org,2002:{_tag}", Loader.number)


def read_yaml(path: Path, what: str, schema: type[BaseModel] | None = None) -> dict[str, Any]:
    """A YAML mapping from a file; every way it can be wrong is one line. ``schema``: as for :func:`construct`."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise BadInput(f"{path}: no such {what} file") from None
    except OSError as error:
        raise BadInput(f"{path}: cannot read this {what}: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise BadInput(f"{path}: cannot read this {what}: not UTF-8 text (byte {error.start + 1})") from None
    try:
        raw = construct(text, schema)
    except yaml.YAMLError as error:
        where = getattr(error, "problem_mark", None)
        line = f" line {where.line + 1}" if where else ""
        problem = " ".join(str(getattr(error, "problem", None) or error).split())
        raise BadInput(f"{path}:{line} not valid YAML: {problem}") from None
    if raw is None:
        raise BadInput(f"{path}: nothing in it; a {what} is a YAML mapping with sections")
    if not isinstance(raw, dict):
        kind = "a list" if isinstance(raw, list) else "a single value"
        raise BadInput(f"{path}: a {what} is a YAML mapping with sections, not {kind}")
    return raw


def construct(text: str, schema: Any = None) -> Any:
    """A YAML document's value. What ``schema`` (a model, or the type of a field) calls text stays as it is written:
    ``account: 007`` is "007", ``qos: on`` is "on".

    Raises:
        yaml.YAMLError: it is no YAML.
    """
    loader = Loader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        _keep_text(node, schema, text)
        return loader.construct_document(node)
    finally:
        loader.dispose()


def _keep_text(node: yaml.Node, kind: Any, text: str) -> None:
    """Make plain scalars of a document's ``text`` texts where ``kind`` wants text, also inside; null stays null."""
    kinds = [
        k
        for k in (get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,))
        if k is not type(None)
    ]
    if len(kinds) != 1:
        return
    kind = kinds[0]
    if isinstance(node, yaml.ScalarNode):
        if kind is str and not node.tag.endswith(":null"):
            node.tag = "tag:yaml.org,2002:str"
    elif isinstance(node, yaml.SequenceNode) and get_origin(kind) in (tuple, list):
        for item in node.value:
            _keep_text(item, get_args(kind)[0], text)
    elif isinstance(node, yaml.MappingNode) and get_origin(kind) is dict:
        for _, item in node.value:
            _keep_text(item, get_args(kind)[1], text)
    elif isinstance(node, yaml.MappingNode) and isinstance(kind, type) and issubclass(kind, BaseModel):
        for key, item in node.value:
            _keep_text(item, field_type(kind, [str(key.value)]), text)
            if isinstance(item, yaml.SequenceNode) and field_type(kind, [str(key.value)]) in _TEXT:
                written = text[
                    _index(item.start_mark, text) : _index(item.end_mark, text)
                ]  # constraint: [a|b]
                node.value[node.value.index((key, item))] = (
                    key,
                    yaml.ScalarNode("tag:yaml.org,2002:str", written),
                )


_TEXT = (str, str | None)


def _index(mark: Any, text: str) -> int:
    lines = text.splitlines(keepends=True)
    return sum(map(len, lines[: mark.line])) + int(mark.column)


def field_type(schema: Any, keys: Sequence[str]) -> Any:
    """The type of the field that dotted ``keys`` name; None where there is none."""
    for key in keys:
        models = _models(schema)
        if get_origin(schema) is dict:
            schema = get_args(schema)[1]
        elif get_origin(schema) in (tuple, list) and key.isdigit():
            schema = get_args(schema)[0]
        elif models and key in models[0].model_fields:
            schema = models[0].model_fields[key].annotation
        else:
            return None
    return schema


def _models(kind: Any) -> list[type[BaseModel]]:
    """The sections that a field of this type takes: its own, or that of which it is a list."""
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return [kind]
    return [] if get_origin(kind) is dict else [model for part in get_args(kind) for model in _models(part)]


def apply_override(raw: dict[str, Any], item: str, schema: type[BaseModel] | None = None) -> None:
    """Apply one ``a.b=value`` to a nested mapping, in place; the value is read as YAML, as :func:`construct` does."""
    dotted, eq, text = item.partition("=")
    keys = dotted.strip().split(".")
    if not eq or not all(keys):
        raise BadInput(f"--set {item!r}: write section.field=value, for example train.learning_rate=2e-5")
    if len(text.splitlines()) > 1 or any("\ud800" <= c <= "\udfff" for c in item):
        raise BadInput(f"--set {item[:80]!r}: a value is one line of UTF-8 text")
    kind = field_type(schema, keys)
    try:
        value = construct(text, kind) if text else None
    except yaml.YAMLError:
        value = text
    if kind in _TEXT and value is not None and not isinstance(value, str):
        value = text.strip()
    if isinstance(value, str) and text.strip(" \t")[:1] not in ("'", '"'):
        value = text.strip(" \t")  # a # is no comment here, a ! no tag
    if isinstance(value, str) and str not in (kind, *get_args(kind)):
        # YAML 1.1 reads 2e-5 as text
        with contextlib.suppress(ValueError):
            value = float(value) if any(c in value for c in "eE.") else value
    here = raw
    for depth, key in enumerate(keys[:-1]):
        nested = here.get(key)
        if nested is None:
            nested = here[key] = {}
        if not isinstance(nested, dict):
            raise BadInput(f"--set {item!r}: {'.'.join(keys[: depth + 1])} is a value, not a section")
        here = nested
    here[keys[-1]] = value


def explain(error: ValidationError, schema: type[BaseModel]) -> str:
    """The first problem of a validation, in one line with the nearest valid field where one is unknown."""
    found = error.errors(include_url=False)
    first = found[0]
    keys = list(map(str, first["loc"]))
    where = ".".join(keys)
    if len(keys) > 1 and field_type(schema, keys) is None:
        field = field_type(schema, keys[:-1])
        if get_origin(field) in (Union, UnionType) and not _models(field):
            # One error for each kind of value that the field takes; pydantic adds the kind's name to the location.
            where = ".".join(keys[:-1])
            each = [e for e in found if list(map(str, e["loc"]))[:-1] == keys[:-1]]
            rights = dict.fromkeys(_wanted(e, []).removeprefix("should be ").strip("'") for e in each)
            return f"{where} = {_shown(first.get('input'))}: should be {', or '.join(rights)}"
    if first["type"] == "extra_forbidden":
        names = list(field_names(schema))
        near = difflib.get_close_matches(where, names, n=1, cutoff=0.4)
        if not near:
            last = where.rsplit(".", 1)[-1]
            near = [
                n
                for n in names
                if n.rsplit(".", 1)[-1]
                in difflib.get_close_matches(last, [n.rsplit(".", 1)[-1] for n in names], n=1, cutoff=0.5)
            ][:1]
        hint = (
            f"; did you mean {near[0]}?" if near else f"; valid: {', '.join(list(schema.model_fields)[:12])}"
        )
        return f"unknown field {where}{hint}"
    if first["type"] == "missing":
        return f"missing field {where}"
    message = _wanted(first, _models(field_type(schema, list(map(str, first["loc"])))))
    given = first.get("input")
    if given is None and "input" in first:
        prefix = f"{where} is empty: " if where else ""
    elif isinstance(given, dict):  # a section's own check names its fields
        prefix = f"{where}: " if where and first["type"] != "value_error" else ""
    else:
        prefix = f"{where} = {_shown(given)}: " if where else ""
    return f"{prefix}{message}"


_WANTED = {
    "string": "a text", "int": "a whole number", "float": "a number", "bool": "true or false", "dict": "a section",
    "tuple": "a list", "list": "a list", "model": "a section", "finite": "a finite number", "none": "null",
}  # fmt: skip
"""What is right, by the first word of pydantic's kind of error."""


def _wanted(first: ErrorDetails, sections: list[type[BaseModel]]) -> str:
    """What would be right, without the words of Python and pydantic.

    Args:
        sections: those that the field takes, whose fields are named.
    """
    kind, message = first["type"], first["msg"].removeprefix("Value error, ")
    if kind == "string_pattern_mismatch" and first["ctx"]["pattern"] == NAME:
        return "a name is letters, digits, dots, - and _, at most 64, the first a letter or a digit"
    start, _, end = kind.partition("_")
    if start in _WANTED and end.split("_")[0] in (
        "type",
        "parsing",
        "from",
        "number",
        "required",
        "attributes",
    ):
        right = _WANTED[start]
        fields = [name for section in sections[:1] for name in section.model_fields]
        if fields and right in ("a list", "a section"):
            names = ", ".join([*fields[:6], *(["…"] if len(fields) > 6 else [])])
            right = f"a list of sections with {names}" if right == "a list" else f"a section with {names}"
        return f"should be {right}"
    word = message.split(" ")[0]
    message = message[:1].lower() + message[1:] if word[1:].islower() or len(word) == 1 else message
    return message.removeprefix("input ").removeprefix("string ")


def _shown(value: object) -> str:
    """A value as YAML has it, short."""
    shown = repr(value)
    if isinstance(value, (bool, list, tuple)):
        plain = list(value) if isinstance(value, tuple) else value
        shown = yaml.safe_dump(plain, default_flow_style=True, allow_unicode=True, width=1000)
        shown = shown.removesuffix("\n").removesuffix("\n...")
    return shown if len(shown) <= 60 else shown[:57] + "..."


def flat(tree: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """Settings by their dotted names, as --set writes them: ``{"lora": {"rank": 8}}`` is ``{"lora.rank": 8}``."""
    found: dict[str, Any] = {}
    for key, value in tree.items():
        found |= flat(value, f"{before}{key}.") if isinstance(value, Mapping) else {f"{before}{key}": value}
    return found


def field_names(schema: type[BaseModel], prefix: str = "") -> list[str]:
    """Every field of a schema, dotted, sections included."""
    names: list[str] = []
    for name, field in schema.model_fields.items():
        names.append(prefix + name)
        kinds = [field.annotation, *getattr(field.annotation, "__args__", ())]
        for kind in kinds:
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                names += field_names(kind, f"{prefix}{name}.")
    return names
