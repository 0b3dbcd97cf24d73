"""Training steps of a slice of ChatGLM-6B and GLM-10B, through the train stage's own Trainer and DeepSpeed: real
tokens a second, MFU, the most memory against what ``plan`` says, launches and waits a step. Without saves.

Six (four) layers at the models' full width and vocabulary; float16, ZeRO-2 on one GPU, rows of 1024 packed from
examples of 140 tokens. MFU is PaLM's, of real tokens: see ``benchmarks/train_throughput.py``.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.gpu import Findings, Missing, Place

MEMORY_MOST = 1.10  # of plan's figure: what its formulas promise
SECONDS = 75  # of one setting
LENGTH = 1024
STEPS, WARM = 24, 6
#: family, layers, rows, and what is done: "kept", "recomputed" (activation checkpointing), "compiled" (kept, too)
SETTINGS = (
    ("chatglm", 6, 2, "kept"), ("chatglm", 6, 2, "recomputed"), ("chatglm", 6, 4, "kept"),
    ("chatglm", 6, 4, "compiled"), ("chatglm", 6, 8, "kept"), ("glm", 4, 4, "recomputed"),
)  # fmt: skip
SHORT = (("chatglm", 1, 1, "kept"), ("glm", 1, 1, "recomputed"))


def run(place: Place) -> Findings:
    """Each setting in a process of its own, so that memory is its alone."""
    if importlib.util.find_spec("deepspeed") is None:
        raise Missing("deepspeed is not installed")
    found = Findings()
    for family, layers, rows, how in SHORT if place.short else SETTINGS:
        name = f"{family} {layers} layers, {how}, {rows} rows"
        command = [
            sys.executable,
            "-m",
            "benchmarks.gpu.steps",
            family,
            str(layers),
            str(rows),
            how,
        ]
        command += [place.device, *(["short"] if place.short else [])]
        try:
            done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", timeout=SECONDS)
        except subprocess.TimeoutExpired:
            found.missed.append(f"{name}: not done in {SECONDS} s")
            continue
        sys.stderr.write(done.stderr[-3000:])
        if done.returncode:
            found.missed.append(
                f"{name}: exit code {done.returncode}: {(done.stderr.strip().splitlines() or [''])[-1]}"
            )
            continue
        figures = json.loads(done.stdout.strip().splitlines()[-1])
        found.figures[name] = figures
        if place.device == "cuda":
            found.bound(
                f"{name}: memory against plan", figures["peak_bytes"] / figures["plan_bytes"], MEMORY_MOST
            )
        if not figures["loss"] < 20:  # ln(130528) is 11.8
            found.missed.append(f"{name}: loss {figures['loss']}")
    return found


def one(family: str, layers: int, rows: int, how: str, device: str, short: bool) -> dict[str, Any]:
    """Figures of one setting, in this process."""
    import torch

    from benchmarks.train_throughput import belle_like, mfu
    from glmjobs.data.packing import plan_epoch
    from glmjobs.models.common.compiled import compile_parts
    from hpc.health.gpu_peaks import peak_tflops

    cuda, recomputed = device == "cuda", how == "recomputed"
    config, model = make_model(family, layers, short)
    if how == "compiled":
        compile_parts(model)
    data = belle_like((200 if cuda else 16) * rows, ids_of(config))
    plan = plan_epoch(data.lengths, LENGTH, seed=0)
    with tempfile.TemporaryDirectory() as folder:
        trainer = make_trainer(model, data, plan, recomputed, rows, Path(folder), cuda)
        clock = Clock(data, plan, rows, cuda)
        trainer.add_callback(clock.callback())
        if cuda:
            torch.cuda.reset_peak_memory_stats()
        result = trainer.train()
    peak = peak_tflops(torch.cuda.get_device_name()) if cuda else None
    tokens_per_s = clock.tokens / clock.seconds
    return {
        "loss": result.training_loss,
        "skipped_steps": int(getattr(trainer.model_wrapped, "skipped_steps", 0)),
        "tokens_per_s": tokens_per_s,
        "ms_a_step": 1e3 * clock.seconds / clock.steps,
        "mfu": mfu(model, data, tokens_per_s, peak) if peak else None,
        "peak_bytes": torch.cuda.max_memory_allocated() if cuda else None,
        "plan_bytes": planned_bytes(family, config, recomputed, rows),
        **clock.counted,
    }


def make_model(family: str, layers: int, short: bool) -> tuple[Any, Any]:
    """A configuration of the family at full width, and its model with seeded random weights in float16."""
    import torch

    from glmjobs.models.family import families

    torch.manual_seed(0)
    kind = families()[family]
    assert kind.published is not None
    sizes = {**kind.published[1], "num_layers": layers}
    if short:
        sizes.update(hidden_size=64, num_attention_heads=2, vocab_size=1200, inner_hidden_size=256)
    model_class = kind.model_class()
    special = sizes["vocab_size"] - 8  # random tokens stay below the special ones
    ids = {
        "bos_token_id": special,
        "eos_token_id": special + 1,
        "pad_token_id": 3,
        "mask_token_ids": [special + 2],
    }
    config = model_class.config_class(**sizes, **ids, mask_token_id=special + 2, gmask_token_id=special + 2)
    with torch.device("cuda" if torch.cuda.is_available() and not short else "cpu"):
        model = model_class(config)
    return config, model.half() if torch.cuda.is_available() and not short else model


def ids_of(config: Any) -> Any:
    """What :func:`benchmarks.train_throughput.belle_like` needs of a configuration."""
    from types import SimpleNamespace

    names = ("vocab_size", "bos_token_id", "eos_token_id")
    return SimpleNamespace(**{n: getattr(config, n) for n in names}, gmask_token_id=config.mask_token_ids[0])


def make_trainer(
    model: Any, data: Any, plan: Any, recomputed: bool, rows: int, folder: Path, cuda: bool
) -> Any:
    """The train stage's Trainer, which saves nothing here."""
    from glmjobs.data.collate import PackedCollator, PackedDataset
    from glmjobs.recipe.schema import TrainSection
    from glmjobs.training.arguments import training_arguments
    from glmjobs.training.health import Health
    from glmjobs.training.session import prepare_libraries
    from glmjobs.training.trainer import GLMTrainer
    from hpc.runtime.heartbeat import Heartbeat
    from hpc.runtime.rendezvous import free_port

    os.environ.update(
        RANK="0", LOCAL_RANK="0", WORLD_SIZE="1", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(free_port())
    )
    settings = TrainSection(
        precision="fp16" if cuda else "fp32", zero_stage=2, learning_rate=1e-5, activation_checkpointing=recomputed,
        logging_steps=STEPS, warmup_ratio=0.0, scheduler="constant",
    )  # fmt: skip

    prepare_libraries(settings, cuda=cuda)

    class Unsaved(GLMTrainer):
        """Of the train stage's Trainer all but what makes files."""

        def _save_checkpoint(self, model: Any, trial: Any) -> None:
            pass

    return Unsaved(
        model=model, args=training_arguments(settings, folder, STEPS if cuda else 3, rows, cuda=cuda),
        train_dataset=PackedDataset(data, plan), data_collator=PackedCollator(LENGTH, 3), saver=None,
        heartbeat=Heartbeat(folder / "heartbeat", 0, 1, 600.0, None), health=Health(settings.precision, 1e-5),
    )  # fmt: skip


