"""Model directories in: safely, without remote code, and with one line for everything that can be wrong with
one.

Weights are read by transformers from safetensors, or from ``.bin`` files by torch's restricted unpickler
(tensors and plain containers only). The files are checked before, what was read is checked after: a tensor
that is missing, has another shape or belongs to another architecture is an error, never a warning about
freshly initialised weights.
"""

from __future__ import annotations

import contextlib
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed
from safetensors import SafetensorError
from transformers import PreTrainedModel
from transformers.utils import logging as transformers_logging

from glmjobs.compat import DTYPE_NAME, unfilled
from glmjobs.models.adapter import merge_adapter
from glmjobs.models.family import Family, family_for, read_config, refuse_unusual
from glmjobs.models.partitioned import load_partitioned
from glmjobs.models.weight_files import check_weight_files
from glmjobs.zero.cross_check import same_values
from glmjobs.zero.directories import with_bases
from glmjobs.zero.tied import held_twice
from glmjobs.zero.weights import read_directory
from hpc.core.errors import BadInput, WorkFailed

DTYPES = ("float32", "float16", "bfloat16")

def load_model(
    directory: str | Path, dtype: str | None = None, device: Any = None, **options: Any
) -> PreTrainedModel:
    """The model of a directory, in evaluation mode.

    Weights of safetensors files stay mapped from the files while they keep their type: all processes of a node share
    one copy in the page cache.

    Args:
        directory: an original directory (``.bin`` shards) or one that was saved here; no remote code is run. One with
            a LoRA adapter only gives the base model with the adapter merged in.
        dtype: "float32", "float16", "bfloat16"; None: as the directory says.
        device: where the weights go, such as "cuda:0", and get their type there: on the host they would take a second
            copy of the model for each process. None: they stay on the host (under ZeRO-3 DeepSpeed places them).
        **options: for transformers' ``from_pretrained`` (none under ZeRO-3).

    Raises:
        BadInput: config.json doesn't describe one of the families, a file is missing, truncated or not a
            weight file, or tensors are missing, of another shape, or of another architecture. One line,
            naming the file.
    """
    directory = Path(directory)
    family = family_for(directory)
    if dtype is not None and dtype not in DTYPES:
        raise BadInput(f"dtype = {dtype!r}: one of {', '.join(DTYPES)}")
    if len(chain := with_bases(directory)) > 1:
        adapted: PreTrainedModel = merge_adapter(load_model(chain[1], dtype, device, **options), directory)
        return adapted.eval()
    refuse_unusual(read_config(directory), directory / "config.json")
    config = _configuration(directory, family)
    where = check_weight_files(directory)
    _check_tied(directory)
    zero3 = _join_deepspeed()
    later = device is not None and not zero3
    try:
        if zero3:
            model, info = load_partitioned(family.model_class(), config, directory, dtype)
        else:
            with _without_loading_report():
                model, info = family.model_class().from_pretrained(
                    directory,
                    config=config,
                    output_loading_info=True,
                    ignore_mismatched_sizes=True,  # listed in info, and an error below
                    local_files_only=True,
                    **{DTYPE_NAME: "auto" if later else dtype or "auto"},
                    **{**unfilled(), **options},
                )
    except WorkFailed as error:  # a file that is not whole, under ZeRO-3
        raise BadInput(str(error)) from None
    except (
        pickle.UnpicklingError,
        SafetensorError,
        RuntimeError,
        ValueError,
        OSError,
        EOFError,
        KeyError,
    ) as error:
        if isinstance(error, BadInput):
            raise
        raise BadInput(f"{directory}: cannot load these weights: {_first_line(error)}") from error
    _check_loaded(directory, where, info)
    loaded: PreTrainedModel = model.eval()
    if later:
        _place(loaded, torch.device(device), getattr(torch, dtype) if dtype else None)
    return loaded


def _place(model: PreTrainedModel, device: torch.device, dtype: torch.dtype | None) -> None:
    """Move a model, giving its parameters their type one by one; buffers (rotary frequencies) keep theirs."""
    placed: dict[torch.nn.Parameter, torch.nn.Parameter] = {}  # tied ones stay tied
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if parameter not in placed:
                moved = parameter.data.to(device)
                placed[parameter] = torch.nn.Parameter(
                    moved.to(dtype or moved.dtype), parameter.requires_grad
                )
            setattr(module, name, placed[parameter])
    model.to(device)


