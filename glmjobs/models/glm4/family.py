"""GLM-4-9B in transformers' own format."""

from __future__ import annotations

from typing import Any

from glmjobs.models.family import Templated

LATER = {"glm4": "GLM-4-0414", "glm4v": "GLM-4.1V", "glm4_moe": "GLM-4.5"}
"""Models of other architectures, by transformers' names for them."""


class GLM4(Templated):
    """GLM-4-9B in transformers' own format: one turn of its chat template."""

    name = "glm4"
    title = "GLM-4"
    lora_targets = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_up_proj", "down_proj")
    frame_tokens = 8
    between = ("<|assistant|>\n", "<|user|>\n")
    published = (
        "GLM-4-9B",
        {
            "vocab_size": 151552, "hidden_size": 4096, "num_hidden_layers": 40, "intermediate_size": 13696,
            "num_attention_heads": 32, "num_key_value_heads": 2, "head_dim": 128, "tie_word_embeddings": False,
        },
    )  # fmt: skip

    def recognises(self, config: dict[str, Any]) -> bool:
        return config.get("model_type") == "glm" and "num_key_value_heads" in config

    def mistaken(self, config: dict[str, Any]) -> str | None:
        later = LATER.get(str(config.get("model_type")))
        if later is None:
            return None
        return (
            f"this is {later} (model_type {config['model_type']}), which is not supported yet; of GLM-4, "
            "GLM-4-9B is (model_type glm, as in THUDM/glm-4-9b-chat-hf)"
        )

    def model_class(self) -> Any:
        from transformers import GlmForCausalLM

        from glmjobs.models.common.packed import packed

        return packed(GlmForCausalLM)


FAMILY = GLM4()
