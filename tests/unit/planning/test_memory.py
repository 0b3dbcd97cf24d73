"""Sizes that are counted against those of real models, and the plan's memory against what torch allocates."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from glmjobs.models.architecture import Architecture
from glmjobs.models.family import family_for
from glmjobs.models.frozen import frozen
from glmjobs.planning import memory
from glmjobs.planning.memory import Setting
from hpc.core.errors import BadInput
from tests.support import measure_memory as measured
from tests.support.two_ranks import two_ranks


@pytest.mark.parametrize("family", measured.SIZES)
def test_parameters_are_those_of_the_model(family: str) -> None:
    """All of them, and LoRA's on all maps of a block and on one."""
    peft = pytest.importorskip("peft")
    a, model = family_for(family).architecture(measured.SIZES[family]), measured.make(family)
    assert a.parameters == sum(p.numel() for p in model.parameters())
    one = next(iter(a.maps))
    for targets, wanted in ((list(family_for(family).lora_targets), None), ([one], (one,))):
        adapted = peft.get_peft_model(measured.make(family), peft.LoraConfig(r=4, target_modules=targets))
        assert a.lora(4, wanted) == sum(p.numel() for p in adapted.parameters() if p.requires_grad)
    with pytest.raises(BadInput, match="no linear map 'lm_head'"):
        a.lora(4, ("lm_head",))


def published(family: str) -> Architecture:
    """The sizes of the family's published model."""
    known = family_for(family).published
    assert known is not None
    return family_for(family).architecture(known[1])


def test_published_sizes() -> None:
    """ChatGLM-6B with its embedding tied, GLM-10B-chinese, GLM-4-9B, ChatGLM2-6B and ChatGLM3-6B."""
    assert published("chatglm").parameters == 6_173_286_400
    assert published("glm").parameters == 9_879_633_920
    assert published("glm4").parameters == 9_399_951_360
    assert published("glm4_0414").parameters == 9_400_279_040
    assert published("chatglm2").parameters == published("chatglm3").parameters == 6_243_584_000


def test_static_parts_of_chatglm_and_glm10b() -> None:
    """Weights, gradients and Adam's states of one GPU of 8 and of 16, GB: 2 + (2 + 12) / n and 16 / n bytes each."""
    static = {("chatglm", 2, 8): 23.1, ("chatglm", 3, 8): 12.3, ("glm", 2, 8): 37.1, ("glm", 3, 8): 19.8}
    static |= {("chatglm", 2, 16): 17.7, ("chatglm", 3, 16): 6.2, ("glm", 2, 16): 28.4, ("glm", 3, 16): 9.9}
    for (family, stage, ranks), gigabytes in static.items():
        a = published(family)
        setting = Setting(
            precision="fp16",
            stage=stage,
            world_size=ranks,
            positions=1,
            targets=1,
            checkpointing=True,
            live=0,
        )
        parts = memory.moments(a, setting)["first block"]
        found = parts["parameters"] + parts["gradients"] + parts["optimizer"]
        assert found / 1e9 == pytest.approx(gigabytes, abs=0.06)


def run_ranks(folder: Path, *words: str) -> dict[str, int]:
    """Two ranks of tests/support/measure_memory.py; what rank 0 counted."""
    first, _ = two_ranks(measured.__file__, *words, str(folder / "checkpoint"), cwd=folder, seconds=400)
    assert first.code == 0, first.err
    return json.loads(next(line for line in first.out.splitlines() if line.startswith("{")))  # type: ignore[no-any-return]


CASES = [
    ("chatglm", "bf16", 2, "none", "full"),
    ("chatglm", "fp32", 2, "checkpointing", "full"),
    ("chatglm", "bf16", 1, "none", "full"),
    ("chatglm", "bf16", 3, "checkpointing", "full"),
    ("chatglm", "bf16", 2, "checkpointing", "lora"),
    ("glm", "bf16", 2, "checkpointing", "full"),
    ("glm", "bf16", 3, "none", "full"),
    ("glm4", "bf16", 2, "none", "full"),
    ("glm4", "bf16", 2, "checkpointing", "lora"),
    ("glm4_0414", "bf16", 2, "none", "full"),
    ("chatglm2", "bf16", 2, "none", "full"),
    ("chatglm2", "bf16", 3, "checkpointing", "full"),
    ("chatglm2", "bf16", 2, "checkpointing", "lora"),
    ("chatglm", "bf16", 2, "none", "freeze"),
    ("glm", "bf16", 1, "checkpointing", "freeze"),
    ("glm4", "bf16", 3, "none", "freeze"),
    ("chatglm2", "bf16", 2, "checkpointing", "freeze"),
]


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(c, marks=[pytest.mark.slow] if i else [], id="-".join(map(str, c)))
        for i, c in enumerate(CASES)
    ],
)
def test_memory_is_within_a_tenth_of_what_torch_allocates(
    case: tuple[str, str, int, str, str], tmp_path: Path
) -> None:
    """Two ranks under DeepSpeed on the CPU, every allocation counted: passes, optimizer's step and their peak."""
    pytest.importorskip("deepspeed")
    family, precision, stage, checkpointing, method = case
    a = family_for(family).architecture(measured.SIZES[family])
    setting = Setting(
        precision=precision, stage=stage, world_size=2, positions=measured.ROWS * measured.LENGTH,
        targets=measured.ROWS * measured.LENGTH // 2, checkpointing=checkpointing == "checkpointing", fused=False,
        trained=a.lora(measured.RANK_OF_LORA, None) if method == "lora" else None, reduce_bucket=measured.BUCKET,
        frozen=frozen(measured.FREEZE, a) if method == "freeze" else None,
    )  # fmt: skip
    found = run_ranks(tmp_path, family, precision, str(stage), checkpointing, method)
    moments = memory.moments(a, setting)
    passes = max(parts["total"] for name, parts in moments.items() if name != "step")
    assert passes == pytest.approx(found["passes"], rel=0.1)
    assert moments["step"]["total"] == pytest.approx(found["step"], rel=0.1)
    total = memory.memory(a, setting)["total"]
    assert total == pytest.approx(max(found["passes"], found["step"]), rel=0.1)
    # Of a LoRA the Trainer writes the adapter once more, in PEFT's form.
    adapter = (setting.trained or 0) * memory.BYTES[precision]
    if setting.frozen and stage == 2:  # on a CPU DeepSpeed's copy of what is frozen is the weight itself
        adapter = setting.frozen.parameters * memory.BYTES[precision]
    assert memory.checkpoint_bytes(a, setting) - adapter == pytest.approx(found["checkpoint"], rel=0.1)


def test_ranks_of_a_node_share_the_weights() -> None:
    """ChatGLM-6B, eight ranks: one model of 12.3 GB mapped, eight where each reads its own; with the optimizer on
    the host 18 bytes a parameter."""
    a = published("chatglm")
    common = {"precision": "fp16", "world_size": 8, "positions": 1, "targets": 1, "checkpointing": True}
    plain, offloaded = (Setting(**common, stage=2, offload=offload) for offload in (False, True))  # type: ignore[arg-type]
    found = [memory.host_memory(a, plain, 8, mapped=mapped) / 1e9 for mapped in (True, False)]
    assert found == [pytest.approx(24.7, abs=0.1), pytest.approx(98.8, abs=0.1)]
    assert memory.host_memory(a, offloaded, 8, mapped=True) == pytest.approx(18 * a.parameters, rel=0.01)