@contextlib.contextmanager
def _without_loading_report() -> Iterator[None]:
    """transformers' table of what did not fit is left out: what is wrong is said here, in one line."""
    before = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity(max(before, transformers_logging.ERROR))
    try:
        yield
    finally:
        transformers_logging.set_verbosity(before)


def _file(where: dict[str, Path], tensor: str, directory: Path) -> Path:
    """The file that holds a tensor, as far as it is known."""
    return where.get(tensor) or where.get("") or directory


def _join_deepspeed() -> bool:
    """Under ZeRO-3 (True) weights are partitioned while they load: DeepSpeed has to know its ranks by then.

    transformers starts torch's process group, but on the CPU not DeepSpeed's view of it: then one rank.
    """
    from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled

    zero3 = bool(is_deepspeed_zero3_enabled())
    if zero3 and torch.distributed.is_initialized():
        import deepspeed

        if not deepspeed.comm.is_initialized():
            deepspeed.init_distributed(dist_backend=torch.distributed.get_backend())
    return zero3


def _configuration(directory: Path, family: Family) -> Any:
    """The configuration, every complaint of it naming its file."""
    if not family.owns_config:
        return None
    try:
        return family.model_class().config_class.from_dict(read_config(directory))
    except (TypeError, ValueError) as error:
        raise BadInput(f"{directory / 'config.json'}: {_first_line(error)}") from None


def _check_tied(directory: Path) -> None:
    """An output matrix that the files hold though the configuration ties it is the embedding: a sample of it is
    compared, and the rest never read.

    Loaders differ where it is not: transformers 4 drops it, 5 does not tie it, THUDM's code lets the last file win.
    """
    try:
        found = held_twice(read_directory(directory), read_config(directory))
        if found is None or found[0].shape != found[1].shape or same_values(*found):
            return
    except WorkFailed:  # files that are not read here, or damaged ones: said by what loads them
        return
    output, embedding = found
    raise BadInput(
        f"{output.extents[0].file}: {output.name} has other values than {embedding.name}, and config.json does not say "
        f'"tie_word_embeddings": false; say so there, or fetch the model again'
    )


def _check_loaded(directory: Path, where: dict[str, Path], info: dict[str, Any]) -> None:
    """Turn transformers' loading report into an error where the weights don't make this model."""
    mismatched = sorted(tuple(entry) for entry in info["mismatched_keys"])
    if mismatched:
        name, found, wanted = mismatched[0]
        file = _file(where, name, directory)
        if name.endswith(("word_embeddings.weight", "lm_head.weight")) and found[1:] == wanted[1:]:
            raise BadInput(
                f"{file}: {name} holds a vocabulary of {found[0]}, config.json says vocab_size = {wanted[0]}"
            )
        more = f" (and {len(mismatched) - 1} more)" if len(mismatched) > 1 else ""
        raise BadInput(f"{file}: {name} has shape {list(found)}, config.json asks for {list(wanted)}{more}")
    missing, unexpected = sorted(info["missing_keys"]), sorted(info["unexpected_keys"])
    if missing:
        raise BadInput(f"{directory}: the weight files lack {len(missing)} tensors, the first: {missing[0]}")
    if unexpected:
        name = unexpected[0]
        raise BadInput(
            f"{_file(where, name, directory)}: {len(unexpected)} tensors that this architecture doesn't have, "
            f"the first: {name}"
        )


def load_tokenizer(directory: str | Path) -> Any:
    """The fast tokenizer of a model directory.

    Raises:
        BadInput: the directory's tokenizer files are missing or broken, or it has more pieces than the model
            has rows.
    """
    directory = Path(directory)
    family = family_for(directory)
    tokenizer = family.load_tokenizer(family.tokenizer_home(directory))
    config = read_config(directory)
    rows = config.get("padded_vocab_size", config.get("vocab_size"))
    if isinstance(rows, int) and len(tokenizer) > rows:
        raise BadInput(
            f"{directory}: the tokenizer has {len(tokenizer)} pieces, "
            f"the model's config.json a vocab_size of {rows}"
        )
    return tokenizer


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
