"""What the rest of the code needs to know of a model family, behind one interface. No torch, no transformers.

A family says how an example becomes tokens and labels, what generation starts from and stops at, and what a
chat prompt looks like. Adding a family is a subclass of :class:`Family` here (or in a module of its own) and
an entry in :data:`FAMILIES`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from glmjobs.errors import BadInput

NO_LABEL = -100


class Framed(NamedTuple):
    """One example as the model takes it; both lists have the same length, and the first label is -100."""

    input_ids: list[int]
    labels: list[int]


class Family:
    """One model family.

    Attributes:
        name: as a recipe writes it.
        shifts_labels: the model compares the prediction at a token with the *next* label (the usual
            convention); else labels stand where their prediction stands.
        lora_targets: names of the linear maps that LoRA adapts by default.
        frame_tokens: tokens that a frame adds to source and target.
    """

    name: ClassVar[str]
    shifts_labels: ClassVar[bool] = True
    lora_targets: ClassVar[tuple[str, ...]]
    frame_tokens: ClassVar[int]

    def frame(
        self, tokenizer: Any, source_ids: Sequence[int], target_ids: Sequence[int], *, label_sop: bool = False
    ) -> Framed:
        """An example from its question's and its answer's plain token ids.

        Args:
            tokenizer: of the family; only its special tokens' ids are asked for.
            source_ids: the question, without any frame.
            target_ids: the answer, without any frame.
            label_sop: the original's labels of ChatGLM-6B, where ``<sop>`` is a target too.
        """
        prompt, stop = self.prompt(tokenizer, source_ids), self.stop_id(tokenizer)
        answer = [*target_ids, stop]
        return Framed(prompt + answer, [NO_LABEL] * len(prompt) + answer)

    def prompt(self, tokenizer: Any, source_ids: Sequence[int]) -> list[int]:
        """What generation starts from."""
        raise NotImplementedError

    def prompt_text(self, query: str, history: Sequence[tuple[str, str]] = ()) -> str:
        """A query, with what was said before, as the text that becomes ``source_ids``."""
        raise NotImplementedError

    def stop_id(self, tokenizer: Any) -> int:
        """The token that ends an answer: the last target in training, the stop of generation."""
        raise NotImplementedError

    def banned_ids(self, tokenizer: Any) -> list[int]:
        """Tokens that generation must not give, because the model can't tell them from others."""
        return []


class ChatGLM(Family):
    """ChatGLM-6B: ``question [gMASK] <sop> answer <eop>``."""

    name = "chatglm"
    lora_targets = ("query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h")
    frame_tokens = 3

    def frame(
        self, tokenizer: Any, source_ids: Sequence[int], target_ids: Sequence[int], *, label_sop: bool = False
    ) -> Framed:
        framed = super().frame(tokenizer, source_ids, target_ids)
        if label_sop:
            sop_at = len(source_ids) + 1
            framed.labels[sop_at] = framed.input_ids[sop_at]
        return framed

    def prompt(self, tokenizer: Any, source_ids: Sequence[int]) -> list[int]:
        return [*source_ids, _id(tokenizer, "[gMASK]"), _id(tokenizer, "<sop>")]

    def prompt_text(self, query: str, history: Sequence[tuple[str, str]] = ()) -> str:
        """The original's chat: the bare query, or numbered rounds from 0 once there is a history."""
        if not history:
            return query
        rounds = [
            f"[Round {i}]\n问：{asked}\n答：{answered}\n" for i, (asked, answered) in enumerate(history)
        ]
        return "".join(rounds) + f"[Round {len(history)}]\n问：{query}\n答："

    def stop_id(self, tokenizer: Any) -> int:
        return _id(tokenizer, "<eop>")


class GLM(Family):
    """GLM-10B and GLM-10B-chinese, sequence to sequence: ``[CLS] question [sMASK] eos <sop> answer`` predicts
    ``answer <eop>``, each label standing at the token that predicts it (THUDM/GLM's customization task)."""

    name = "glm"
    shifts_labels = False
    lora_targets = ChatGLM.lora_targets
    frame_tokens = 4

    def frame(
        self, tokenizer: Any, source_ids: Sequence[int], target_ids: Sequence[int], *, label_sop: bool = False
    ) -> Framed:
        if label_sop:
            raise BadInput(
                "train.label_sop = true: GLM-10B never predicts <sop>; only ChatGLM-6B's original labels do"
            )
        prompt = self.prompt(tokenizer, source_ids)
        labels = [NO_LABEL] * (len(prompt) - 1) + [*target_ids, self.stop_id(tokenizer)]
        return Framed([*prompt, *target_ids], labels)

    def prompt(self, tokenizer: Any, source_ids: Sequence[int]) -> list[int]:
        names = ("[sMASK]", "<|endoftext|>", "<|startofpiece|>")
        return [_id(tokenizer, "[CLS]"), *source_ids, *(_id(tokenizer, name) for name in names)]

    def prompt_text(self, query: str, history: Sequence[tuple[str, str]] = ()) -> str:
        """GLM-10B was not trained to chat: what was said before stands in front, a line each."""
        return "\n".join([*(line for turn in history for line in turn), query])

    def stop_id(self, tokenizer: Any) -> int:
        return _id(tokenizer, "<|endofpiece|>")

    def banned_ids(self, tokenizer: Any) -> list[int]:
        """``[gMASK]``: in GLM-10B-chinese its row was copied from ``<eop>``'s, and the output matrix is the
        embedding. Both get the same logit until training parts them, so half of all ends would go unseen."""
        gmask = tokenizer.convert_tokens_to_ids("[gMASK]")
        return [gmask] if isinstance(gmask, int) and gmask != self.stop_id(tokenizer) else []


