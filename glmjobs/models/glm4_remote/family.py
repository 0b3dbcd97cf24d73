"""GLM-4-9B with model_type chatglm, as it was published first."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from glmjobs.models.chatglm2.release import release_of
from glmjobs.models.chatglm3.family import ChatGLM3


class GLM4Remote(ChatGLM3):
    """GLM-4-9B: ``[gMASK] <sop> <|user|> question <|assistant|> answer <|endoftext|>``, a new line behind each role."""

    name = "glm4_remote"
    title = "GLM-4 (remote-code form)"
    half = "bfloat16"
    sop, end = "<sop>", "<|endoftext|>"
    published = (
        "GLM-4-9B",
        {
            "padded_vocab_size": 151552, "hidden_size": 4096, "num_layers": 40, "num_attention_heads": 32,
            "multi_query_group_num": 2, "kv_channels": 128, "ffn_hidden_size": 13696, "add_qkv_bias": True,
        },
    )  # fmt: skip
    directories = ("glm-4-9b", "glm-4-9b-chat", "glm-4-9b-chat-1m")

    def recognises(self, config: dict[str, Any]) -> bool:
        return release_of(config) == "glm4"

    def load_tokenizer(self, directory: Path) -> Any:
        from glmjobs.models.glm4_remote.tokenization import GLM4TokenizerFast

        return GLM4TokenizerFast.from_pretrained(directory, local_files_only=True)


FAMILY = GLM4Remote()
