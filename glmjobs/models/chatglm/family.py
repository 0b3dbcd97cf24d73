"""ChatGLM-6B of the first generation."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from glmjobs.models.architecture import Architecture, Config, megatron
from glmjobs.models.family import Family, Framed, special_id

_FULL_WIDTH = str.maketrans(",!:;?", "，！：；？")
_CHINESE = "\u4e00-\u9fff"
_NEAR_CHINESE = re.compile(f"(?<=[{_CHINESE}])[,!:;?]|[,!:;?](?=[{_CHINESE}])")


def filled(text: str) -> str:
    """An answer as the originals' chats repair it: a placeholder of their training data is filled in."""
    return text.lstrip().replace("[[训练时间]]", "2023年")


def without_open_placeholder(text: str) -> str:
    """An answer that is still growing, as far as no placeholder can be begun in it, nor a character cut."""
    text = text.rstrip("\ufffd")
    return text[: text.rfind("[[")] if text.rfind("[[") > text.rfind("]]") else text


class ChatGLM(Family):
    """ChatGLM-6B: ``question [gMASK] <sop> answer <eop>``."""

    name = "chatglm"
    title = "ChatGLM-6B"
    lora_targets = ("query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h")
    tokenizer_files = (("ice_text.model",),)
    frame_tokens = 3
    positions_apart = True
    owns_config = True
    published = (
        "ChatGLM-6B", {"vocab_size": 130528, "hidden_size": 4096, "num_layers": 28, "num_attention_heads": 32}
    )  # fmt: skip
    directories = ("chatglm-6b",)
    tutorial = (0.048, 0.200)

    def recognises(self, config: dict[str, Any]) -> bool:
        later = {"multi_query_attention", "padded_vocab_size"}  # ChatGLM2 and later have the same model_type
        return config.get("model_type") == "chatglm" and not later & config.keys()

    def architecture(self, config: Config) -> Architecture:
        return megatron(config, kept=12)

    def model_class(self) -> Any:
        from glmjobs.models.chatglm.modeling import ChatGLMForCausalLM

        return ChatGLMForCausalLM

    def load_tokenizer(self, directory: Path) -> Any:
        from glmjobs.models.chatglm.tokenization import ChatGLMTokenizerFast

        return ChatGLMTokenizerFast.from_pretrained(directory, local_files_only=True)

    def frame(
        self, tokenizer: Any, source_ids: Sequence[int], target_ids: Sequence[int], *, label_sop: bool = False
    ) -> Framed:
        framed = super().frame(tokenizer, source_ids, target_ids)
        if label_sop:
            sop_at = len(source_ids) + 1
            framed.labels[sop_at] = framed.input_ids[sop_at]
        return framed

    def prompt(self, tokenizer: Any, source_ids: Sequence[int]) -> list[int]:
        return [*source_ids, special_id(tokenizer, "[gMASK]"), special_id(tokenizer, "<sop>")]

    def prompt_text(self, query: str, history: Sequence[tuple[str, str]] = ()) -> str:
        """The original's chat: the bare query, or numbered rounds from 0 once there is a history."""
        if not history:
            return query
        rounds = [
            f"[Round {i}]\n问：{asked}\n答：{answered}\n" for i, (asked, answered) in enumerate(history)
        ]
        return "".join(rounds) + f"[Round {len(history)}]\n问：{query}\n答："

    def stop_id(self, tokenizer: Any) -> int:
        return special_id(tokenizer, "<eop>")

    def answer_text(self, text: str) -> str:
        """As the original's chat repairs it: its tokenizer folds punctuation to half width, so marks next to a Chinese
        character become full width again; a placeholder of its training data is filled in."""
        return _NEAR_CHINESE.sub(lambda mark: mark.group().translate(_FULL_WIDTH), filled(text))

    def settled(self, text: str) -> str:
        """Also without a trailing mark that the next character may widen, or an open placeholder."""
        return without_open_placeholder(text).rstrip(",!:;? \n\t[\ufffd")

    def make_small(self, directory: Path, texts: Iterable[str], sizes: Mapping[str, Any]) -> None:
        from glmjobs.models.chatglm.tiny_model import make_model
        from glmjobs.models.chatglm.tiny_tokenizer import make_tokenizer

        ids = make_tokenizer(directory, texts, vocab_size=sizes["vocab_size"], seed=sizes["seed"]).config()
        make_model(directory, **{**sizes, "vocab_size": ids.pop("vocab_size")}, ids=ids)


FAMILY = ChatGLM()
