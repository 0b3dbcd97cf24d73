"""Batched, refilled decoding gives the tokens that one prompt at a time gives, on every family, at every
batch size."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch

from glmjobs.compat import CACHE_NAME
from glmjobs.generation import decoder, onednn
from glmjobs.generation.decoder import Engine, Generated, generate, stream
from glmjobs.generation.onednn import optimise_linear_cpu
from glmjobs.generation.vllm import generate_vllm
from hpc.core.errors import NotFit, WorkFailed
from tests.support.small_families import HIDDEN, LAYERS, PROMPTS, VOCABULARY, small

FRAME = PROMPTS["chatglm"]
EOP = 251
STOPS = frozenset({EOP, *range(10, 22)})
"""Several, so that a random model's answers end at all lengths."""


def made(family: str) -> Any:
    """A model whose greedy tokens vary, and that never ends by itself."""
    model = small(family, std=0.35)
    model.generation_config.eos_token_id = None
    return model


def prompts_for(frame: list[int], count: int, longest: int = 30, seed: int = 0) -> list[list[int]]:
    rng = random.Random(seed)
    return [[rng.randrange(20, 150) for _ in range(rng.randrange(1, longest))] + frame for _ in range(count)]


def one_at_a_time(model: Any, prompts: list[list[int]], limits: list[int]) -> dict[int, Generated]:
    """The reference: transformers' own generate, one prompt each."""
    found = {}
    for index, (prompt, limit) in enumerate(zip(prompts, limits, strict=True)):
        ids = torch.tensor([prompt])
        out = model.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=limit,
            eos_token_id=sorted(STOPS), pad_token_id=3,
        )[0, len(prompt) :].tolist()  # fmt: skip
        stopped = out[-1] in STOPS
        found[index] = Generated(index, out[:-1] if stopped else out, "stop" if stopped else "length")
    return found


@pytest.mark.parametrize("family", PROMPTS)
def test_equals_one_at_a_time(family: str) -> None:
    model = made(family)
    prompts = prompts_for(PROMPTS[family], 26)
    limits = [3 + (i * 7) % 24 for i in range(len(prompts))]
    expected = one_at_a_time(model, prompts, limits)
    assert {g.finish for g in expected.values()} == {"stop", "length"}
    assert len({len(g.tokens) for g in expected.values()}) > 6
    engine = Engine(model, STOPS, pad_id=3)
    for size in (1, 5, "auto"):
        for refill in (True, False):
            found = {g.index: g for g in generate(engine, prompts, limits, size, refill=refill)}
            assert found == expected, (size, refill)


def test_every_row_once_and_streaming() -> None:
    model = made("chatglm")
    prompts = prompts_for(FRAME, 25)
    engine = Engine(model, STOPS, pad_id=3)
    found = list(generate(engine, prompts, 12, 4))
    assert sorted(g.index for g in found) == list(range(25))
    for result in found[:6]:
        assert list(stream(engine, prompts[result.index], 12)) == result.tokens
    assert list(generate(engine, [], 12)) == []
    with pytest.raises(ValueError, match="without tokens"):
        list(generate(engine, [[1], []], 4))


