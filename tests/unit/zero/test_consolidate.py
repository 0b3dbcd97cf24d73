"""Consolidation: values rounded as torch rounds them, files of about one size, one line for wrong words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from glmjobs import consolidate as stage
from glmjobs.cli import run_command
from glmjobs.recipe.loading import load
from glmjobs.run.directory import Run, Shape
from glmjobs.zero import committed, dtypes, manifest
from glmjobs.zero.consolidate import Options, consolidate
from hpc.batch.profile import Profile
from tests.support.paths import CONFIGS
from tests.support.small_checkpoints import fails, models, resave, shards, weights

torch = pytest.importorskip("torch", reason="checkpoints to read are made with torch")


def test_overflow_is_named_and_refused(checkpoint: Path) -> None:
    for path in shards(checkpoint):
        saved = torch.load(path, weights_only=True)
        state = saved["optimizer_state_dict"]
        (state.get("fp32_flat_groups") or state["single_partition_of_fp32_groups"])[0][:2] = 65520.0
        torch.save(saved, path)
    fails(checkpoint, "infinite", "embed.weight")
    out = checkpoint.parent / "allowed"
    found = consolidate(checkpoint, out, Options(allow_overflow=True, fsync=False))
    assert (
        sum(found["overflow"].values()) >= 2 and manifest.read_manifest(out)["overflow"] == found["overflow"]
    )
    assert (
        consolidate(checkpoint, checkpoint.parent / "b", Options(dtype="bfloat16", fsync=False))["overflow"]
        == {}
    )


@pytest.mark.parametrize("argv", [[], ["/nonexistent/x", "out"], ["{here}", "out"], ["{here}"]])
def test_bad_input_is_one_line(tmp_path: Path, argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(stage.main, [word.format(here=tmp_path) for word in argv]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_what_is_wrong_names_the_option_and_the_way_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = weights(tmp_path / "checkpoint-3", {"w": torch.ones(2)})
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "tiny.yaml").write_text("")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "mine").write_text("")
    out = tmp_path / "out"
    assert run_command(stage.main, [str(source), str(out)]) == 0
    capsys.readouterr()
    for words, said in (
        ([str(out)], f"{out}: exists already; name another, or replace it: --replace\n"),
        ([str(tmp_path / "other")], f"{tmp_path / 'other'}: exists already; name another\n"),
        ([str(tmp_path / "n"), "--shard-size", "0"], "--shard-size '0' is no size"),
        ([str(tmp_path / "n"), "--base", str(tmp_path / "none")], "none: no such base model directory"),
        ([str(tmp_path / "n"), "--base", str(tmp_path / "recipes")], "recipes: no model directory, it has neither"),
    ):
        assert run_command(stage.main, [str(source), *words]) == 2, words
        assert said in (err := capsys.readouterr().err) and err.count("\n") == 1
    assert run_command(stage.main, [str(source), str(out), "--replace"]) == 0


def test_the_base_named_for_a_run_is_looked_at(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = load(CONFIGS / "tiny.yaml", ["data.make.rows=60", "data.dev_rows=1-5"])
    run = Run.create(tmp_path / "run", recipe, Profile(name="x"), Shape(nodes=1, gpus=1))
    saved = run.checkpoints / "checkpoint-3"
    saved.parent.mkdir()
    committed.commit(weights(saved, {"w": torch.ones(2)}))
    for base in ("none", "run"):
        words = [str(run.path), str(tmp_path / "out"), "--base", str(tmp_path / base)]
        assert run_command(stage.main, words) == 2, base
        assert f"{tmp_path / base}: no " in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_an_output_matrix_that_is_the_embedding_is_written_once(tmp_path: Path) -> None:
    """Of a directory that holds both, as a LoRA's base may."""
    embedding = torch.randn(5, 3)
    both = {"transformer.word_embeddings.weight": embedding, "lm_head.weight": embedding.clone()}
    source = weights(tmp_path / "checkpoint-3", both)
    (source / "config.json").write_text('{"model_type": "chatglm"}')
    found = consolidate(source, tmp_path / "out", Options(fsync=False))
    assert found["tied"] == {"lm_head.weight": "transformer.word_embeddings.weight"} and found["tensors"] == 1
    (source / "config.json").write_text('{"model_type": "chatglm", "tie_word_embeddings": false}')
    found = consolidate(source, tmp_path / "untied", Options(fsync=False))
    assert found["tied"] == {} and found["tensors"] == 2


