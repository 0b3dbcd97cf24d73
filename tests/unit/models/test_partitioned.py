"""Loading under ZeRO-3: two ranks, each with its part of the model and never the whole of it."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("deepspeed")
import torch
from safetensors.torch import load_file, save_file

from tests.support import partitioned_rank
from tests.support.paths import REPO
from tests.support.small_families import SMALL
from tests.support.sparse_models import sparse_chatglm


def two_ranks(*directories: Path) -> list[list[dict[str, Any]]]:
    """What each of two ranks says of each directory."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    here = {**os.environ, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    here |= {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPO)}
    command = [sys.executable, partitioned_rank.__file__, *map(str, directories)]
    ranks = [
        subprocess.Popen(
            command, env={**here, "RANK": str(rank), "LOCAL_RANK": str(rank)}, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True,
        )
        for rank in range(2)
    ]  # fmt: skip
    try:
        said = [rank.communicate(timeout=300) for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    assert [rank.returncode for rank in ranks] == [0, 0], said
    return [[json.loads(line) for line in out.splitlines() if line.startswith("{")] for out, _ in said]


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
    for said in two_ranks(*made, as_bin, broken):
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
    for (found,) in two_ranks(base):
        assert found["whole"] > 600e6 and found["tied"]
        assert found["peak"] < found["share"] + found["largest"], found
