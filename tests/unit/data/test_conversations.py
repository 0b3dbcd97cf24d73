"""Conversations as tokens: every prompt is the model's own, every answer is learned where it should be, limits hold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from glmjobs.data import Prepared, prepare
from glmjobs.data.framing import NO_LABEL, Frame
from glmjobs.data.rows import LossOn
from glmjobs.data.tokenised import tokenise
from glmjobs.models.family import families, family_for
from hpc.core.errors import BadInput
from tests.support.char_tokenizer import CharTokenizer
from tests.support.jsonl import write_jsonl

SYSTEM, FIRST, SECOND, THIRD = "你是老师。", ("问甲", "答甲"), ("问乙", "答乙"), ("问丙", "答丙")
HISTORY = [FIRST, SECOND]


def turns(*pairs: tuple[str, str], system: str = "") -> dict[str, Any]:
    said = [("system", system)] if system else []
    for question, answer in pairs:
        said += [("user", question), ("assistant", answer)]
    return {"messages": [{"role": role, "content": text} for role, text in said]}


@pytest.fixture
def prepared(tmp_path: Path) -> Prepared:
    rows = [
        turns(("dev", "x")),
        turns(FIRST, SECOND, THIRD, system=SYSTEM),
        turns(FIRST, SECOND),
        turns(THIRD),
    ]
    return prepare(write_jsonl(tmp_path / "f.jsonl", rows), tmp_path / "data", dev_rows="1")


def text(ids: list[int]) -> str:
    """The characters; special tokens left out."""
    return "".join(chr(n) for n in ids if n not in range(60_000, 60_100) and n != CharTokenizer.eos_token_id)


@pytest.mark.parametrize("name", sorted(families()))
@pytest.mark.parametrize("loss_on", ["all", "last"])
def test_every_answer_behind_the_models_own_prompt(
    name: str, loss_on: LossOn, prepared: Prepared, tmp_path: Path
) -> None:
    tokenizer, family = CharTokenizer(), family_for(name)
    found = tokenise(prepared, "train", tokenizer, family, tmp_path / "t", loss_on=loss_on)
    every = [
        (2, FIRST, [], SYSTEM), (2, SECOND, [FIRST], SYSTEM), (2, THIRD, HISTORY, SYSTEM),
        (3, FIRST, [], ""), (3, SECOND, [FIRST], ""), (4, THIRD, [], ""),
    ]  # fmt: skip
    wanted = every if loss_on == "all" else [every[2], every[4], every[5]]
    assert found.rows.tolist() == [row for row, *_ in wanted]
    frame = Frame.of(family, tokenizer, False)
    begun = frame.between[frame.opening :]  # learned with the answer, as ChatGLM3's new line behind the role
    for at, (_, (question, answer), history, system) in enumerate(wanted):
        ids, labels = (numbers.tolist() for numbers in found.example(at))
        prompt = family.chat_prompt(tokenizer, question, history, system)
        target = [ord(c) for c in answer]
        assert ids == [*prompt, *begun, *target, *frame.behind]
        learned = [n for n in labels if n != NO_LABEL]
        assert learned == [*begun, *target, family.stop_id(tokenizer)] and labels[-len(learned) :] == learned
        if not history and not system:  # a conversation's first turn is a question on its own
            assert prompt == family.prompt(tokenizer, [ord(c) for c in family.prompt_text(question)])
    assert found.figures["examples"] == len(wanted) and not found.figures["cut_questions"]


def test_the_words_of_each_family() -> None:
    def said(name: str) -> str:
        return text(family_for(name).chat_prompt(CharTokenizer(), THIRD[0], HISTORY, SYSTEM))

    assert said("chatglm") == (
        "你是老师。\n[Round 0]\n问：问甲\n答：答甲\n[Round 1]\n问：问乙\n答：答乙\n[Round 2]\n问：问丙\n答："
    )
    assert said("glm") == "你是老师。\n问甲\n答甲\n问乙\n答乙\n问丙"
    assert said("glm4") == "<s>你是老师。<u>问甲<a>答甲<u>问乙<a>答乙<u>问丙<a>"


@pytest.mark.parametrize("too_long", ["drop", "keep_end"])
def test_a_conversation_that_is_too_long(too_long: Any, tmp_path: Path) -> None:
    """Dropped and counted; or its oldest turns are left out, and counted. A last question is never cut."""
    rows = [
        turns(("dev", "x")),
        turns(("问" * 30, "答"), ("短", "答")),
        turns(("短", "答"), ("问" * 80, "答")),
    ]
    done = prepare(write_jsonl(tmp_path / "f.jsonl", rows), tmp_path / "data", dev_rows="1")
    found = tokenise(
        done,
        "train",
        CharTokenizer(),
        family_for("glm"),
        tmp_path / "t",
        max_source_length=33,
        too_long=too_long,
    )
    said = [text(found.example(at)[0].tolist()) for at in range(len(found))]
    if too_long == "drop":
        assert said == ["问" * 30 + "答", "短答"]
        assert found.figures["left_out"]["long question"] == 2 and not found.figures["cut_questions"]
    else:
        assert said == ["问" * 30 + "答", "短答", "短答"]
        assert found.figures["left_out"]["long question"] == 1 and found.figures["cut_questions"] == 1


def test_what_changes_the_fingerprint(prepared: Prepared, tmp_path: Path) -> None:
    family = family_for("glm4")
    one, other = (
        tokenise(prepared, "train", CharTokenizer(), family, tmp_path / "t", loss_on=loss_on)
        for loss_on in ("all", "last")
    )
    assert one.fingerprint != other.fingerprint
    plain = prepare(
        write_jsonl(tmp_path / "p.jsonl", [turns(FIRST), turns(SECOND)]), tmp_path / "plain", dev_rows="1"
    )
    assert plain.conversations == 0
    same = {
        tokenise(plain, "train", CharTokenizer(), family, tmp_path / "t", loss_on=loss_on).fingerprint
        for loss_on in ("all", "last")
    }
    assert len(same) == 1, "questions on their own do not depend on it"


def test_a_template_without_a_place_for_a_role() -> None:
    class Deaf(CharTokenizer):
        def apply_chat_template(self, messages: list[dict[str, str]], **_: Any) -> str:
            return "".join(m["content"] for m in messages if m["role"] != "system")

    class Strict(CharTokenizer):
        def apply_chat_template(self, messages: list[dict[str, str]], **_: Any) -> str:
            raise ValueError("System role\nnot supported")

    with pytest.raises(BadInput, match="its chat template drops the system's words"):
        family_for("glm4").chat_prompt(Deaf(), "q", [], "s")
    with pytest.raises(BadInput, match="refuses the conversation: System role not supported"):
        family_for("glm4").chat_prompt(Strict(), "q", [], "s")


def test_the_tokens_of_the_chat_template(tmp_path: Path) -> None:
    """Those of the tokenizer's own ``apply_chat_template``."""
    pytest.importorskip("transformers")
    from glmjobs.models import load_tokenizer
    from tests.support.small_families import small_glm4

    tokenizer, family = load_tokenizer(small_glm4(tmp_path / "glm4")), family_for("glm4")
    messages = turns(FIRST, SECOND, system=SYSTEM)["messages"] + [{"role": "user", "content": THIRD[0]}]
    own = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    own_ids = tokenizer(own, add_special_tokens=False)["input_ids"]
    assert family.chat_prompt(tokenizer, THIRD[0], HISTORY, SYSTEM) == own_ids
    assert family.chat_prompt(tokenizer, "问") == family.prompt(tokenizer, tokenizer("问")["input_ids"])


def test_with_the_real_tokenizer(shared: Path) -> None:
    """ChatGLM-6B's rounds, tokenised as one text, as the original's chat does."""
    pytest.importorskip("transformers")
    from glmjobs.models import load_tokenizer

    tokenizer, family = load_tokenizer(shared / "chatglm-6b"), family_for("chatglm")
    said = "[Round 0]\n问：问甲\n答：答甲\n[Round 1]\n问：问乙\n答："
    assert family.chat_prompt(tokenizer, SECOND[0], [FIRST]) == tokenizer(said)["input_ids"]