def test_plain_trainer_checkpoint_and_files_carried(tmp_path: Path) -> None:
    source, base = tmp_path / "checkpoint-3", tmp_path / "base"
    source.mkdir()
    base.mkdir()
    weights = {"a": torch.randn(5, 3), "b": torch.randn(4).half(), "n": torch.arange(3)}
    torch.save(weights, source / "pytorch_model.bin")
    (source / "config.json").write_text('{"dtype": "float32", "hidden": 5}')
    (source / "zero_to_fp32.py").write_text("")
    for name in (
        "tokenizer_config.json",
        "ice_text.model",
        "modeling_chatglm.py",
        "generation_config.json",
        "config.json",
    ):
        (base / name).write_text("{}")
    (base / "model.safetensors").write_text("not carried")
    found = consolidate(source, tmp_path / "out", Options(dtype="bfloat16", fsync=False), base)
    names = {entry["path"] for entry in found["files"]}
    assert names == {
        "model.safetensors",
        "config.json",
        "tokenizer_config.json",
        "ice_text.model",
        "modeling_chatglm.py",
        "generation_config.json",
    }
    assert json.loads((tmp_path / "out/config.json").read_text()) == {"dtype": "bfloat16", "hidden": 5}
    from safetensors.torch import load_file

    loaded = load_file(tmp_path / "out/model.safetensors")
    assert torch.equal(loaded["a"], weights["a"].bfloat16()) and torch.equal(loaded["n"], weights["n"])


@pytest.mark.parametrize("by_instruction", [False, True])
def test_rounding_equals_torch_everywhere(by_instruction: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """All 65,536 halves, their neighbours in float32, ties, subnormals, overflow edges, and a million of any kind."""
    if by_instruction and not dtypes.by_instruction:
        pytest.skip("numkong >= 7.8 is not installed")
    monkeypatch.setattr(dtypes, "by_instruction", by_instruction)
    halves = np.arange(65536, dtype=np.uint32)
    bits = np.concatenate(
        [(halves << 16) + low for low in (0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF)]
        + [
            halves.astype(np.uint16).view(np.float16).astype(np.float32).view(np.uint32) + np.uint32(s)
            for s in (0, 1, 0x1000, 0xFFF, 0x1001)
        ]
        + [np.random.default_rng(0).integers(0, 1 << 32, 1 << 20, np.uint32)]
    )
    values = bits.astype(np.uint32).view(np.float32)
    values = values[~np.isnan(values)]
    check_rounding(values)
    for limit in dtypes.OVERFLOW_AT.values():
        check_rounding(values[np.abs(values) < limit])  # without any that overflows: another way is taken


def check_rounding(values: np.ndarray) -> None:
    """The same halves as torch's, and the right number of overflows."""
    for dtype, kind in (("F16", torch.float16), ("BF16", torch.bfloat16)):
        ours, overflow, bad = dtypes.round_to(values, dtype)
        wanted = torch.from_numpy(values).to(kind)
        assert np.array_equal(ours.view(np.int16), wanted.view(torch.int16).numpy())
        assert overflow == int((torch.isinf(wanted) & ~torch.isinf(torch.from_numpy(values))).sum())
        assert bad == int((~torch.isfinite(torch.from_numpy(values))).sum())


def test_files_are_about_equally_large() -> None:
    from glmjobs.zero.layout import Extent, Tensor
    from glmjobs.zero.write import plan_shards

    def sizes(elements: list[int], limit: int) -> list[int]:
        tensors = [
            Tensor(f"t{n}", (count,), (Extent(Path("x"), 0, count, "F32"),))
            for n, count in enumerate(elements)
        ]
        shards = plan_shards(tensors, "F32", limit)
        assert [t.name for shard in shards for t in shard.tensors] == [t.name for t in tensors]
        return [shard.size - len(shard.header) for shard in shards]

    assert sizes([100] * 12, 4000) == [2400, 2400]  # not 4000 and 800
    assert sizes([100] * 12, 4800) == [4800]
    assert sizes([1000, 10, 10], 400) == [4000, 80]  # a tensor beyond the limit has a file to itself
    assert max(sizes([70, 30, 60, 40, 50, 50, 90, 10], 400)) <= 400


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_float64_beyond_float32(tmp_path: Path, dtype: str) -> None:
    values = torch.tensor([1.0, 1e300, -1e300, float("inf")], dtype=torch.float64)
    source = weights(tmp_path / "checkpoint-1", {"w": values})
    fails(source, "2 values", "w (2)", dtype=dtype)
    found = consolidate(source, tmp_path / "out", Options(dtype=dtype, allow_overflow=True, fsync=False))
    assert found["overflow"] == {"w": 2} and found["not_finite"] == {"w": 1}


@pytest.mark.parametrize("kept", dtypes.FLOATING)
def test_not_finite_values_are_counted_by_their_bits(kept: str) -> None:
    """Of each floating type: all signs, the largest finite values beside the infinities, NaN of any payload."""
    kind = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}[kept]
    most, infinity = torch.finfo(kind).max, float("inf")
    for values, bad in (
        ([], 0), ([0.0, -0.0, most, -most, torch.finfo(kind).tiny], 0),
        ([1.0, infinity], 1), ([-infinity, 1.0], 1), ([float("nan")], 1), ([-float("nan"), infinity, -1.0], 2),
    ):  # fmt: skip
        raw = torch.tensor(values, dtype=kind).view(torch.uint8).numpy()
        assert dtypes.not_finite(raw, kept) == bad, values


