"""Model directories: which files hold weights; and those that hold a LoRA adapter only, ours or PEFT's, with the base
that each names. No torch, no numpy.

An adapter's directory is a model like any other here: what it lacks (configuration, tokenizer, weights) lies with its
base, whose directory adapter_config.json names, absolute or relative to where a command is typed or to the adapter's.
"""

from __future__ import annotations

import json
from pathlib import Path

from hpc.core.errors import BadInput

WEIGHT_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
"""Where weights may be, in order of preference; an index names the shards."""

CONFIG = "adapter_config.json"
FILES = ("adapter_model.safetensors", "adapter_model.bin")
MODEL_FILES = ("config.json", CONFIG)
"""Configurations, a whole model's and an adapter's, of which a model's directory has one."""

NAMES_BASE = "base_model_name_or_path"


def is_adapter(directory: Path) -> bool:
    """Whether a directory holds an adapter, and not a whole model."""
    return (directory / CONFIG).is_file() and not any((directory / name).exists() for name in WEIGHT_FILES)


def is_model(directory: Path) -> bool:
    """Whether a directory can be meant for a model: it has a configuration, its own or an adapter's."""
    return any((directory / name).is_file() for name in MODEL_FILES)


def base_of(directory: Path) -> Path | None:
    """The directory of the model that an adapter's adapts; None where ``directory`` holds a whole model.

    Raises:
        BadInput: adapter_config.json is broken or names no base, or the base is not where it says.
    """
    if not is_adapter(directory):
        return None
    path = directory / CONFIG
    try:
        named = Path(json.loads(path.read_text(encoding="utf-8"))[NAMES_BASE])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        raise BadInput(f"{path}: not an adapter's configuration (JSON with a {NAMES_BASE})") from None
    found = next((place for place in (named, directory / named) if is_model(place)), None)
    if found is None:
        raise BadInput(
            f"{path}: the base model is not at {named}; write the path of its directory as {NAMES_BASE}"
        )
    return found


def with_bases(directory: Path) -> list[Path]:
    """A model's directory, and those it stands on: of an adapter its base, whose base again, to the whole model.

    Raises:
        BadInput: as :func:`base_of`; or an adapter stands, in the end, on itself.
    """
    chain = [directory]
    while (base := base_of(chain[-1])) is not None:
        if any(base.resolve() == known.resolve() for known in chain):
            raise BadInput(f"{chain[-1] / CONFIG}: the base it names, {base}, is this adapter itself")
        chain.append(base)
    return chain


def holder(directory: Path, name: str) -> Path:
    """The first of a model's directories that holds a file of this name; ``directory`` where none does.

    Raises:
        BadInput: as :func:`with_bases`, where ``directory`` itself lacks the file.
    """
    if (directory / name).is_file():
        return directory
    return next((place for place in with_bases(directory) if (place / name).is_file()), directory)
