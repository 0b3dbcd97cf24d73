"""Model-parallel checkpoints merged and split: values, shapes and every way the parts can be wrong."""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from glmjobs.cli import run_command
from glmjobs.convert import main, merge, split
from glmjobs.models import GLMConfig, GLMForCausalLM, load_model
from hpc.core.errors import BadInput, WorkFailed

SIZES = {
    "vocab_size": 320,
    "hidden_size": 64,
    "num_layers": 2,
    "num_attention_heads": 8,
    "max_sequence_length": 32,
}
IDS = {"bos_token_id": 311, "eos_token_id": 312, "pad_token_id": 0, "mask_token_ids": [310]}
PARTS = 4


def model() -> GLMForCausalLM:
    torch.manual_seed(0)
    made = GLMForCausalLM(GLMConfig(**SIZES, **IDS, initializer_range=0.2)).half()
    for parameter in made.parameters():
        parameter.data = torch.randn(parameter.shape).half()  # biases too
    return made


def megatron_parts(whole: dict[str, torch.Tensor]) -> list[dict[str, torch.Tensor]]:
    """What each rank would hold, cut by heads and columns independently of the code under test."""
    ranks: list[dict[str, torch.Tensor]] = [{} for _ in range(PARTS)]
    for name, tensor in whole.items():
        for rank, part in enumerate(ranks):
            if "query_key_value" in name:
                heads = tensor.view(3, 8, 8, *tensor.shape[1:])  # q|k|v, head, width
                piece = heads[:, rank * 2 : rank * 2 + 2].reshape(-1, *tensor.shape[1:])
            elif "word_embeddings" in name:
                piece = tensor[rank * 80 : rank * 80 + 80]
            elif "dense_h_to_4h" in name:
                piece = tensor[rank * 64 : rank * 64 + 64]
            elif name.endswith("attention.dense.weight"):
                piece = tensor[:, rank * 16 : rank * 16 + 16]
            elif name.endswith("dense_4h_to_h.weight"):
                piece = tensor[:, rank * 64 : rank * 64 + 64]
            else:
                piece = tensor
            part[name.removeprefix("glm.")] = piece.clone()
    return ranks


@pytest.fixture
def checkpoint(tmp_path: Path) -> tuple[Path, GLMForCausalLM]:
    """A checkpoint as THUDM/GLM's DeepSpeed leaves it: random states and settings beside the weights."""
    made = model()
    whole = {name: t for name, t in made.state_dict().items() if name != "lm_head.weight"}
    directory = tmp_path / "glm-10b" / "126000"
    directory.mkdir(parents=True)
    (directory.parent / "latest").write_text("126000\n")
    for rank, part in enumerate(megatron_parts(whole)):
        extras: dict[str, Any] = {
            "iteration": 126000,
            "args": argparse.Namespace(fp16=True),
            "optimizer": None,
        }
        torch.save({"module": part, **extras}, directory / f"mp_rank_{rank:02d}_model_states.pt")
    return directory, made


@torch.no_grad()
def test_merge_gives_the_model(checkpoint: tuple[Path, GLMForCausalLM], tmp_path: Path) -> None:
    directory, made = checkpoint
    out = tmp_path / "model"
    assert main(["merge", str(directory.parent), str(out), "--heads", "8", "--shard-size", "100KB"]) == 0
    assert len(list(out.glob("model-*.safetensors"))) > 1
    wanted = made.state_dict()
    read = {name: t for file in out.glob("*.safetensors") for name, t in load_file(file).items()}
    assert read.keys() == wanted.keys() - {"lm_head.weight"}
    assert all(torch.equal(read[name], wanted[name]) for name in read)
    loaded = load_model(out, "float32")
    assert (loaded.config.num_layers, loaded.config.max_sequence_length) == (2, 32)
    assert torch.equal(loaded.glm.word_embeddings.weight, made.glm.word_embeddings.weight.float())


@pytest.mark.parametrize("parts", [1, 2, 4, 8])
def test_split_and_merge_round_trip(
    parts: int, checkpoint: tuple[Path, GLMForCausalLM], tmp_path: Path
) -> None:
    directory, _ = checkpoint
    merge(directory, tmp_path / "model", heads=8)
    split(tmp_path / "model", tmp_path / "parts", parts)
    merge(tmp_path / "parts", tmp_path / "again", heads=8)
    weights = "model.safetensors"
    assert (tmp_path / "again" / weights).read_bytes() == (tmp_path / "model" / weights).read_bytes()
    if parts == PARTS:
        for path in sorted(directory.glob("*.pt")):
            theirs = torch.load(path, weights_only=False)["module"]  # our own file, with a Namespace in it
            ours = torch.load(tmp_path / "parts" / path.name, weights_only=True)["module"]
            assert theirs.keys() == ours.keys()
            assert all(torch.equal(theirs[name], ours[name]) for name in ours)


