"""On a GPU nothing is left on the CPU, and no step of training waits for the GPU (tests.support.pretended_device)."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")

from glmjobs.generation.decoder import Engine, generate  # noqa: E402
from glmjobs.models.common.attention_ways import set_way  # noqa: E402
from glmjobs.training.health import Health  # noqa: E402
from tests.support.pretended_device import Mixed, pretended_memory  # noqa: E402
from tests.support.small_families import PROMPTS, packed_batch, small, small_trained  # noqa: E402

FAMILIES = ("chatglm", "glm", "glm4", "chatglm2")


def test_mixing_and_waiting_show() -> None:
    with pretended_memory() as memory:
        here, there = torch.ones(3, device="cuda"), torch.ones(3)
        assert (here.device.type, there.device.type) == ("cuda", "cpu")
        with pytest.raises(Mixed, match="add: of tensors on the GPU, and on the CPU"):
            here + there
        with pytest.raises(Mixed):
            here * torch.zeros(3, dtype=torch.float32)
        assert memory.holds((here + there.to("cuda")) * torch.tensor(2.0)) and not memory.holds(there)
        assert not memory.waits
        there = there + here.cpu()
        for wait in (
            here.tolist,
            here.sum().item,
            here.nonzero,
            lambda: here[here > 0],
            lambda: bool(here[0]),
        ):
            before = len(memory.waits)
            wait()
            assert len(memory.waits) == before + 1, wait
        assert all("test_one_device.py" in line for line in memory.waits), memory.waits


def batch_on_gpu(family: str) -> dict[str, Any]:
    batch = packed_batch(family, [[17, 9, 30], [41, 11]], 60)
    batch["target_positions"] = (batch["labels"].reshape(-1) != -100).nonzero().squeeze(1)
    batch["num_items_in_batch"] = torch.tensor(len(batch["target_positions"]))
    return {k: v.to("cuda") if isinstance(v, torch.Tensor) else v for k, v in batch.items()}


@pytest.mark.parametrize("way", ["pieces", "whole", None])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_step_of_training_stays_on_the_gpu_and_never_waits(family: str, way: str | None) -> None:
    with pretended_memory() as memory:
        model = small_trained(family, std=0.08).to("cuda")
        set_way(model, way)
        batch = batch_on_gpu(family)
        for recomputed in (False, True):
            if recomputed:
                model.gradient_checkpointing_enable({"use_reentrant": False})
            for precision in ("fp32", "fp16"):
                health = Health(precision, 1e-5)
                memory.waits.clear()
                loss = model(**batch).loss
                loss.backward()
                health.note(loss, 1)
                total = health.counted(loss)
                assert memory.holds(loss) and memory.holds(total)
                assert all(memory.holds(p.grad) for p in model.parameters())
                assert not memory.waits, memory.waits
                model.zero_grad()


@pytest.mark.parametrize("family", FAMILIES)
def test_answers_are_made_on_the_gpu(family: str) -> None:
    """The host waits once a token, to read it; transformers' own masks (GLM-4's) ask the GPU whether they are full."""
    prompts = [PROMPTS[family], [*PROMPTS[family][:2], 17, *PROMPTS[family][2:]]]
    with pretended_memory() as memory:
        engine = Engine(small(family, std=0.08).to("cuda"), [], pad_id=0)
        waits = []
        for length in (4, 12):
            memory.waits.clear()
            answers = list(generate(engine, prompts, [length, length], 2))
            assert all(len(a.tokens) == length for a in answers)
            waits.append(sum("masking_utils.py" not in line for line in memory.waits))
        assert waits[1] - waits[0] == 8, memory.waits
