"""train.freeze by the same words for every family: what is frozen, how many parameters that is, and what is refused."""

from __future__ import annotations

import pytest
import torch

from glmjobs.models.family import family_for
from glmjobs.models.frozen import frozen
from glmjobs.recipe.loading import load
from glmjobs.training.freezing import freeze
from hpc.core.errors import BadInput
from tests.support.paths import CONFIGS
from tests.support.small_families import PROMPTS, small_trained

FAMILIES = [name for name in (*PROMPTS, "glm4_0414") if not family_for(name).unavailable()]


def frozen_model(family: str, *items: str) -> tuple[torch.nn.Module, set[str], int]:
    """A small model with these frozen: it, the names, and how many parameters were said to be."""
    model = small_trained(family)
    architecture = family_for(family).architecture(model.config.to_dict())
    what = frozen(items, architecture)
    freeze(model, what, architecture.layers)
    names = {name for name, p in model.named_parameters() if not p.requires_grad}
    return model, names, what.parameters


def count(model: torch.nn.Module, names: set[str]) -> int:
    return sum(p.numel() for name, p in model.named_parameters() if name in names)


@pytest.mark.parametrize("family", FAMILIES)
def test_embeddings_and_layers(family: str) -> None:
    model, names, said = frozen_model(family, "embeddings", "layers.0")
    kept = {name for name, _ in model.named_parameters()} - names
    assert any(".0." in name for name in names) and not any(".0." in name for name in kept)
    assert any(".1." in name for name in kept) and not any(".1." in name for name in names)
    assert not [name for name in kept if "embed" in name.rsplit(".", 2)[0].rsplit(".", 1)[-1]]
    assert count(model, names) == said
    ids = torch.tensor([[*PROMPTS.get(family, [5, 6, 7, 8]), 9, 10]])
    output = model(input_ids=ids, labels=ids, segment_ids=torch.ones_like(ids))
    output.loss.backward()
    assert {name for name, p in model.named_parameters() if p.grad is not None} == kept


@pytest.mark.parametrize("family", FAMILIES)
def test_a_map_of_every_block(family: str) -> None:
    name = family_for(family).lora_targets[-1]
    model, names, said = frozen_model(family, name)
    assert {n.rpartition(f".{name}.")[1] for n in names} == {f".{name}."}
    weights = {n for n in names if n.endswith(".weight")}
    assert len(weights) == 2 and count(model, weights) == said


def test_the_output_matrix() -> None:
    model, names, said = frozen_model("glm4", "output")
    assert count(model, names) == said and model.get_output_embeddings().weight.requires_grad is False
    assert model.get_input_embeddings().weight.requires_grad
    with pytest.raises(BadInput, match=r"output: this model's output matrix is its embedding: embeddings"):
        frozen_model("chatglm", "output")


@pytest.mark.parametrize(
    ("item", "said"),
    [
        ("layers.2", "the model's layers are 0-1"), ("layers.1-0", "the model's layers are 0-1"),
        ("layer.0", "this model has embeddings, layers.0-1, query_key_value"), ("", "this model has embeddings"),
        ("layers.0-", "this model has"),
    ],
)  # fmt: skip
def test_what_is_none_of_the_model(item: str, said: str) -> None:
    with pytest.raises(BadInput, match=f"train.freeze: {item}: {said}") as refused:
        frozen_model("chatglm", item)
    assert "\n" not in str(refused.value)


def test_what_leaves_nothing_and_what_is_frozen_already() -> None:
    with pytest.raises(BadInput, match="nothing is left"):
        frozen_model("chatglm", "embeddings", "layers.0-1")
    with pytest.raises(BadInput, match=r"train.freeze: with train.method = lora"):
        load(CONFIGS / "tiny.yaml", ["train.freeze=embeddings", "train.method=lora"])
    assert load(CONFIGS / "tiny.yaml", ["train.freeze=embeddings"]).train.freeze == ("embeddings",)


def test_idle_blocks_are_the_first_with_the_embeddings() -> None:
    a = family_for("chatglm").architecture({"vocab_size": 100, "hidden_size": 64, "num_layers": 6})
    assert frozen(["embeddings", "layers.0-2", "layers.4"], a).idle == 3
    assert frozen(["layers.0-2"], a).idle == 0
    assert frozen(["embeddings", "layers.1-3"], a).idle == 0
    assert frozen(["layers.0-5"], a).parameters == 6 * a.block
