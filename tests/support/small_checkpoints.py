"""Small ZeRO checkpoints to be damaged, and what consolidation has to say of them."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from glmjobs.zero.consolidate import Options, consolidate
from hpc.core.errors import WorkFailed

RANKS = 3
SHAPES: dict[str, tuple[int, ...]] = {
    "embed.weight": (31, 7),
    "layer.weight": (13, 5),
    "layer.bias": (13,),
    "one": (1,),
    "head": (7, 31),
}
SHARD = "zero_pp_rank_{}_mp_rank_00_optim_states.pt"


def shards(checkpoint: Path) -> list[Path]:
    return [checkpoint / "global_step10" / SHARD.format(rank) for rank in range(RANKS)]


def fails(checkpoint: Path, *named: str, base: Path | None = None, **options: Any) -> None:
    """Consolidation stops with one line that names all of these, and leaves nothing."""
    out = checkpoint.parent / "out"
    with pytest.raises(WorkFailed) as failure:
        consolidate(checkpoint, out, Options(fsync=False, **options), base)
    text = str(failure.value)
    assert "\n" not in text and all(name in text for name in named), text
    assert not out.exists() and not list(out.parent.glob(".out*"))


def resave(path: Path, change: Callable[[Any], None]) -> None:
    """Change what a file of torch.save holds."""
    import torch

    saved = torch.load(path, weights_only=False)
    change(saved)
    torch.save(saved, path)


def models(checkpoint: Path) -> list[Path]:
    return sorted((checkpoint / "global_step10").glob("*model_states.pt"))


def weights(folder: Path, tensors: dict[str, Any]) -> Path:
    """A plain model directory."""
    from safetensors.torch import save_file

    folder.mkdir()
    save_file(tensors, str(folder / "model.safetensors"))
    return folder


def flip(path: Path, member: str, place: float = 0.5, mask: int = 4) -> str:
    """Flip bits of one byte of a member of a zip, ``place`` (0 to 1) of the way into it; the member's name there."""
    with zipfile.ZipFile(path) as archive:
        info = next(info for info in archive.infolist() if info.filename.endswith(f"/{member}"))
        with archive.open(info):
            start = archive.fp.tell()  # type: ignore[union-attr]
    content = bytearray(path.read_bytes())
    content[start + round(place * (info.file_size - 1))] ^= mask
    path.write_bytes(content)
    return info.filename


def storages(path: Path) -> list[str]:
    """The members of a file of torch.save that hold numbers: data/0, data/1, …"""
    with zipfile.ZipFile(path) as archive:
        names = [info.filename.partition("/")[2] for info in archive.infolist() if info.file_size]
    return [name for name in names if name.startswith("data/")]