def test_long_running_batches_let_old_columns_go(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many refills move the window on; the buffers stay as wide as the rows in flight, and the answers
    right."""
    model = made("chatglm")
    prompts = prompts_for(FRAME, 24, longest=8)
    limits = [90 if i % 8 == 0 else 60 for i in range(24)]
    expected = one_at_a_time(model, prompts, limits)
    monkeypatch.setattr(decoder, "HIDDEN_COLUMNS", 16)
    engine = Engine(model, STOPS, pad_id=3)
    widest = 0
    original = engine.step

    def watched(rows: Any, visible: Any, cache: Any) -> Any:
        nonlocal widest
        widest = max(widest, cache.keys[0].shape[-2])
        return original(rows, visible, cache)

    engine.step = watched  # type: ignore[method-assign]
    assert {g.index: g for g in generate(engine, prompts, limits, 3)} == expected
    steps = sum(len(g.tokens) for g in expected.values()) / 3
    assert steps > widest


def test_batch_size_halves_when_memory_runs_out() -> None:
    model = made("chatglm")
    prompts = prompts_for(FRAME, 30)
    limits = [20] * 30
    expected = one_at_a_time(model, prompts, limits)
    seen: list[int] = []
    forward = model.forward

    def limited(**arguments: Any) -> Any:
        rows = max(arguments["input_ids"].shape[0], len(arguments[CACHE_NAME].keys or [[]][0]))
        seen.append(rows)
        if rows > 5:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")
        return forward(**arguments)

    engine = Engine(model, STOPS, pad_id=3)
    model.forward = limited
    found = list(generate(engine, prompts, limits, "auto"))
    assert {g.index: g for g in found} == expected
    assert len(found) == 30
    assert max(seen) > 5
    assert max(seen[-10:]) <= 5


def test_a_single_row_too_many_is_one_line() -> None:
    model = made("chatglm")
    engine = Engine(model, STOPS)

    def never(**_: Any) -> Any:
        raise RuntimeError("[enforce fail at alloc_cpu.cpp] . DefaultCPUAllocator: can't allocate memory")

    model.forward = never
    with pytest.raises(WorkFailed, match="out of memory with a single row"):
        list(generate(engine, prompts_for(FRAME, 9), 4))


def test_other_errors_are_not_swallowed() -> None:
    model = made("chatglm")
    engine = Engine(model, STOPS)

    def broken(**_: Any) -> Any:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    model.forward = broken
    with pytest.raises(RuntimeError, match="mat1"):
        list(generate(engine, [FRAME], 4))


def test_slots_follow_from_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    model = made("chatglm")
    engine = Engine(model, STOPS, pad_id=3)
    most = 0
    original = engine.step

    def watched(rows: Any, visible: Any, cache: Any) -> Any:
        nonlocal most
        most = max(most, len(rows))
        return original(rows, visible, cache)

    engine.step = watched  # type: ignore[method-assign]
    prompts = prompts_for(FRAME, 200, longest=10)
    position = 2 * LAYERS * HIDDEN * 4  # keys and values, floats
    monkeypatch.setattr(decoder, "free_memory", lambda device: 40 * position * 31 * 1.5 / 0.25)
    assert len(list(generate(engine, prompts, 20))) == 200
    assert 32 <= most <= 40
    most = 0
    monkeypatch.setattr(decoder, "free_memory", lambda device: 10**12)
    assert len(list(generate(engine, prompts, 20))) == 200
    assert most > 60


def test_banned_tokens_never_come() -> None:
    model = made("chatglm")
    prompts = prompts_for(FRAME, 10)
    free = list(generate(Engine(model, [EOP], pad_id=3), prompts, 20))
    common = max(range(VOCABULARY), key=lambda t: sum(g.tokens.count(t) for g in free))
    assert any(common in g.tokens for g in free)
    model.generation_config.suppress_tokens = [common]
    assert not any(common in g.tokens for g in generate(Engine(model, [EOP], pad_id=3), prompts, 20))
    model.generation_config.suppress_tokens = None
    assert not any(
        common in g.tokens for g in generate(Engine(model, [EOP], 3, banned_ids=[common]), prompts, 20)
    )


@pytest.mark.skipif(not onednn._available(), reason="this torch has no oneDNN operators for a linear map")
def test_onednn_computes_the_same() -> None:
    model = made("chatglm")
    head, hidden = model.lm_head, torch.randn(3, 5, HIDDEN)
    with torch.inference_mode():
        expected = head(hidden)
        loss = head(hidden, torch.full((3, 5), 7))
        assert not optimise_linear_cpu(model, free_bytes=1000)
        assert "forward" not in vars(head)
        assert optimise_linear_cpu(model, free_bytes=10**9)
        torch.testing.assert_close(head(hidden), expected, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(head(hidden[:, -1:]), expected[:, -1:], rtol=1e-5, atol=1e-5)
        assert head(hidden, torch.full((3, 5), 7)) == loss
    assert not optimise_linear_cpu(made("chatglm").to(torch.bfloat16), free_bytes=10**9)


def test_vllm_absent_is_one_line(tmp_path: Any) -> None:
    try:
        import vllm  # noqa: F401
    except ImportError:
        with pytest.raises(NotFit, match="vLLM is not installed"):
            list(generate_vllm(tmp_path, [[1]], 4, [2]))
    else:
        pytest.skip("vLLM is installed here")
