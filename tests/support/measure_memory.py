r"""One rank of a small training under DeepSpeed on the CPU; prints what torch allocated, as one JSON object.

    RANK=0 WORLD_SIZE=2 MASTER_ADDR=… MASTER_PORT=… python tests/support/measure_memory.py FAMILY PRECISION STAGE \
        checkpointing|none lora|full|freeze OUT

Every allocation and release of torch's CPU allocator is taken from its own profiler, so temporary buffers count. The
profiler doesn't see what the threads of a collective release, so what is held between two steps is counted anew.
"""

from __future__ import annotations

import gc
import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile, record_function

from glmjobs import compat
from glmjobs.data.collate import PackedCollator
from glmjobs.models import ChatGLMConfig, ChatGLMForCausalLM, GLMConfig, GLMForCausalLM
from glmjobs.models.family import family_for
from glmjobs.models.frozen import frozen
from glmjobs.training.freezing import freeze

SIZES = {
    "chatglm": {"vocab_size": 3000, "hidden_size": 192, "num_layers": 6, "num_attention_heads": 4},
    "glm": {
        "vocab_size": 3000, "hidden_size": 192, "num_layers": 6, "num_attention_heads": 4, "max_sequence_length": 512,
        "attention_dropout_prob": 0.0, "output_dropout_prob": 0.0, "embedding_dropout_prob": 0.0,
    },
    "glm4": {
        "vocab_size": 3000, "hidden_size": 192, "num_hidden_layers": 6, "intermediate_size": 640, "head_dim": 48,
        "num_attention_heads": 4, "num_key_value_heads": 2, "tie_word_embeddings": False,
    },
    "chatglm2": {
        "padded_vocab_size": 3000, "hidden_size": 192, "num_layers": 6, "num_attention_heads": 4,
        "multi_query_group_num": 2, "kv_channels": 48, "ffn_hidden_size": 640,
    },
}  # fmt: skip
SIZES["glm4_0414"] = {**SIZES["glm4"], "attention_bias": True}
ROWS, LENGTH, EXAMPLE = 2, 512, 128
BUCKET = 200_000
RANK_OF_LORA = 8
FREEZE = ("embeddings", "layers.0-2", "layers.4")


def make(family: str) -> Any:
    """The model."""
    torch.manual_seed(0)
    if family == "chatglm":
        ids = {"bos_token_id": 2990, "eos_token_id": 2991, "mask_token_id": 2992, "gmask_token_id": 2993}
        return ChatGLMForCausalLM(ChatGLMConfig(**SIZES[family], **ids, pad_token_id=3))
    if family == "glm4":
        from transformers import GlmConfig

        return family_for(family).model_class()(GlmConfig(**SIZES[family], pad_token_id=0))
    if family == "glm4_0414":
        from transformers import Glm4Config

        return family_for(family).model_class()(Glm4Config(**SIZES[family], pad_token_id=0))
    if family == "chatglm2":
        kind = family_for(family).model_class()
        return kind(kind.config_class(**SIZES[family]))
    ids = {"bos_token_id": 2990, "eos_token_id": 2991, "pad_token_id": 0}
    return GLMForCausalLM(GLMConfig(**SIZES[family], **ids, mask_token_ids=[2993]))


