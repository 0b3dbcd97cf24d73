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
from hpc.core.errors import WorkFailed

WEIGHT_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
"""Where weights may be, in order of preference; an index names the shards."""

PATTERNS = (
    "config.json", "generation_config.json", "configuration.json", "tokenizer*", "special_tokens_map.json",
    "added_tokens.json", "vocab.*", "merges.txt", "*.model", "*.vocab",
    "chat_template*", "preprocessor_config.json",
    "processor_config.json", "*.py", "LICENSE*", "MODEL_LICENSE*", "NOTICE*",
)  # fmt: skip
# Beside a checkpoint lie scripts that DeepSpeed put there; they are not the model's.
NOT_MODEL = ("zero_to_fp32.py", "zero_to_torch.py", "setup.py")


def carry(into: Path, sources: Sequence[Path], dtype: str, closed: Sequence[Path] = ()) -> list[str]:
    """Copy the files into a model directory; where several sources have one, the first counts.

    Args:
        sources: directories, most specific first (the checkpoint, then the base model).
        dtype: the weights' type, entered in config.json.
        closed: those of the sources whose links are not followed outwards (a hub cache's are made of links).

    Returns:
        The names copied, sorted.

    Raises:
        WorkFailed: a file cannot be read, or config.json is not JSON.
    """
    copied = []
    for source in sources:
        for path in sorted(source.iterdir()) if source.is_dir() else ():
            name = path.name
            wanted = any(fnmatch.fnmatchcase(name, pattern) for pattern in PATTERNS) and name not in NOT_MODEL
            if not wanted or not path.is_file() or (into / name).exists():
                continue
            if source in closed and not path.resolve().is_relative_to(source.resolve()):
                raise WorkFailed(f"{path}: a link out of the checkpoint; refused")
            try:
                if name == "config.json":
                    _write_config(path, into / name, dtype)
                else:
                    with open_regular(path) as file, (into / name).open("xb") as copy:
                        shutil.copyfileobj(file, copy)
            except OSError as error:
                raise WorkFailed(f"{path}: cannot be copied: {error.strerror or error}") from None
            copied.append(name)
    return sorted(copied)


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


def _write_config(source: Path, target: Path, dtype: str) -> None:
    """The configuration with the weights' type (dtype in transformers 5, torch_dtype before)."""
    config = _load(source)
    named = [key for key in ("dtype", "torch_dtype") if key in config] or ["torch_dtype"]
    config.update(dict.fromkeys(named, TORCH_NAME[dtype]))
    target.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