class GLM4(Family):
    """GLM-4-9B in transformers' own format: one turn of its chat template."""

    name = "glm4"
    lora_targets = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_up_proj", "down_proj")
    frame_tokens = 8

    def prompt(self, tokenizer: Any, source_ids: Sequence[int]) -> list[int]:
        before, after = _template_frame(tokenizer)
        return [*before, *source_ids, *after]

    def prompt_text(self, query: str, history: Sequence[tuple[str, str]] = ()) -> str:
        """Earlier turns in the template's words; the frame opens the first turn and closes the last."""
        turns = "".join(f"{asked}<|assistant|>\n{answered}<|user|>\n" for asked, answered in history)
        return turns + query

    def stop_id(self, tokenizer: Any) -> int:
        return int(tokenizer.eos_token_id)


FAMILIES: dict[str, Family] = {family.name: family for family in (ChatGLM(), GLM(), GLM4())}


def family_for(name_or_dir: str | Path) -> Family:
    """The family of a name ("chatglm", "glm", "glm4") or of a model directory.

    Raises:
        BadInput: an unknown name, or a directory whose config.json is missing, broken or of another
            architecture.
    """
    if str(name_or_dir) in FAMILIES:
        return FAMILIES[str(name_or_dir)]
    directory = Path(name_or_dir)
    if not directory.is_dir():
        raise BadInput(f"{name_or_dir}: neither a family ({', '.join(FAMILIES)}) nor a model directory")
    return FAMILIES[family_name(read_config(directory), directory / "config.json")]


def read_config(directory: Path) -> dict[str, Any]:
    """A model directory's config.json.

    Raises:
        BadInput: it is missing, unreadable or not a JSON object.
    """
    path = directory / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BadInput(f"{path}: missing; a model directory has a config.json") from None
    except (OSError, ValueError) as error:
        raise BadInput(f"{path}: cannot read this configuration: {error}") from None
    if not isinstance(config, dict):
        raise BadInput(f"{path}: a configuration is a JSON object, not {type(config).__name__}")
    return config


def family_name(config: dict[str, Any], where: str | Path) -> str:
    """Which family a configuration describes.

    ``model_type`` alone doesn't tell: "glm" is both THUDM's GLM-10B and transformers' name for GLM-4,
    "chatglm" is also ChatGLM2, ChatGLM3 and GLM-4 with remote code.
    """
    kind = config.get("model_type")
    if kind == "chatglm" and not {"multi_query_attention", "padded_vocab_size"} & config.keys():
        return "chatglm"
    if kind == "glm10b" or (kind == "glm" and {"block_position_encoding", "num_layers"} & config.keys()):
        return "glm"
    if kind == "glm" and "num_key_value_heads" in config:
        return "glm4"
    if kind == "chatglm":
        raise BadInput(
            f"{where}: this is ChatGLM2, ChatGLM3 or GLM-4 with remote code; supported are ChatGLM-6B of the "
            "first generation, GLM-10B, and GLM-4 in transformers' own format (-hf)"
        )
    raise BadInput(f"{where}: model_type = {kind!r} is none of the families here ({', '.join(FAMILIES)})")


def _id(tokenizer: Any, token: str) -> int:
    """The id of a special token, which the tokenizer must have as one."""
    found = tokenizer.convert_tokens_to_ids(token)
    if not isinstance(found, int) or (found == getattr(tokenizer, "unk_token_id", None)):
        raise BadInput(f"{getattr(tokenizer, 'name_or_path', 'tokenizer')}: the vocabulary has no {token}")
    return found


def _template_frame(tokenizer: Any) -> tuple[list[int], list[int]]:
    """The tokens that a chat template puts before and after one user's words, up to where the answer
    starts."""
    words = "\u2402words\u2403"  # in no template
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": words}], tokenize=False, add_generation_prompt=True
    )
    before, found, after = text.partition(words)
    if not found:
        raise BadInput(
            f"{getattr(tokenizer, 'name_or_path', 'tokenizer')}: its chat template drops the user's words"
        )
    ids = [tokenizer(part, add_special_tokens=False)["input_ids"] for part in (before, after)]
    return list(ids[0]), list(ids[1])
