"""Chat: the original's prompt, history and punctuation; streamed pieces make up the answer."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch

from glmjobs import chat as module
from glmjobs.chat import Chat
from glmjobs.cli import run_command
from glmjobs.models.family import family_for
from hpc.core.errors import BadInput
from tests.support.small_families import small_chatglm

polish, settled = family_for("chatglm").answer_text, family_for("chatglm").settled


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_chatglm(tmp_path_factory.mktemp("chat") / "model", seed=3, std=0.3)


@pytest.fixture
def chat(model: Path) -> Chat:
    return Chat.load(model, max_length=60)


def test_punctuation_as_the_original_repairs_it() -> None:
    assert polish("  你好,世界!") == "你好，世界！"
    assert polish("结果:3,4;x?") == "结果：3,4;x?"
    assert polish("a,b中,1:中;?") == "a,b中，1：中；?"
    assert polish("知识截至[[训练时间]]。") == "知识截至2023年。"
    assert polish("1,000") == "1,000"


def test_settled_text_never_changes() -> None:
    rng = random.Random(0)
    pieces = ["中", "文", ",", "!", "?", ":", ";", " ", "\n", "a", "1", "[[训练时间]]", "[", "\ufffd", "。"]
    for _ in range(400):
        text = "".join(rng.choices(pieces, k=rng.randrange(1, 14)))
        whole = polish(text).strip()
        for end in range(len(text) + 1):
            early = settled(polish(text[:end]))
            if "\ufffd" not in text:
                assert whole.startswith(early), (text, end)


def test_streamed_pieces_are_the_answer(chat: Chat) -> None:
    pieces: list[str] = []
    answer = chat.ask("小明有3个苹果,又买了5个,一共有几个?", pieces.append)
    assert "".join(pieces) == answer
    assert len(pieces) > 3
    assert chat.history == [("小明有3个苹果,又买了5个,一共有几个?", answer)]


def test_same_tokens_as_generate_with_history(chat: Chat, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against transformers' generate on the prompt in the original's words."""
    chat.max_length = 120
    first = chat.ask("你好")
    text = f"[Round 0]\n问：你好\n答：{first}\n[Round 1]\n问：三加五?\n答："
    ids = chat.tokenizer([text], add_special_tokens=False)["input_ids"][0]
    ids += chat.tokenizer.convert_tokens_to_ids(["[gMASK]", "<sop>"])
    chat.max_length = len(ids) + 30
    stop = chat.family.stop_id(chat.tokenizer)
    prompt = torch.tensor([ids])
    out = chat.engine.model.generate(
        prompt, attention_mask=torch.ones_like(prompt), do_sample=False, max_new_tokens=30, eos_token_id=stop
    )[0, len(ids) :].tolist()
    expected = polish(chat.tokenizer.decode([t for t in out if t != stop], skip_special_tokens=True)).strip()
    assert chat.ask("三加五?") == expected


def test_no_room_is_one_line(chat: Chat) -> None:
    chat.max_length = 5
    with pytest.raises(
        BadInput, match=r"question take .* of 5 tokens; shorten it, or give a larger --max-length"
    ):
        chat.ask("这个问题比五个词元长得多")
    assert chat.history == []


def test_once(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [str(model), "--once", "你好", "--max-length", "30"]
    assert run_command(module.main, words) == 0
    answer = capsys.readouterr().out.rstrip("\n")
    assert run_command(module.main, [*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"query": "你好", "answer": answer}


def test_a_runs_model_is_found(model: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "run.yaml").write_text("name: run\n")
    with pytest.raises(BadInput, match="this run has no model yet"):
        module.model_directory(run)
    (run / "model").symlink_to(model)
    assert module.model_directory(run) == run / "model"
    assert module.model_directory(model) == model


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["{absent}"], "stdin is not a terminal"),
        (["{absent}", "--once", "x"], "no model directory"),
        (["{model}", "--once", " "], "an empty question"),
        (["{model}", "--json"], "only with --once"),
        (["{model}", "--once", "x", "--max-length", "1"], "--max-length 1: at least 2"),
    ],
)
def test_bad_input_is_one_line(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], expected: str
) -> None:
    filled = [word.format(model=model, absent=tmp_path / "absent") for word in words]
    assert run_command(module.main, filled) == 2
    err = capsys.readouterr().err.strip().splitlines()
    assert len(err) == 1
    assert expected in err[0]


def test_the_conversation(
    chat: Chat, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Questions, commands and leaving, with hostile text in an answer kept from the terminal."""
    from rich.console import Console

    said = iter(["你好", "/help", "/clear", "再见", "/exit"])
    monkeypatch.setattr(Console, "input", lambda self, *_, **__: next(said))

    def pieces(query: str) -> Any:
        yield from ["[red]", "\x1b[2J", "答：\u3000", query]

    monkeypatch.setattr(chat, "_pieces", pieces)
    assert module.converse(chat) == 0
    shown = capsys.readouterr().out
    assert "[red]" in shown
    assert "\x1b" not in shown and "⟨U+001B⟩[2J答：\u3000再见" in shown
    assert "forgotten" in shown
    assert [query for query, _ in chat.history] == ["再见"]


def test_no_more_tokens_than_the_model_has_positions(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert Chat.load(model, max_length=256).max_length == 256 and not capsys.readouterr().err
    assert Chat.load(model).max_length == 256
    assert capsys.readouterr().err == "the model has 256 positions: --max-length is 256, not 2,048\n"
