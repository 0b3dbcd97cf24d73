"""Forward pass, loss and generation on a fake GPU: a tensor that is left on the CPU is an error, and so is reading a
value of the GPU's in a training step. (A torch for CUDA is needed for it, a GPU is not.)"""

from __future__ import annotations

from typing import Any
from unittest import mock

import pytest

pytest.importorskip("transformers")

import torch

from glmjobs.generation import decoder
from tests.support.pretended_gpus import fake_cuda
from tests.support.small_families import PROMPTS, packed_batch, small, small_trained

pytestmark = pytest.mark.skipif(torch.version.cuda is None, reason="this torch was built for CPUs alone")

FAMILIES = ("chatglm", "glm", "glm4")


def on_gpu(model: Any, dtype: torch.dtype) -> Any:
    """The model with fake weights and buffers there, as ``model.to`` would move them, tied ones once."""
    moved: dict[int, torch.Tensor] = {}

    def move(tensor: torch.Tensor) -> torch.Tensor:
        kind = dtype if tensor.is_floating_point() else tensor.dtype
        made = moved.get(id(tensor))
        if made is None:
            made = torch.empty(tensor.shape, dtype=kind, device="cuda:0")
            made = torch.nn.Parameter(made) if isinstance(tensor, torch.nn.Parameter) else made
            moved[id(tensor)] = made
        return made

    for module in model.modules():
        for tensors in (module._parameters, module._buffers):
            tensors.update({name: move(tensor) for name, tensor in tensors.items() if tensor is not None})
    return model


def test_a_tensor_on_the_cpu_is_an_error() -> None:
    with fake_cuda():
        with pytest.raises(RuntimeError, match="cuda"):
            torch.ones(3, device="cuda") + torch.ones(3)
        with pytest.raises(Exception, match=r"item|local_scalar_dense"):
            torch.ones(3, device="cuda").sum().item()


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_training_step_stays_on_the_gpu(family: str, dtype: torch.dtype, packed: bool) -> None:
    real = packed_batch(family, [[9, 12, 7], [20]], 32)
    if not packed:
        del real["segment_ids"], real["segment_sizes"]
    made = small_trained(family)
    with fake_cuda() as mode, torch.no_grad():
        batch = {
            name: mode.from_tensor(value).to("cuda:0") if isinstance(value, torch.Tensor) else value
            for name, value in real.items()
        }
        model = on_gpu(made, dtype)
        loss = model(**batch, num_items_in_batch=torch.tensor(30, device="cuda")).loss
        assert loss.device.type == "cuda"


@pytest.mark.parametrize("family", FAMILIES)
def test_generation_stays_on_the_gpu(family: str) -> None:
    def ones(tensor: torch.Tensor) -> object:
        """A token that ends no answer, for each row: values are read only here, to be looked at."""
        return [7] * tensor.shape[0] if tensor.dim() else 7

    made = small(family)
    with fake_cuda(), mock.patch.object(torch.Tensor, "tolist", ones):
        engine = decoder.Engine(on_gpu(made, torch.float16), [1])
        answers = list(decoder.generate(engine, [PROMPTS[family], [5, *PROMPTS[family]]], 3, 2))
    assert engine.device.type == "cuda"
    assert [answer.tokens for answer in answers] == [[7, 7, 7]] * 2