def edit(directory: Path, rank: int, change: Callable[[dict[str, Any]], object]) -> None:
    path = directory / f"mp_rank_{rank:02d}_model_states.pt"
    content = torch.load(path, weights_only=False)
    change(content["module"])
    torch.save(content, path)


NORM = "transformer.final_layernorm.weight"
WRONG: dict[str, tuple[Callable[[Path], object], str]] = {
    "a part missing": (
        lambda d: (d / "mp_rank_01_model_states.pt").unlink(),
        "mp_rank_01_model_states.pt is missing",
    ),
    "no parts": (lambda d: [path.unlink() for path in d.glob("*.pt")], "no mp_rank_NN"),
    "truncated": (lambda d: (d / "mp_rank_02_model_states.pt").write_bytes(b"PK\3\4 half"), "mp_rank_02"),
    "no module": (lambda d: torch.save({}, d / "mp_rank_00_model_states.pt"), "not a THUDM/GLM checkpoint"),
    "a tensor less": (lambda d: edit(d, 2, lambda m: m.pop(NORM)), f"mp_rank_02.*{NORM}"),
    "another shape": (
        lambda d: edit(d, 3, lambda m: m.update({NORM: torch.ones(32).half()})),
        "mp_rank_03.*final_layernorm.weight is F16",
    ),
    "norms that differ": (
        lambda d: edit(d, 1, lambda m: m[NORM].add_(1)),
        "mp_rank_01.*final_layernorm.weight differs",
    ),
    "mixed types": (
        lambda d: [edit(d, rank, lambda m: m.update({NORM: m[NORM].float()})) for rank in range(4)],
        "types F16, F32",
    ),
    "another model": (
        lambda d: [edit(d, r, lambda m: m.pop("transformer.position_embeddings.weight")) for r in range(4)],
        "not a GLM with block positions",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_parts_are_one_line(name: str, checkpoint: tuple[Path, GLMForCausalLM], tmp_path: Path) -> None:
    directory, _ = checkpoint
    breakage, words = WRONG[name]
    breakage(directory)
    with pytest.raises((BadInput, WorkFailed), match=words) as caught:
        merge(directory, tmp_path / "model", heads=8)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "model").exists()


def test_split_says_what_it_cannot(checkpoint: tuple[Path, GLMForCausalLM], tmp_path: Path) -> None:
    directory, _ = checkpoint
    merge(directory, tmp_path / "model", heads=8)
    with pytest.raises(BadInput, match="8 attention heads"):
        split(tmp_path / "model", tmp_path / "parts", 3)
    with pytest.raises(BadInput, match="not a multiple"):
        merge(directory, tmp_path / "other", heads=7)


def test_split_looks_for_room_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each part holds the layer norms whole, so the parts are larger than the model."""
    model().save_pretrained(tmp_path / "base")
    size = sum(parameter.numel() * 2 for parameter in model().parameters())

    class Disk:
        f_bavail = 100
        f_frsize = 1000

    monkeypatch.setattr("os.statvfs", lambda path: Disk)
    capsys.readouterr()
    assert run_command(main, ["split", str(tmp_path / "base"), str(tmp_path / "out"), "--parts", "2"]) == 3
    said = capsys.readouterr().err
    needed = re.fullmatch(rf"error: {tmp_path}: ([\d.]+) MB are needed here, 0.1 MB are free\n", said)
    assert needed and float(needed[1]) >= (size + (1 << 20)) / 1e6 - 0.05, said
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base"]


def test_split_onto_a_disk_that_fills_up(tmp_path: Path) -> None:
    """Told by torch as a RuntimeError of many lines; here a limit on the size of files stands for the disk."""
    model().save_pretrained(tmp_path / "base")
    program = (
        "import resource, signal, sys; from glmjobs.cli import run_command; from glmjobs.convert import main\n"
        "import torch; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000)); sys.exit(run_command(main))"
    )
    words = ["split", str(tmp_path / "base"), str(tmp_path / "out"), "--parts", "2"]
    ended = subprocess.run(
        [sys.executable, "-c", program, *words], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 1
    (line,) = ended.stderr.strip().splitlines()
    assert line.startswith(
        f"error: {tmp_path}/out/mp_rank_00_model_states.pt: cannot be written; is the disk full?"
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base"]