def batch() -> dict[str, Any]:
    """Full rows of examples, half of each of them answer."""
    rng = np.random.default_rng(0)
    rows = []
    for _ in range(ROWS):
        parts = [
            [*rng.integers(5, 2900, EXAMPLE // 2 - 2).tolist(), 2993, 2990] for _ in range(LENGTH // EXAMPLE)
        ]
        answers = [rng.integers(5, 2900, EXAMPLE // 2).tolist() for _ in parts]
        rows.append({
            "input_ids": np.array([t for q, a in zip(parts, answers, strict=True) for t in q + a], np.int32),
            "segment_ids": np.repeat(np.arange(1, len(parts) + 1), EXAMPLE).astype(np.int32),
            "labels": np.array(
                [t for q, a in zip(parts, answers, strict=True) for t in [-100] * len(q) + a], np.int32
            ),
        })  # fmt: skip
    return PackedCollator(LENGTH, 0)(rows)


def config(precision: str, stage: int) -> dict[str, Any]:
    """DeepSpeed's, with buckets small enough to be told from the rest."""
    zero: dict[str, Any] = {
        "stage": stage,
        "contiguous_gradients": True,
        "reduce_bucket_size": BUCKET,
        "overlap_comm": False,
    }
    if stage == 3:
        zero |= {
            "stage3_max_live_parameters": 1e9,
            "stage3_max_reuse_distance": 1e9,
            "stage3_prefetch_bucket_size": 50_000,
        }
    return {
        "train_micro_batch_size_per_gpu": ROWS, "zero_optimization": zero, "zero_allow_untested_optimizer": True,
        "bf16": {"enabled": precision == "bf16"},
    }  # fmt: skip


def main() -> None:
    """Two steps; figures of the second."""
    family, precision, stage, checkpointing, lora, out = sys.argv[1:]
    compat.keep_gradient_hooks()
    compat.prepare_cpu_training()
    import deepspeed

    deepspeed.init_distributed("gloo")
    inputs = batch()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        model: Any = make(family)
        if lora == "lora":
            import peft

            targets = list(family_for(family).lora_targets)
            model = peft.get_peft_model(model, peft.LoraConfig(r=RANK_OF_LORA, target_modules=targets))
        if lora == "freeze":
            architecture = family_for(family).architecture(SIZES[family])
            freeze(model, frozen(FREEZE, architecture), architecture.layers)
        if checkpointing == "checkpointing":
            model.gradient_checkpointing_enable({"use_reentrant": False})
        if precision == "bf16":
            model = model.to(torch.bfloat16)
        trained = [p for p in model.parameters() if p.requires_grad]
        engine, *_ = deepspeed.initialize(
            model=model, model_parameters=trained, optimizer=torch.optim.AdamW(trained, lr=1e-4),
            config=config(precision, int(stage)),
        )  # fmt: skip
        model.train()
        for step in range(2):
            between = held_now()
            with record_function(f"passes-{step}"):
                loss = engine(**inputs).loss
                engine.backward(loss)
                del loss
            with record_function(f"step-{step}"):
                engine.step()
    figures = peaks(profiler, between)
    engine.save_checkpoint(out, exclude_frozen_parameters=lora == "lora")  # as the Trainer does
    figures["checkpoint"] = sum(f.stat().st_size for f in Path(out).rglob("*") if f.is_file())
    if os.environ["RANK"] == "0":
        print(json.dumps(figures))


def held_now() -> int:
    """Bytes of every tensor that is alive, each storage once."""
    gc.collect()
    tensors = [o for o in gc.get_objects() if issubclass(type(o), torch.Tensor)]
    tensors += [t.grad for t in tensors if t.is_leaf and t.grad is not None]
    storages = {s.data_ptr(): s.nbytes() for s in (t.untyped_storage() for t in tensors)}
    return sum(storages.values())


def peaks(profiler: Any, between: int) -> dict[str, int]:
    """Bytes held when the second step begins (``between``), the most held in its passes and in its optimizer step."""
    events = profiler.profiler.kineto_results.events()
    spans = {
        e.name(): (e.start_ns(), e.start_ns() + e.duration_ns())
        for e in events
        if e.name()[:5] in ("passe", "step-")
    }
    found = {"before": 0, "passes": 0, "step": 0}
    held = 0
    for event in sorted((e for e in events if e.name() == "[memory]"), key=lambda e: e.start_ns()):
        held += event.nbytes()
        at = event.start_ns()
        if at < spans["passes-1"][0]:
            found["before"] = held
        for name in ("passes", "step"):
            if spans[f"{name}-1"][0] <= at <= spans[f"{name}-1"][1]:
                found[name] = max(found[name], held)
    return {name: most - found["before"] + between for name, most in found.items()}


if __name__ == "__main__":
    main()
