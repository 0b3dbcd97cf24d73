"""A LoRA adapter merged into its base model, as PEFT merges."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from glmjobs.zero.directories import CONFIG
from hpc.core.errors import BadInput

WEIGHTS = "adapter_model.safetensors"


def merge_adapter(model: Any, directory: Path) -> Any:
    """``model`` with the adapter of ``directory`` merged into its weights, all of which can be trained.

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
    merged = adapted.merge_and_unload()
    merged.requires_grad_(True)  # PEFT had frozen the base
    return merged


def _short(error: BaseException) -> str:
    """What an error says, in one line: of torch's list of misfits the first."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[1] if len(lines) > 1 and lines[0].endswith(":") else (lines or [type(error).__name__])[0])[
        :200
    ]
