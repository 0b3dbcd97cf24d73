"""GLM-10B and GLM-10B-chinese."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from glmjobs.models.architecture import Architecture, Config, megatron, size
from glmjobs.models.family import NO_LABEL, Family, Framed, special_id
from hpc.core.errors import BadInput


class GLM(Family):
    """GLM-10B and GLM-10B-chinese, sequence to sequence: ``[CLS] question [sMASK] eos <sop> answer`` predicts
    ``answer <eop>``, each label standing at the token that predicts it (THUDM/GLM's customization task)."""

    name = "glm"
    title = "GLM-10B"
    shifts_labels = False
    lora_targets = ("query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h")
    tokenizer_files = (("cog-pretrain.model",), ("vocab.json", "merges.txt"))
    frame_tokens = 4
    positions_apart = True
    owns_config = True
    published = (
        "GLM-10B-chinese", {"vocab_size": 50048, "hidden_size": 4096, "num_layers": 48, "num_attention_heads": 64}
    )  # fmt: skip
    directories = ("glm-10b", "glm-10b-chinese")
    tutorial = (0.097, 0.250)

    def recognises(self, config: dict[str, Any]) -> bool:
        kind, ours = config.get("model_type"), {"block_position_encoding", "num_layers"}
        return kind == "glm10b" or (kind == "glm" and bool(ours & config.keys()))

    def architecture(self, config: Config) -> Architecture:
        tables = 2 * self.positions(config)
        dropped = [float(config.get(f"{where}_dropout_prob", 0.1)) for where in ("attention", "output")]
        return megatron(config, kept=10, tables=tables, dropout=any(dropped))

    def positions(self, config: Config) -> int:
        """Rows of each position table: one more than the configuration says."""
        return size(config, "max_sequence_length", "max_position_embeddings", default=1024) + 1

    def model_class(self) -> Any:
        from glmjobs.models.glm10b.modeling import GLMForCausalLM

        return GLMForCausalLM

    def load_tokenizer(self, directory: Path) -> Any:
        from glmjobs.models.glm10b.tokenization import load_glm_tokenizer

        return load_glm_tokenizer(directory)

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
        return [special_id(tokenizer, "[CLS]"), *source_ids, *(special_id(tokenizer, name) for name in names)]

    def prompt_text(self, query: str, history: Sequence[tuple[str, str]] = ()) -> str:
        """GLM-10B was not trained to chat: what was said before stands in front, a line each."""
        return "\n".join([*(line for turn in history for line in turn), query])

    def stop_id(self, tokenizer: Any) -> int:
        return special_id(tokenizer, "<|endofpiece|>")

    def banned_ids(self, tokenizer: Any) -> list[int]:
        """``[gMASK]``: in GLM-10B-chinese its row was copied from ``<eop>``'s, and the output matrix is the
        embedding. Both get the same logit until training parts them, so half of all ends would go unseen."""
        gmask = tokenizer.convert_tokens_to_ids("[gMASK]")
        return [gmask] if isinstance(gmask, int) and gmask != self.stop_id(tokenizer) else []


FAMILY = GLM()
