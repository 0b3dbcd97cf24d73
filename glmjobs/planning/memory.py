"""How large a training is: parameters, memory of a GPU by part, checkpoints. Counted from shapes; no torch.

Bytes throughout. The formulas are checked against what torch allocates in ``tests/unit/planning/test_memory.py``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from glmjobs.models.family import read_config
from hpc.core.errors import BadInput

ADAM_BYTES = 12
"""Float32 weight and two moments of each trained parameter (ZeRO, Rajbhandari et al. 2020, section 3.1)."""

LOSS_CHUNK = 2**28
"""Float32 logits held at a time, :data:`glmjobs.models.common.loss.CHUNK_BYTES`."""

BYTES = {"fp32": 4, "fp16": 2, "bf16": 2}

PUBLISHED: dict[str, tuple[str, dict[str, Any]]] = {
    "chatglm": ("ChatGLM-6B", {"vocab_size": 130528, "hidden_size": 4096, "num_layers": 28, "num_attention_heads": 32}),
    "glm": ("GLM-10B-chinese", {"vocab_size": 50048, "hidden_size": 4096, "num_layers": 48, "num_attention_heads": 64}),
    "glm4": (
        "GLM-4-9B",
        {
            "vocab_size": 151552, "hidden_size": 4096, "num_hidden_layers": 40, "intermediate_size": 13696,
            "num_attention_heads": 32, "num_key_value_heads": 2, "head_dim": 128, "tie_word_embeddings": False,
        },
    ),
}  # fmt: skip
"""The models whose sizes are known without their directory: name and the sizes in their config.json."""


@dataclass(frozen=True)
class Architecture:
    """The sizes of a model that decide what it costs.

    Attributes:
        hidden: width of the residual stream.
        inner: width of the MLP.
        queries, keys: widths of all heads together.
        tables: rows of learned position tables.
        gated: the MLP has a gate (two matrices in).
        biases: the linear maps have biases.
        tied: the output matrix is the embedding.
        dropout: activations are dropped in training.
    """

    family: str
    layers: int
    hidden: int
    inner: int
    vocabulary: int
    queries: int
    keys: int
    tables: int = 0
    gated: bool = False
    biases: bool = True
    tied: bool = True
    dropout: bool = False

    @classmethod
    def of(cls, family: str, config: Mapping[str, Any]) -> Architecture:
        """From the fields of a config.json.

        Raises:
            BadInput: a field is missing, or the family's sizes are not known here.
        """
        try:
            hidden, vocabulary = int(config["hidden_size"]), int(config["vocab_size"])
            layers = int(config.get("num_layers") or config["num_hidden_layers"])
            if family in ("chatglm", "glm"):
                inner = int(config.get("inner_hidden_size") or 4 * hidden)
                tables = 2 * (int(config.get("max_sequence_length") or 1024) + 1) if family == "glm" else 0
                drops = [float(config.get(f"{w}_dropout_prob", 0.1)) for w in ("attention", "output")]
                return cls(
                    family, layers, hidden, inner, vocabulary, hidden, hidden, tables,
                    tied=bool(config.get("tie_word_embeddings", True)),
                    dropout=family == "glm" and any(drops),
                )  # fmt: skip
            if family == "glm4":
                heads = int(config["num_attention_heads"])
                width = int(config.get("head_dim") or hidden // heads)
                return cls(
                    family, layers, hidden, int(config["intermediate_size"]), vocabulary, heads * width,
                    int(config["num_key_value_heads"]) * width, gated=True, biases=False,
                    tied=bool(config.get("tie_word_embeddings", False)),
                )  # fmt: skip
        except (KeyError, TypeError, ValueError) as error:
            raise BadInput(f"config.json: {error} is missing or no number; sizes cannot be told") from None
        raise BadInput(f"model.family = {family}: its sizes are not known; known are chatglm, glm and glm4")

    @classmethod
    def read(cls, directory: Path, family: str) -> Architecture:
        """From a model directory.

        Raises:
            BadInput: its config.json is missing or not of the family.
        """
        return cls.of(family, read_config(directory))

    @property
    def embedding(self) -> int:
        """Parameters of the embedding."""
        return self.vocabulary * self.hidden

    @property
    def maps(self) -> dict[str, tuple[int, int]]:
        """The linear maps of a block: name to widths in and out."""
        attention: dict[str, tuple[int, int]]
        if self.family == "glm4":
            attention = {
                "q_proj": (self.hidden, self.queries), "k_proj": (self.hidden, self.keys),
                "v_proj": (self.hidden, self.keys), "o_proj": (self.queries, self.hidden),
            }  # fmt: skip
            return {
                **attention,
                "gate_up_proj": (self.hidden, 2 * self.inner),
                "down_proj": (self.inner, self.hidden),
            }
        return {
            "query_key_value": (self.hidden, 3 * self.hidden), "dense": (self.hidden, self.hidden),
            "dense_h_to_4h": (self.hidden, self.inner), "dense_4h_to_h": (self.inner, self.hidden),
        }  # fmt: skip

    @property
    def block(self) -> int:
        """Parameters of a block."""
        weights = sum(i * o for i, o in self.maps.values())
        if self.family == "glm4":  # biases of queries, keys and values; two norms without
            return weights + self.queries + 2 * self.keys + 2 * self.hidden
        return weights + sum(o for _, o in self.maps.values()) + 4 * self.hidden

    @property
    def parameters(self) -> int:
        """All parameters; a tied output matrix counts once."""
        norm = self.hidden if self.family == "glm4" else 2 * self.hidden
        output = 0 if self.tied else self.embedding
        return self.embedding + output + self.tables * self.hidden + self.layers * self.block + norm

    def lora(self, rank: int, targets: tuple[str, ...] | None) -> int:
        """Parameters of LoRA adapters on these maps of every block (None: all of them).

        Raises:
            BadInput: a target that a block has not.
        """
        maps = self.maps
        for name in targets or ():
            if name not in maps:
                raise BadInput(f"train.lora.targets: no linear map {name!r}; there are {', '.join(maps)}")
        return self.layers * sum(rank * sum(maps[name]) for name in targets or maps)

    def flops_per_token(self, attended: float, *, trained: bool = True) -> float:
        """Model FLOPs of a token, forward and backward: 6 N + 12 L H Q T (PaLM, Chowdhery et al. 2022, appendix B).

        With frozen weights (LoRA) no weight gradients are computed: 4 N.

        Args:
            attended: T, the length that a token attends over.
            trained: the weights are trained.
        """
        products = self.parameters - self.tables * self.hidden - (0 if self.tied else self.embedding)
        return (6 if trained else 4) * products + 12 * self.layers * self.queries * attended


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What of a recipe decides the memory of a GPU.

    Attributes:
        trained: parameters that are trained; None: all.
        positions: of a micro-batch on one GPU, padding included.
        targets: positions of them with a label.
        reduce_bucket: elements of DeepSpeed's gradient buckets together.
        live: elements of gathered parameters that ZeRO-3 may hold.
        sub_group: elements that ZeRO-3's optimizer steps at a time.
        accumulates: gradients of earlier micro-batches are held during a pass.
        fused: the optimizer's step makes no temporaries, as on GPUs.
    """

    precision: str
    stage: int
    world_size: int
    positions: int
    targets: int
    checkpointing: bool
    offload: bool = False
    trained: int | None = None
    reduce_bucket: int = 500_000_000
    live: int = 1_000_000_000
    sub_group: int = 1_000_000_000
    accumulates: bool = False
    fused: bool = True


