"""Directories that hold a LoRA adapter only: loaded as their base model with the adapter merged in.

The adapter's own file is safetensors; its adapter_config.json names the base model's directory.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from glmjobs.models.family import ADAPTER_CONFIG
from hpc.core.errors import BadInput

CONFIG = ADAPTER_CONFIG
WEIGHTS = "adapter_model.safetensors"


def base_of(directory: Path) -> Path | None:
    """The base model's directory, where ``directory`` holds an adapter of one; None where it is a whole model.

    Raises:
        BadInput: adapter_config.json is broken, or the base model is not where it says.
    """
    path = directory / CONFIG
    if not path.is_file():
        return None
    try:
        named = json.loads(path.read_text(encoding="utf-8"))["base_model_name_or_path"]
        base = Path(named)
    except (OSError, ValueError, KeyError, TypeError):
        raise BadInput(
            f"{path}: not an adapter's configuration (JSON with a base_model_name_or_path)"
        ) from None
    if not (base / "config.json").is_file():
        raise BadInput(
            f"{path}: the base model is not at {base}; write the path of its directory as base_model_name_or_path"
        )
    return base


def merge_adapter(model: Any, directory: Path) -> Any:
    """``model`` with the adapter of ``directory`` merged into its weights, as PEFT merges.

    Raises:
        BadInput: the adapter's file is missing, truncated, or fits another model.
    """
    import peft

    file = directory / WEIGHTS
    if not file.is_file():
        raise BadInput(f"{file}: missing; {CONFIG} is beside it")
    try:
        with safe_open(file, "pt") as opened:
            found = set(opened.keys())
        adapted = peft.PeftModel.from_pretrained(model, str(directory), local_files_only=True)
    except (SafetensorError, RuntimeError, ValueError, KeyError, TypeError, OSError) as error:
        raise BadInput(f"{file}: this adapter doesn't fit the base model: {_short(error)}") from None
    wanted = set(peft.get_peft_model_state_dict(adapted))
    if found != wanted:
        odd = sorted(found ^ wanted)
        raise BadInput(
            f"{file}: {'lacks' if odd[0] in wanted else 'has an unknown'} {odd[0]} ({len(odd)} in all)"
        )
    return adapted.merge_and_unload()


def _short(error: BaseException) -> str:
    """What an error says, in one line: of torch's list of misfits the first."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[1] if len(lines) > 1 and lines[0].endswith(":") else (lines or [type(error).__name__])[0])[
        :200
    ]
