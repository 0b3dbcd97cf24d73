"""What a training takes of memory and disk: of a GPU by part, of its node, of a checkpoint. Counted from shapes; no
torch.

Bytes throughout. The formulas are checked against what torch allocates in ``tests/unit/planning/test_memory.py``.
"""

from __future__ import annotations

from dataclasses import dataclass

from glmjobs.models.architecture import Architecture
from glmjobs.models.frozen import Frozen

ADAM_BYTES = 12
"""Float32 weight and two moments of each trained parameter (ZeRO, Rajbhandari et al. 2020, section 3.1)."""

LOSS_CHUNK = 2**28
"""Float32 logits held at a time, :data:`glmjobs.models.common.loss.CHUNK_BYTES`."""

FILE_BYTES = 2
"""Of a weight in the files of the published models: float16 or bfloat16."""

BYTES = {"fp32": 4, "fp16": 2, "bf16": 2}


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What of a recipe decides the memory of a GPU.

    Attributes:
        trained: parameters of adapters, which are trained instead of the model's; None: there are none.
        frozen: the model's own weights that are not trained, where the others are; None: all are.
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
    frozen: Frozen | None = None
    reduce_bucket: int = 500_000_000
    live: int = 1_000_000_000
    sub_group: int = 1_000_000_000
    accumulates: bool = False
    fused: bool = True

    def trains(self, architecture: Architecture) -> int:
        """Parameters that are trained."""
        if self.trained is not None:
            return self.trained
        return architecture.parameters - (self.frozen.parameters if self.frozen else 0)

    @property
    def trains_output(self) -> bool:
        """Whether the output matrix is trained."""
        return self.trained is None and not (self.frozen and self.frozen.output)


def loss_bytes(architecture: Architecture, setting: Setting) -> int:
    """What :mod:`glmjobs.models.common.loss` holds at once: a chunk's logits twice, and the output matrix' gradient."""
    a, s = architecture, setting
    width, chunk = BYTES[s.precision], min(LOSS_CHUNK, s.targets * a.vocabulary * 4)
    several = (
        s.targets * a.vocabulary * 4 > LOSS_CHUNK
    )  # then the chunk before is still there, in its own type
    logits = 2 * chunk + (chunk * width // 4 if several else 0)
    if not s.trains_output:
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
    trained, layers = s.trains(a), a.layers - (s.frozen.idle if s.frozen else 0)
    share = -(-trained // s.world_size)
    unit = s.positions * a.hidden * width
    block = round(unit * a.kept) + (2 * s.positions * a.hidden if a.dropout else 0)  # masks: a byte each
    kept = layers * (unit if s.checkpointing else block)
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
    waiting = width * a.embedding if s.trains_output and a.tied else 0
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


def host_memory(architecture: Architecture, setting: Setting, ranks_per_node: int, *, mapped: bool) -> int:
    """Bytes of a node's memory, the libraries' own aside: weights while they load, what offload keeps there, and in a
    save each rank's largest part, which goes through the host.

    Args:
        mapped: the weights are safetensors, of which all ranks map one copy; else each reads its own.
    """
    a, s = architecture, setting
    files = a.parameters * FILE_BYTES * (1 if mapped or s.stage == 3 else ranks_per_node)
    share = -(-s.trains(a) // s.world_size)
    kept = share * (ADAM_BYTES + 4 + BYTES[s.precision]) if s.offload else 4 * share
    return max(files, ranks_per_node * kept)


def checkpoint_bytes(architecture: Architecture, setting: Setting) -> int:
    """A committed checkpoint of all ranks: the optimizer's states, and below ZeRO-3 the weights in DeepSpeed's own
    file; of a LoRA also its adapter. What ``train.freeze`` names is in that file, and under ZeRO-2 once more among what
    its optimizer does not have (engine.py, ``_get_param_fragment_func``: a copy, but on a CPU). Of a LoRA's frozen
    weights only a tied embedding is saved: DeepSpeed leaves out what is frozen by its first name, and it has two."""
    a, s = architecture, setting
    trained = s.trains(a)
    weights = 0 if s.stage == 3 else trained * BYTES[s.precision]
    if s.frozen is not None:
        weights += s.frozen.parameters * BYTES[s.precision] * (2 if s.stage == 2 else 1)
    adapter = 0 if s.trained is None else trained * BYTES[s.precision]
    frozen = a.embedding * BYTES[s.precision] if s.trained is not None and s.stage < 3 and a.tied else 0
    return ADAM_BYTES * trained + weights + adapter + frozen
