"""GLM-4-0414 and GLM-Z1-0414, as transformers has them since 4.52."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from glmjobs.models.architecture import Architecture, Config
from glmjobs.models.glm4.family import GLM4
from hpc.core.errors import BadInput


class GLM40414(GLM4):
    """GLM-4-9B-0414 and its like: GLM-4 with a norm behind attention and MLP too; one turn of its chat template."""

    name = "glm4_0414"
    title = "GLM-4-0414"
    frame_tokens = 12
    published = (
        "GLM-4-9B-0414",
        {
            "vocab_size": 151552, "hidden_size": 4096, "num_hidden_layers": 40, "intermediate_size": 13696,
            "num_attention_heads": 32, "num_key_value_heads": 2, "head_dim": 128, "attention_bias": True,
            "tie_word_embeddings": False,
        },
    )  # fmt: skip
    directories = ("GLM-4-9B-0414", "GLM-4-32B-0414", "GLM-Z1-9B-0414", "GLM-Z1-32B-0414")

    def recognises(self, config: dict[str, Any]) -> bool:
        return config.get("model_type") == "glm4"

    def mistaken(self, config: dict[str, Any]) -> str | None:
        return None  # GLM-4 says it for both

    def architecture(self, config: Config) -> Architecture:
        found = super().architecture(config)
        return replace(found, vectors=found.vectors + 2 * found.hidden, kept=found.kept + 6)

    def model_class(self) -> Any:
        if (why := self.unavailable()) is not None:
            raise BadInput(why)
        from transformers import Glm4ForCausalLM

        from glmjobs.models.common.packed import packed

        return packed(Glm4ForCausalLM)

    def unavailable(self) -> str | None:
        from importlib.metadata import PackageNotFoundError, version

        try:
            found = version("transformers")
        except PackageNotFoundError:
            return None
        if tuple(int(part) for part in found.split(".")[:2]) >= (4, 52):
            return None
        return (
            f"{self.title} is not in transformers {found}, it came with 4.52: the stack current has it; "
            "centos7-cu117 has GLM-4-9B (-hf)"
        )


FAMILY = GLM40414()
