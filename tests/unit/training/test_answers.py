"""The answers of a model that is being trained are those that scoring gets from it, and it can be trained on."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

import torch

from glmjobs.data.prepared import prepare
from glmjobs.data.sources import MadeSource
from glmjobs.generation.decoder import Engine, generate
from glmjobs.models import load_model, load_tokenizer
from glmjobs.models.family import family_for
from glmjobs.recipe.loading import parse
from glmjobs.training import answers
from glmjobs.training.answers import Probe
from tests.support.jsonl import write_jsonl
from tests.support.small_families import small_chatglm, small_glm, small_glm4, vary

MADE = {"chatglm": partial(small_chatglm, seed=3, std=0.3), "glm": small_glm, "glm4": small_glm4}
QUESTIONS = 7


class Rank:
    """The agreement of one of several ranks that are asked one after the other."""

    def __init__(self, rank: int, ranks: int, before: Any) -> None:
        self.rank, self.ranks, self.before = rank, ranks, before

    def add(self, values: Any) -> Any:
        self.sum = values + self.before
        return self.sum

    def all_reduce_max(self, value: int) -> int:
        return value


def probe_of(family: str, folder: Path) -> tuple[Any, Probe]:
    directory = MADE[family](folder / "model")
    prepare(MadeSource(30, 0), folder / "data", dev_rows="1-10")
    recipe = parse(
        {
            "model": {"family": family, "path": str(directory)},
            "data": {"path": "x"},
            "train": {"eval_steps": 1, "eval_answers": QUESTIONS},
            "score": {"max_new_tokens": 12},
        }
    )
    probe = Probe.load(recipe, folder / "data", load_tokenizer(directory), 256)
    assert probe is not None and len(probe.prompts) == QUESTIONS
    model = load_model(directory, "float32")
    return model if family == "chatglm" else vary(model), probe


@pytest.mark.parametrize("family", MADE)
def test_the_answers_of_scoring(family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Golds are what the decoder gives, but every third: so many are right, asked by one rank, by three that
    share the questions, and by two in step."""
    model, probe = probe_of(family, tmp_path)
    tokenizer, of = probe.tokenizer, family_for(family)
    alone = Engine(model, of.stop_ids(tokenizer), banned_ids=of.banned_ids(tokenizer), trained=True)
    made = {r.index: r.tokens for r in generate(alone, probe.prompts, probe.limit)}
    said = [tokenizer.decode(made[i], skip_special_tokens=True).strip() for i in range(QUESTIONS)]
    assert len(set(said)) > 1, "a model that always says the same would hide an exchange"
    probe = replace(probe, texts=[(str(i), "other" if i % 3 == 0 else text) for i, text in enumerate(said)])
    monkeypatch.setattr(
        answers, "judge", lambda question, gold, text: SimpleNamespace(correct=gold == text, status="marked")
    )
    monkeypatch.setattr(answers, "_of_first_rank", lambda tokens: tokens)
    for ranks, whole in ((1, True), (3, True), (2, False)):
        total: Any = torch.zeros(2, dtype=torch.float64)
        for rank in range(ranks):
            agreement: Any = Rank(rank, ranks, total)
            found = probe.ask(model, agreement, whole=whole, told=lambda: False)
            total = agreement.sum
        assert found is not None and found["dev_answers"] == 4 / 7 and found["dev_answers_marked"] == 7
        assert found["dev_answers_interval"] == pytest.approx([0.2505, 0.8418], abs=1e-4)
    assert probe.ask(model, Rank(0, 1, 0), whole=True, told=lambda: True) is None  # type: ignore[arg-type]
    loss = model(torch.tensor([probe.prompts[0]]), labels=torch.tensor([probe.prompts[0]])).loss
    loss.backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize("family", MADE)
def test_a_conversation_is_asked_with_what_was_said_before(family: str, tmp_path: Path) -> None:
    directory = MADE[family](tmp_path / "model")
    said = [("system", "老师"), ("user", "甲"), ("assistant", "乙"), ("user", "丙"), ("assistant", "丁")]
    talk = {"messages": [{"role": role, "content": text} for role, text in said]}
    alone = {"messages": talk["messages"][3:]}
    prepare(write_jsonl(tmp_path / "talks.jsonl", [alone, talk, talk]), tmp_path / "data", dev_rows="1-2",
            deduplicate=False)  # fmt: skip
    recipe = parse(
        {
            "model": {"family": family, "path": str(directory)},
            "data": {"path": "x"},
            "train": {"eval_steps": 1, "eval_answers": 2},
        }
    )
    tokenizer, of = load_tokenizer(directory), family_for(family)
    probe = Probe.load(recipe, tmp_path / "data", tokenizer, 256)
    assert probe is not None and probe.texts == [("丙", "丁")] * 2
    assert probe.prompts == [
        of.chat_prompt(tokenizer, "丙"), of.chat_prompt(tokenizer, "丙", [("甲", "乙")], "老师"),
    ]  # fmt: skip
