"""Loading under ZeRO-3: two ranks, each with its part of the model and never the whole of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("deepspeed")
import torch
from safetensors.torch import load_file, save_file

from tests.support import partitioned_rank
from tests.support.small_families import SMALL
from tests.support.sparse_models import sparse_chatglm
from tests.support.two_ranks import two_ranks


def loaded(folder: Path, *directories: Path) -> list[list[dict[str, Any]]]:
    """What each of two ranks says of each directory."""
    ranks = two_ranks(partitioned_rank.__file__, *map(str, directories), cwd=folder, seconds=300)
    assert [rank.code for rank in ranks] == [0, 0], ranks
    return [[json.loads(line) for line in rank.out.splitlines() if line.startswith("{")] for rank in ranks]


def test_each_rank_has_its_part_of_every_family(tmp_path: Path) -> None:
    """To the last bit what the model is elsewhere, from safetensors and .bin files; misfits are one line."""
    made = [SMALL[family](tmp_path / family) for family in SMALL]
    as_bin = SMALL["chatglm"](tmp_path / "bin")
    tensors = load_file(as_bin / "model.safetensors")
    tensors["lm_head.weight"] = tensors["transformer.word_embeddings.weight"].clone()
    torch.save(tensors, as_bin / "pytorch_model.bin")
    (as_bin / "model.safetensors").unlink()
    broken = SMALL["chatglm"](tmp_path / "broken")
    tensors = load_file(broken / "model.safetensors")
    name = next(iter(sorted(tensors)))
    save_file({**tensors, name: torch.zeros(3, 3)}, broken / "model.safetensors", metadata={"format": "pt"})
    for said in loaded(tmp_path, *made, as_bin, broken):
        *good, bad = said
        assert len(good) == len(SMALL) + 1
        for found in good:
            assert found["differs"] == [] and found["share"] < 0.6 * found["whole"], found
        assert good[-1]["tied"]
        assert f"{name} has shape [3, 3], config.json asks for" in bad["refused"]


def test_no_rank_ever_holds_the_whole(tmp_path: Path) -> None:
    """The embedding is most of it: gathered, or copied on the way, it would show."""
    base = tmp_path / "sparse"
    sparse_chatglm(base, layers=8, hidden=1024, vocab=60_000)
    for (found,) in loaded(tmp_path, base):
        assert found["whole"] > 600e6 and found["tied"]
        assert found["peak"] < found["share"] + found["largest"], found
