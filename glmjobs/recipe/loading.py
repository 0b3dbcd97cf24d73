"""How recipe and cluster profile are found, read, overridden (``--set a.b=c``) and checked against their schemas.

Anything unknown or of the wrong type is one line that names the file, the field and the nearest valid one.
"""

from __future__ import annotations

import contextlib
import difflib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from glmjobs.recipe.schema import Recipe
from hpc.batch.profile import ClusterProfile
from hpc.core.errors import BadInput
from hpc.core.resources import resource

DEFAULT_RECIPE = "configs/chatglm6b.yaml"


def load(path: str | Path, overrides: list[str] | None = None) -> Recipe:
    """Read a recipe file and apply ``a.b=c`` overrides (values are YAML).

    Raises:
        BadInput: one line naming the file, the field, and the nearest valid field or the value expected.
    """
    return parse(read_yaml(Path(path), "recipe"), source=str(path), overrides=overrides)


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


def parse(raw: dict[str, Any], source: str = "recipe", overrides: list[str] | None = None) -> Recipe:
    """Validate a mapping as a recipe. ``source`` is only named in errors."""
    for item in overrides or []:
        apply_override(raw, item)
    try:
        return Recipe.model_validate(raw)
    except ValidationError as error:
        raise BadInput(f"{source}: {explain(error, Recipe)}") from None


def read_yaml(path: Path, what: str) -> dict[str, Any]:
    """A YAML mapping from a file; every way it can be wrong is one line."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise BadInput(f"{path}: no such {what} file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{path}: cannot read this {what}: {error}") from None
    try:
        raw = yaml.load(text, Loader=Loader)
    except yaml.YAMLError as error:
        where = getattr(error, "problem_mark", None)
        line = f" line {where.line + 1}" if where else ""
        problem = " ".join(str(getattr(error, "problem", None) or error).split())
        raise BadInput(f"{path}:{line} not valid YAML: {problem}") from None
    if not isinstance(raw, dict):
        raise BadInput(f"{path}: a {what} is a YAML mapping with sections, not {type(raw).__name__}")
    return raw


def apply_override(raw: dict[str, Any], item: str) -> None:
    """Apply one ``a.b=value`` to a nested mapping, in place; the value is read as YAML."""
    dotted, eq, text = item.partition("=")
    keys = dotted.strip().split(".")
    if not eq or not all(keys):
        raise BadInput(f"--set {item!r}: write section.field=value, for example train.learning_rate=2e-5")
    if len(text.splitlines()) > 1 or any("\ud800" <= c <= "\udfff" for c in item):
        raise BadInput(f"--set {item[:80]!r}: a value is one line of UTF-8 text")
    try:
        value = yaml.load(text, Loader=Loader) if text else None
    except yaml.YAMLError:
        value = text
    if isinstance(value, str) and text.strip(" \t")[:1] not in ("'", '"'):
        value = text.strip(" \t")  # a # is no comment here, a ! no tag
    if isinstance(value, str):  # YAML 1.1 reads 2e-5 as text
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
    first = error.errors(include_url=False)[0]
    # A union adds the name of the branch it tried to the location; the schema has no field of that name.
    where = ".".join(str(part) for part in first["loc"])
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
    message = first["msg"].removeprefix("Value error, ")
    got = repr(first.get("input"))
    got = got if len(got) <= 60 else got[:57] + "..."
    prefix = f"{where} = {got}: " if where and not isinstance(first.get("input"), dict) else ""
    word = message.split(" ")[0]
    message = message[:1].lower() + message[1:] if word[1:].islower() or len(word) == 1 else message
    return f"{prefix}{message}"


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


def load_both(
    recipe: str, cluster: str | None, overrides: list[str], executor: str
) -> tuple[Recipe, ClusterProfile]:
    """Recipe and profile, with overrides applied to whichever they name."""
    of_cluster, of_recipe = split_overrides(overrides)
    fallback = (
        "configs/clusters/generic.yaml" if executor == "local" else "configs/clusters/centos7-a100.yaml"
    )
    named = cluster or os.environ.get("GLMJOBS_CLUSTER") or fallback
    return load(find_config(recipe), of_recipe), load_profile(find_config(named), of_cluster)


def load_profile(path: Path, overrides: list[str]) -> ClusterProfile:
    """A cluster profile from a file.

    Raises:
        BadInput: one line naming the file, the field and what would be right.
    """
    raw = read_yaml(path, "cluster profile")
    for item in overrides:
        apply_override(raw, item)
    try:
        return ClusterProfile.model_validate(raw)
    except ValidationError as error:
        raise BadInput(f"{path}: {explain(error, ClusterProfile)}") from None


def override(
    recipe: Recipe, profile: ClusterProfile, overrides: Sequence[str]
) -> tuple[Recipe, ClusterProfile]:
    """A run's recipe and profile with some fields changed, checked as a whole again."""
    of_cluster, of_recipe = split_overrides(overrides)
    changed = parse(recipe.model_dump(mode="json"), source="the run's recipe", overrides=of_recipe)
    raw = profile.model_dump(mode="json")
    for item in of_cluster:
        apply_override(raw, item)
    try:
        return changed, ClusterProfile.model_validate(raw)
    except ValidationError as error:
        raise BadInput(f"the run's cluster profile: {explain(error, ClusterProfile)}") from None


def split_overrides(overrides: Sequence[str]) -> tuple[list[str], list[str]]:
    """Those of the cluster profile (``cluster.field=value``, without the first word), and those of the recipe."""
    of_cluster = [item.removeprefix("cluster.") for item in overrides if item.startswith("cluster.")]
    return of_cluster, [item for item in overrides if not item.startswith("cluster.")]


def find_config(text: str) -> Path:
    """A configuration file as given, or the project's own of that name (so that commands work from any directory)."""
    path = Path(text)
    if path.exists() or path.is_absolute():
        return path
    own = resource(text, "glmjobs", "hpc")
    return own if own.exists() else path