class Clock:
    """Real tokens and seconds of the steps after the first few, and what one step asks of the device.

    Attributes:
        counted: kernels launched, and times that the host waits for the device, in one step (on a GPU).
    """

    def __init__(self, data: Any, plan: Any, rows: int, cuda: bool) -> None:
        self.per_step = [
            sum(int(data.lengths[i]) for row in range(at, min(at + rows, len(plan))) for i in plan.row(row))
            for at in range(0, len(plan), rows)
        ]
        self.cuda = cuda
        self.tokens = self.steps = 0
        self.seconds = 0.0
        self.counted: dict[str, int | None] = {"launches_a_step": None, "waits_a_step": None}
        self.profile: Any = None
        self.since = 0.0

    def callback(self) -> Any:
        """For the Trainer: times the steps between warming up and the profiled last one."""
        import torch
        from transformers import TrainerCallback

        clock, first, last = self, *((WARM, STEPS - 2) if self.cuda else (1, 3))

        class Timed(TrainerCallback):  # type: ignore[misc]
            def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
                step = state.global_step
                if step not in (first, last, STEPS - 1):
                    return
                if clock.cuda:
                    torch.cuda.synchronize()
                if step == first:
                    clock.since = time.perf_counter()
                elif step == last:
                    clock.seconds, clock.steps = time.perf_counter() - clock.since, last - first
                    clock.tokens = sum(clock.per_step[first:last])
                    if clock.cuda:
                        clock.profile = torch.profiler.profile()
                        clock.profile.start()
                else:
                    clock.profile.stop()
                    clock.counted = count(clock.profile)

        return Timed()


def count(profile: Any) -> dict[str, int | None]:
    """Kernels launched and waits for the device, of what was profiled."""
    calls = {event.key: event.count for event in profile.key_averages()}
    launches = sum(n for key, n in calls.items() if key.startswith(("cudaLaunchKernel", "cuLaunchKernel")))
    waits = sum(n for key, n in calls.items() if key in ("cudaStreamSynchronize", "cudaEventSynchronize"))
    return {"launches_a_step": launches, "waits_a_step": waits}


def planned_bytes(family: str, config: Any, recomputed: bool, rows: int) -> int:
    """What ``plan`` says of a GPU's memory."""
    from glmjobs.models.family import families
    from glmjobs.planning.memory import Setting, memory

    positions = rows * LENGTH
    setting = Setting(
        precision="fp16",
        stage=2,
        world_size=1,
        positions=positions,
        targets=positions // 2,
        checkpointing=recomputed,
    )
    return memory(families()[family].architecture(config.to_dict()), setting)["total"]


if __name__ == "__main__":
    given = sys.argv[1:]
    print(json.dumps(one(given[0], int(given[1]), int(given[2]), given[3], given[4], given[5:] == ["short"])))