@pytest.mark.parametrize("held", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_weights_that_are_no_numbers_are_said_and_counted(
    tmp_path: Path, dtype: str, held: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whether the type stays or changes; and they are no overflow, which would be refused."""
    values = torch.ones(400_000, dtype=getattr(torch, held))
    values[3], values[300_000], values[-1] = float("nan"), float("inf"), -float("inf")
    tensors = {"good": torch.ones(7), "none": torch.zeros(0), "one": values[2:5].clone(), "three": values}
    source, out = weights(tmp_path / "checkpoint-3", tensors), tmp_path / "out"
    assert run_command(stage.main, [str(source), str(out), "--dtype", dtype, "--json"]) == 0
    said = capsys.readouterr()
    assert json.loads(said.out)["not_finite"] == {"one": 1, "three": 3}
    assert manifest.read_manifest(out)["not_finite"] == {"one": 1, "three": 3}
    warning = f"warning: {source}: 4 values of 2 tensors are NaN or infinite: three (3), one (1)\n"
    assert warning in said.err


def test_a_warning_leaves_the_json_on_stdout_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = weights(tmp_path / "checkpoint-3", {"w": torch.full((2,), 1e30)})
    words = [str(source), str(tmp_path / "out"), "--allow-overflow", "--json"]
    assert run_command(stage.main, words) == 0
    said = capsys.readouterr()
    assert json.loads(said.out)["overflow"] == {"w": 2} and "warning: 2 values overflow float16" in said.err


def test_strided_and_empty_buffers_are_read(checkpoint: Path) -> None:
    from safetensors.torch import load_file

    buffers = {
        "turned": torch.arange(6.0).reshape(2, 3).t(),
        "wide": torch.arange(3.0).expand(4, 3),
        "empty": torch.zeros(0),
        "complex": torch.ones(2, dtype=torch.complex64) * 1j,
    }

    def add(saved: Any) -> None:
        saved["buffer_names"] = list(buffers)
        saved["module"] = buffers

    for path in models(checkpoint):
        resave(path, add)
    consolidate(checkpoint, checkpoint.parent / "out", Options(dtype="float32", fsync=False))
    loaded = load_file(checkpoint.parent / "out/model.safetensors")
    for name, value in buffers.items():
        assert torch.equal(loaded[name], value), name


@pytest.mark.parametrize(
    "words",
    [
        ["{here}", "{here}/a\0b"], ["{here}", ""], ["{here}", "out", "--base", ""],
        ["{here}", "{here}/out", "--shard-size", "9" * 5000], ["{here}", "{here}/out", "--shard-size", ""],
        ["{here}", "{here}/" + "x" * 5000], ["--verify", "{here}/" + "x" * 5000],
    ],
)  # fmt: skip
def test_words_that_no_system_takes(
    tmp_path: Path, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    weights(tmp_path / "m", {"w": torch.ones(2)})
    assert run_command(stage.main, [word.format(here=tmp_path / "m") for word in words]) in (1, 2)
    assert capsys.readouterr().err.count("\n") == 1