def block_units(architecture: Architecture) -> float:
    """Numbers that a block keeps for its backward pass, for each position, in units of ``hidden``.

    Counted with torch's saved-tensor hooks on the models here: the inputs and outputs of norms, projections and
    attention, queries and keys once turned, the MLP's inner activations before and after its non-linearity.
    """
    a = architecture
    if a.family == "chatglm":
        return 12 + 2 * a.inner / a.hidden
    if a.family == "glm":
        return 10 + 2 * a.inner / a.hidden
    return 6 + 3 * (a.queries + a.keys) / a.hidden + 4 * a.inner / a.hidden


def loss_bytes(architecture: Architecture, setting: Setting) -> int:
    """What :mod:`glmjobs.models.common.loss` holds at once: a chunk's logits twice, and the output matrix' gradient."""
    a, s = architecture, setting
    width, chunk = BYTES[s.precision], min(LOSS_CHUNK, s.targets * a.vocabulary * 4)
    several = (
        s.targets * a.vocabulary * 4 > LOSS_CHUNK
    )  # then the chunk before is still there, in its own type
    logits = 2 * chunk + (chunk * width // 4 if several else 0)
    if s.trained is not None:
        return logits
    # The gradient is summed in float32; at the end stand beside it a chunk's part and the sum, in their own type.
    return max(logits + 4 * a.embedding, chunk * width // 4 + (4 + width) * a.embedding)


def moments(architecture: Architecture, setting: Setting) -> dict[str, dict[str, int]]:
    """Bytes on one GPU by part, at the four moments of a step of which one needs most.

    loss: all activations are held, no gradients yet. last block, first block: the backward pass begins and ends; the
    tied embedding's gradient waits for its second part. step: the optimizer makes float32 gradients of its own.
    """
    a, s = architecture, setting
    width = BYTES[s.precision]
    everything = a.parameters + (s.trained or 0)  # adapters come on top
    trained = a.parameters if s.trained is None else s.trained
    share = -(-trained // s.world_size)
    unit = s.positions * a.hidden * width
    block = round(unit * block_units(a)) + (
        2 * s.positions * a.hidden if a.dropout else 0
    )  # masks: a byte each
    kept = a.layers * (unit if s.checkpointing else block)
    ends = round(2.6 * unit)  # the embedding's output, the final norm, the targets' hidden states
    # The widest gradients that meet while a block is gone through backwards: before and after the MLP's non-linearity,
    # and what flows along the residual. Checkpointed, the block's own activations are made anew beside them.
    in_block = round(unit * (2 * a.inner / a.hidden + 3)) + (block if s.checkpointing else 0)
    alone = unit if s.checkpointing else block  # what the first block has kept
    fixed = {
        "parameters": width * (-(-everything // s.world_size) if s.stage == 3 else everything),
        "optimizer": 0 if s.offload else ADAM_BYTES * share,
    }
    gradients = 0 if s.offload else width * (trained if s.stage == 1 else share)
    early = gradients if s.stage == 3 or s.accumulates else 0  # ZeRO-3 has room for them all the time
    buckets = width * (min(s.reduce_bucket, trained) + (min(s.live, everything) if s.stage == 3 else 0))
    waiting = width * a.embedding if s.trained is None and a.tied else 0
    float32 = 4 * (min(share, s.sub_group) if s.stage == 3 else share)
    stepping = max(
        gradients + float32 + (width * share if width < 4 and s.stage < 3 else 0),
        (gradients if s.stage == 3 else 0) + float32 * (1 if s.fused else 3),  # unfused: two temporaries more
    )

    def at(gradients: int, activations: int, buckets: int) -> dict[str, int]:
        found = {**fixed, "gradients": gradients, "activations": activations, "buckets": buckets}
        return {**found, "total": sum(found.values())}

    return {
        "loss": at(early, kept + ends + loss_bytes(a, s), buckets),
        "last block": at(early, kept + ends + in_block, buckets + waiting),
        "first block": at(gradients, alone + unit + in_block, buckets + waiting),
        "step": at(0 if s.offload else stepping, 0, 0),
    }


def memory(architecture: Architecture, setting: Setting) -> dict[str, int]:
    """Bytes on one GPU by part at the moment that needs most: parameters, optimizer, gradients, activations, buckets,
    and their ``total``. What CUDA itself takes comes on top, see :mod:`glmjobs.plan`."""
    return max(moments(architecture, setting).values(), key=lambda parts: parts["total"])


def host_memory(architecture: Architecture, setting: Setting, ranks_per_node: int) -> int:
    """Bytes of a node's memory: each rank loads the weights; offloaded states and gradients stay there."""
    a, s = architecture, setting
    loading = a.parameters * BYTES[s.precision] // (s.world_size if s.stage == 3 else 1)
    share = (a.parameters if s.trained is None else s.trained) // s.world_size
    kept = share * (ADAM_BYTES + 4 + BYTES[s.precision]) if s.offload else 0
    return ranks_per_node * max(loading, kept)


def checkpoint_bytes(architecture: Architecture, setting: Setting) -> int:
    """A committed checkpoint of all ranks: the optimizer's states, and below ZeRO-3 the weights in DeepSpeed's and in
    the Trainer's own file. Of frozen weights only a tied embedding is saved: DeepSpeed leaves out what is frozen by its
    first name, and it has two."""
    a, s = architecture, setting
    trained = a.parameters if s.trained is None else s.trained
    weights = 0 if s.stage == 3 else 2 * trained * BYTES[s.precision]
    frozen = a.embedding * BYTES[s.precision] if s.trained is not None and s.stage < 3 and a.tied else 0
    return ADAM_BYTES * trained + weights + frozen
