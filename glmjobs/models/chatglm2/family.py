"""ChatGLM2-6B and ChatGLM2-6B-32k."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from glmjobs.models.architecture import Architecture, Config, size
from glmjobs.models.chatglm.family import filled, without_open_placeholder
from glmjobs.models.chatglm2.release import FIELD, RELEASES, has_architecture, release_of
from glmjobs.models.family import Family, special_id


class ChatGLM2(Family):
    """ChatGLM2-6B: ``[gMASK] sop [Round 1] 问：question 答：answer </s>``."""

    name = "chatglm2"
    title = "ChatGLM2-6B"
    lora_targets = ("query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h")
    tokenizer_files = (("tokenizer.model",),)
    frame_tokens = 3
    owns_config = True
    published = (
        "ChatGLM2-6B",
        {
            "padded_vocab_size": 65024, "hidden_size": 4096, "num_layers": 28, "num_attention_heads": 32,
            "multi_query_group_num": 2, "kv_channels": 128, "ffn_hidden_size": 13696, "add_qkv_bias": True,
        },
    )  # fmt: skip
    directories: ClassVar[tuple[str, ...]] = ("chatglm2-6b", "chatglm2-6b-32k")
    roles = False
    sop, end = "sop", "</s>"

    def recognises(self, config: dict[str, Any]) -> bool:
        return release_of(config) == self.name

    def mistaken(self, config: dict[str, Any]) -> str | None:
        if not has_architecture(config) or release_of(config) in RELEASES:
            return None
        return (
            "this is ChatGLM2 or ChatGLM3, which are asked in different words, and nothing says which; add "
            f'"{FIELD}": "chatglm2" or "chatglm3"'
        )

    def architecture(self, config: Config) -> Architecture:
        hidden, inner = size(config, "hidden_size"), size(config, "ffn_hidden_size", "intermediate_size")
        width = size(config, "kv_channels", "head_dim")
        queries = width * size(config, "num_attention_heads")
        keys = width * size(config, "multi_query_group_num", "num_key_value_heads")
        maps = {
            "query_key_value": (hidden, queries + 2 * keys), "dense": (queries, hidden),
            "dense_h_to_4h": (hidden, 2 * inner), "dense_4h_to_h": (inner, hidden),
        }  # fmt: skip
        # kept, in half precision: norms are computed in float32, and keys and values repeated for each head.
        return Architecture(
            layers=size(config, "num_layers", "num_hidden_layers"), hidden=hidden, inner=inner,
            vocabulary=size(config, "padded_vocab_size", "vocab_size"), queries=queries, maps=maps,
            vectors=(queries + 2 * keys if config.get("add_qkv_bias", True) else 0) + 2 * hidden, norm=hidden,
            kept=10 + 5 * queries / hidden + 4 * inner / hidden, tied=False,
        )  # fmt: skip

    def model_class(self) -> Any:
        from glmjobs.models.chatglm2.modeling import ChatGLM2ForCausalLM

        return ChatGLM2ForCausalLM

    def load_tokenizer(self, directory: Path) -> Any:
        from glmjobs.models.chatglm2.tokenization import ChatGLM2TokenizerFast

        return ChatGLM2TokenizerFast.from_pretrained(directory, local_files_only=True, roles=self.roles)

    def prompt(self, tokenizer: Any, source_ids: Sequence[int]) -> list[int]:
        return [special_id(tokenizer, "[gMASK]"), special_id(tokenizer, self.sop), *source_ids]

    def prompt_text(self, query: str, history: Sequence[tuple[str, str]] = ()) -> str:
        """The original's chat: numbered rounds from 1, the first one too."""
        rounds = "".join(
            f"[Round {i}]\n\n问：{q}\n\n答：{a}\n\n" for i, (q, a) in enumerate(history, start=1)
        )
        return f"{rounds}[Round {len(history) + 1}]\n\n问：{query}\n\n答："

    def stop_id(self, tokenizer: Any) -> int:
        return special_id(tokenizer, self.end)

    def answer_text(self, text: str) -> str:
        """As the original's chat repairs it: a placeholder of its training data is filled in."""
        return filled(text)

    def settled(self, text: str) -> str:
        """Also without an open placeholder."""
        return without_open_placeholder(text).rstrip(" \n\t[\ufffd")


FAMILY = ChatGLM2()
