"""ChatGLM-6B of the first generation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from glmjobs.models.family import Family, Framed, special_id


class ChatGLM(Family):
    """ChatGLM-6B: ``question [gMASK] <sop> answer <eop>``."""

    name = "chatglm"
    lora_targets = ("query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h")
    frame_tokens = 3
    owns_config = True

    def recognises(self, config: dict[str, Any]) -> bool:
        later = {"multi_query_attention", "padded_vocab_size"}  # ChatGLM2 and later have the same model_type
        return config.get("model_type") == "chatglm" and not later & config.keys()

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


FAMILY = ChatGLM()
