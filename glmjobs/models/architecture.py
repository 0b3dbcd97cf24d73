"""The sizes of a model that decide what it costs, and how config.json tells them. No torch, no transformers.

Two shapes of block cover the families here: Megatron's (:func:`megatron`), in GLM's own words, and that of
transformers' usual decoders since Llama (:func:`llama`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hpc.core.errors import BadInput

Config = Mapping[str, Any]
"""The fields of a config.json."""


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """Sizes of a decoder, counted in numbers, not bytes.

    Attributes:
        hidden: width of the residual stream.
        inner: width of the MLP.
        vocabulary: rows of the embedding.
        queries: width of all query heads together.
        maps: the linear maps of a block: name to widths in and out.
        vectors: parameters of a block beside its maps' matrices: biases and norms.
        norm: parameters of the final norm.
        kept: numbers that a block keeps for its backward pass, for each position, in units of ``hidden``. Counted with
            torch's saved-tensor hooks: the inputs and outputs of norms, projections and attention, queries and keys
            once turned, the MLP's inner activations before and after its non-linearity.
        tables: rows of learned position tables.
        tied: the output matrix is the embedding.
        dropout: activations are dropped in training.
    """

    layers: int
    hidden: int
    inner: int
    vocabulary: int
    queries: int
    maps: Mapping[str, tuple[int, int]]
    vectors: int
    norm: int
    kept: float
    tables: int = 0
    tied: bool = True
    dropout: bool = False

    @property
    def embedding(self) -> int:
        """Parameters of the embedding."""
        return self.vocabulary * self.hidden

    @property
    def block(self) -> int:
        """Parameters of a block."""
        return sum(i * o for i, o in self.maps.values()) + self.vectors

    @property
    def parameters(self) -> int:
        """All parameters; a tied output matrix counts once."""
        output = 0 if self.tied else self.embedding
        return self.embedding + output + self.tables * self.hidden + self.layers * self.block + self.norm

    def lora(self, rank: int, targets: Sequence[str] | None) -> int:
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


def size(config: Config, *names: str, default: int | None = None) -> int:
    """The first of these fields that is there, or ``default``.

    Raises:
        BadInput: none of them is there, or it is no whole number above 0.
    """
    found = next((config[name] for name in names if config.get(name) is not None), default)
    if type(found) is not int or found < 1:
        said = "missing" if found is None else f"{found!r}, no whole number above 0"
        raise BadInput(f"config.json: {' or '.join(names)} is {said}; sizes cannot be told")
    return found


def megatron(config: Config, *, kept: int, tables: int = 0, dropout: bool = False) -> Architecture:
    """Megatron's block, as both first GLMs have it: one projection for queries, keys and values, an MLP of two maps,
    biases everywhere.

    Args:
        kept: see :class:`Architecture`, without the MLP's inner activations.
        tables, dropout: see :class:`Architecture`.

    Raises:
        BadInput: see :func:`size`.
    """
    hidden = size(config, "hidden_size")
    inner = size(config, "inner_hidden_size", "intermediate_size", default=4 * hidden)
    maps = {
        "query_key_value": (hidden, 3 * hidden), "dense": (hidden, hidden),
        "dense_h_to_4h": (hidden, inner), "dense_4h_to_h": (inner, hidden),
    }  # fmt: skip
    return Architecture(
        layers=size(config, "num_layers", "num_hidden_layers"), hidden=hidden, inner=inner,
        vocabulary=size(config, "vocab_size"), queries=hidden, maps=maps,
        vectors=sum(out for _, out in maps.values()) + 4 * hidden, norm=2 * hidden, kept=kept + 2 * inner / hidden,
        tables=tables, tied=bool(config.get("tie_word_embeddings", True)), dropout=dropout,
    )  # fmt: skip


def llama(config: Config, names: Sequence[str]) -> Architecture:
    """The block of transformers' usual decoders: grouped queries, a gated MLP, two norms without biases.

    Queries, keys and values have biases (as in Qwen2 and GLM-4) unless ``attention_bias`` says no.

    Args:
        names: the block's linear maps, as transformers calls them.

    Raises:
        BadInput: see :func:`size`; or a map of another name, so that the block is another one.
    """
    hidden, inner, heads = (
        size(config, f) for f in ("hidden_size", "intermediate_size", "num_attention_heads")
    )
    width = size(config, "head_dim", default=hidden // heads)
    queries, keys = heads * width, size(config, "num_key_value_heads", default=heads) * width
    widths = {
        "q_proj": (hidden, queries), "k_proj": (hidden, keys), "v_proj": (hidden, keys), "o_proj": (queries, hidden),
        "gate_proj": (hidden, inner), "up_proj": (hidden, inner), "gate_up_proj": (hidden, 2 * inner),
        "down_proj": (inner, hidden),
    }  # fmt: skip
    if odd := [name for name in names if name not in widths]:
        raise BadInput(
            f"lora_targets: {odd[0]} is no linear map of this block ({', '.join(widths)}); "
            "a family with another block has an architecture() of its own"
        )
    return Architecture(
        layers=size(config, "num_hidden_layers", "num_layers"), hidden=hidden, inner=inner,
        vocabulary=size(config, "vocab_size"), queries=queries, maps={name: widths[name] for name in names},
        vectors=(queries + 2 * keys if config.get("attention_bias", True) else 0) + 2 * hidden, norm=hidden,
        kept=6 + 3 * (queries + keys) / hidden + 4 * inner / hidden,
        tied=bool(config.get("tie_word_embeddings", False)),
    )  # fmt: skip
