"""The files of a model directory; what it needs besides weights: configuration, tokenizer, THUDM's own code."""

from __future__ import annotations

import fnmatch
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from glmjobs.zero.dtypes import TORCH_NAME
from glmjobs.zero.guarded_files import open_regular, read_json, reading
from hpc.core.errors import WorkFailed, of_system

PATTERNS = (
    "config.json", "generation_config.json", "configuration.json", "tokenizer*", "special_tokens_map.json",
    "added_tokens.json", "vocab.*", "merges.txt", "*.model", "*.vocab",
    "chat_template*", "preprocessor_config.json",
    "processor_config.json", "*.py", "LICENSE*", "MODEL_LICENSE*", "NOTICE*",
)  # fmt: skip
WEIGHTS = ("*.safetensors", "*.bin", "*.pt")
OF_WHOLE_MODELS = ("config.json", "generation_config.json", "configuration.json")
# Beside a checkpoint lie scripts that DeepSpeed put there; they are not the model's.
NOT_MODEL = ("zero_to_fp32.py", "zero_to_torch.py", "setup.py")


# Where these differ, the checkpoint is not the base model trained: it has more tokens, or is another model.
SHAPES = ("model_type", "vocab_size", "padded_vocab_size", "hidden_size", "num_layers", "num_hidden_layers")
TOKENIZER = (
    "tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.*", "merges.txt", "*.model", "*.vocab",
    "chat_template*",
)  # fmt: skip


def carry(
    into: Path, checkpoint: Path, bases: Sequence[Path], dtype: str, *, adapter: bool = False
) -> list[str]:
    """Copy the files into a model directory: the base model's as they are, of the checkpoint what the base lacks.

    A training changes weights; transformers, saving them, changes configurations too: it turns the cache off, makes up
    a generation_config.json, writes the tokenizer and its template in its own form. Only a checkpoint with other shapes
    than the base's (tokens were added) has its own configuration and tokenizer.

    Args:
        bases: the base model's directory, none, or an adapter's and those that it stands on
            (:func:`glmjobs.zero.directories.with_bases`).
        checkpoint: its links are not followed outwards (a hub cache's, and so a base's, are made of links).
        dtype: the weights' type, entered in config.json.
        adapter: an adapter alone is written, whose model is its base's: transformers takes a directory with a
            config.json for a whole model.

    Returns:
        The names copied, sorted.

    Raises:
        WorkFailed: a file cannot be read, or config.json is not JSON.
    """
    copied: list[str] = []
    whole = next((base for base in bases if _configured(base)), None)
    for source in (sources := in_order(checkpoint, bases)):
        tokenizer = sources[0] in bases and any(_matches(name, TOKENIZER) for name in copied)
        for path in sorted(source.iterdir()) if source.is_dir() else ():
            name = path.name
            wanted = _matches(name, PATTERNS) and name not in NOT_MODEL and not (into / name).exists()
            wanted = wanted and not (adapter and name in OF_WHOLE_MODELS)
            made_up = name == "generation_config.json" and whole is not None and source == checkpoint
            if not wanted or made_up or (tokenizer and _matches(name, TOKENIZER)) or not path.is_file():
                continue
            if source == checkpoint and not path.resolve().is_relative_to(source.resolve()):
                raise WorkFailed(f"{path}: a link out of the checkpoint; refused")
            try:
                if name == "config.json":
                    _write_config(path, into / name, dtype, whole)
                else:
                    with open_regular(path) as file, (into / name).open("xb") as copy:
                        shutil.copyfileobj(file, copy)
            except OSError as error:
                raise of_system(error, f"{path}: cannot be copied: {error.strerror or error}") from None
            copied.append(name)
    return sorted(copied)


def of_use(base: Path) -> bool:
    """Whether a directory has anything of a base model: weights, or a file that would be carried over."""
    return any(_matches(path.name, (*PATTERNS, *WEIGHTS)) for path in base.iterdir())


def in_order(checkpoint: Path, bases: Sequence[Path]) -> list[Path]:
    """Where a model's files come from, first what counts: the base, unless the checkpoint has other shapes.

    Raises:
        WorkFailed: a config.json is not JSON.
    """
    one, other = read_config([checkpoint]), read_config(bases)
    same = "model_type" in other and all(
        one[key] == other[key] for key in SHAPES if key in one and key in other
    )
    return [*bases, checkpoint] if same else [checkpoint, *bases]


def _configured(base: Path) -> bool:
    return "model_type" in read_config([base])


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def read_config(sources: Sequence[Path]) -> dict[str, Any]:
    """The first config.json of the sources, {} where there is none.

    Raises:
        WorkFailed: it is not JSON.
    """
    for source in sources:
        path = source / "config.json"
        if path.is_file():
            return _load(path)
    return {}


def _load(path: Path) -> dict[str, Any]:
    with reading(path, "a model's configuration is JSON"):
        config = read_json(path)
    if not isinstance(config, dict):
        raise WorkFailed(f"{path}: a model's configuration is a mapping, not a {type(config).__name__}")
    return config


def _write_config(source: Path, target: Path, dtype: str, base: Path | None) -> None:
    """The configuration with the weights' type (dtype in transformers 5, torch_dtype before) and the base's cache."""
    config = _load(source)
    if base is not None:
        cache = {key: value for key, value in read_config([base]).items() if key == "use_cache"}
        config = {key: value for key, value in {**config, **cache}.items() if key != "use_cache" or cache}
    named = [key for key in ("dtype", "torch_dtype") if key in config] or ["torch_dtype"]
    config.update(dict.fromkeys(named, TORCH_NAME[dtype]))
    target.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
