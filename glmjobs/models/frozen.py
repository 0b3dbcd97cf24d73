"""What of a model is not trained (``train.freeze``), by words that hold for every family. No torch.

``embeddings``, ``output``, ``layers.0-15`` (from 0, both ends included) or ``layers.3``, and the names of a block's
linear maps, in every block.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from glmjobs.models.architecture import Architecture
from hpc.core.errors import BadInput

EMBEDDINGS, OUTPUT = "embeddings", "output"
LAYERS = re.compile(r"layers\.(\d{1,6})(?:-(\d{1,6}))?")


@dataclass(frozen=True, kw_only=True)
class Frozen:
    """The frozen part of a model.

    Attributes:
        embeddings: the token embeddings and learned position tables; of a tied model, so its output matrix.
        output: the output matrix.
        layers: whole blocks.
        maps: linear maps, in every block.
        parameters: how many all of that is; of the maps their matrices alone.
        idle: the first so many blocks, through which no gradient goes back, and which keep no activations for it.
        passes: what forward and backward pass compute, in forward passes: 3 where nothing is frozen, of which one is
            for the activations' gradients and one for the weights'.
    """

    embeddings: bool
    output: bool
    layers: frozenset[int]
    maps: frozenset[str]
    parameters: int
    idle: int
    passes: float


def frozen(items: Sequence[str], architecture: Architecture) -> Frozen:
    """What these words freeze of a model.

    Raises:
        BadInput: a word that names nothing of it.
    """
    a = architecture
    layers: set[int] = set()
    maps: set[str] = set()
    for item in items:
        if match := LAYERS.fullmatch(item):
            first, last = int(match[1]), int(match[2] or match[1])
            if not first <= last < a.layers:
                raise BadInput(f"train.freeze: {item}: the model's layers are 0-{a.layers - 1}")
            layers |= set(range(first, last + 1))
        elif item in a.maps:
            maps.add(item)
        elif item == OUTPUT and a.tied:
            raise BadInput(
                f"train.freeze: {OUTPUT}: this model's output matrix is its embedding: {EMBEDDINGS}"
            )
        elif item not in (EMBEDDINGS, OUTPUT):
            known = (
                f"{EMBEDDINGS}, {'' if a.tied else f'{OUTPUT}, '}layers.0-{a.layers - 1}, {', '.join(a.maps)}"
            )
            raise BadInput(f"train.freeze: {item}: this model has {known}")
    embeddings = EMBEDDINGS in items
    output = OUTPUT in items or (embeddings and a.tied)
    if embeddings and output and len(layers) == a.layers:
        raise BadInput("train.freeze: embeddings and all layers: nothing is left to be trained")
    parameters = len(layers) * a.block + (a.layers - len(layers)) * sum(
        i * o for name, (i, o) in a.maps.items() if name in maps
    )
    parameters += (a.embedding + a.tables * a.hidden) * embeddings + a.embedding * (OUTPUT in items)
    idle = next((n for n in range(a.layers + 1) if n not in layers), 0) if embeddings else 0
    return Frozen(
        embeddings=embeddings, output=output, layers=frozenset(layers), maps=frozenset(maps), parameters=parameters,
        idle=idle, passes=1 + (1 - idle / a.layers) + (1 - parameters / a.parameters),
    )  # fmt: skip
