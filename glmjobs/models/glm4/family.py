"""GLM-4-9B in transformers' own format."""

from __future__ import annotations

from typing import Any, ClassVar

from glmjobs.models.family import Templated, turn_ids

LATER = {"glm4v": "GLM-4.1V", "glm4_moe": "GLM-4.5"}
"""Models of other architectures, by transformers' names for them."""


class GLM4(Templated):
    """GLM-4-9B in transformers' own format: one turn of its chat template."""

    name = "glm4"
    title = "GLM-4"
    lora_targets = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_up_proj", "down_proj")
    frame_tokens = 8
    half = "bfloat16"
    published = (
        "GLM-4-9B",
        {
            "vocab_size": 151552, "hidden_size": 4096, "num_hidden_layers": 40, "intermediate_size": 13696,
            "num_attention_heads": 32, "num_key_value_heads": 2, "head_dim": 128, "tie_word_embeddings": False,
        },
    )  # fmt: skip
    directories: ClassVar[tuple[str, ...]] = ("glm-4-9b-hf", "glm-4-9b-chat-hf", "glm-4-9b-chat-1m-hf")

    def recognises(self, config: dict[str, Any]) -> bool:
        return config.get("model_type") == "glm" and "num_key_value_heads" in config

    def mistaken(self, config: dict[str, Any]) -> str | None:
        later = LATER.get(str(config.get("model_type")))
        if later is None:
            return None
        return (
            f"this is {later} (model_type {config['model_type']}), which is not supported: of GLM-4 the "
            "dense models of text are (GLM-4-9B, GLM-4-0414, GLM-Z1-0414)"
        )

    def stop_ids(self, tokenizer: Any) -> list[int]:
        """The end, or another's turn, with which its answers end."""
        return [self.stop_id(tokenizer), *turn_ids(tokenizer)]

    def model_class(self) -> Any:
        from transformers import GlmForCausalLM

        from glmjobs.models.common.packed import packed

        return packed(GlmForCausalLM)


FAMILY = GLM4()
