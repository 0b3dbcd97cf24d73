"""Make real DeepSpeed checkpoints of a small model on CPU, with DeepSpeed's own consolidation beside each.

The tests of glmjobs.zero run it in the project's environment. To repeat the matrix over older releases, run
it in any environment that has torch and DeepSpeed, then let the tests read what it made::

    OLD/bin/python tests/support/make_checkpoints.py OUT --world 2 --cases z1-fp32,z2-fp32 [--emulate]
    GLMJOBS_CHECKPOINTS=OUT .venv/bin/python -m pytest tests/unit/zero/test_real_checkpoints.py

Each case becomes OUT/NAME-wWORLD/ with what ``engine.save_checkpoint`` writes, ``reference.npz`` (DeepSpeed's
float32 state dict), ``module.npz`` (the training state itself, gathered from the live model) and
``case.json``. A case is ``zSTAGE-DTYPE[-plain|-frozen|-adapter|-rr]``: the model has tied weights, buffers, two
parameter groups, odd sizes (so that every world size needs padding) and, with -frozen, frozen parameters, which
-adapter leaves out of the checkpoint, as the Trainer does with LoRA; -rr turns DeepSpeed's round-robin gradients on.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

DTYPES = ("fp32", "bf16", "fp16")


def build(torch, frozen: bool, plain: bool):
    """A model whose parameter counts divide by nothing convenient."""

    class Tied(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = torch.nn.Embedding(37, 11)
            self.blocks = torch.nn.ModuleList(
                [
                    torch.nn.Sequential(
                        torch.nn.LayerNorm(11), torch.nn.Linear(11, 13), torch.nn.Linear(13, 11)
                    )
                    for _ in range(3)
                ]
            )
            self.scale = torch.nn.Parameter(torch.ones(1))
            self.head = torch.nn.Linear(11, 37, bias=False)
            if not plain:
                self.head.weight = self.embed.weight
            self.register_buffer("inv_freq", torch.linspace(0.1, 1.0, 5))
            self.register_buffer("steps", torch.arange(7))
            self.register_buffer("scratch", torch.zeros(3), persistent=False)

        def forward(self, ids):
            hidden = self.embed(ids)
            for block in self.blocks:
                hidden = hidden + block(hidden)
            return self.head(hidden * self.scale)

    torch.manual_seed(1)
    model = Tied()
    if frozen:
        for parameter in model.blocks[1].parameters():
            parameter.requires_grad_(False)
    return model


def config(stage: int, dtype: str, round_robin: bool) -> dict:
    zero = {
        "stage": stage,
        "round_robin_gradients": round_robin,
        "reduce_bucket_size": 1000,
        "allgather_bucket_size": 1000,
        "overlap_comm": False,
        "contiguous_gradients": True,
    }
    if stage == 3:
        zero.update(
            stage3_param_persistence_threshold=20, sub_group_size=300, stage3_prefetch_bucket_size=100
        )
    return {
        "train_micro_batch_size_per_gpu": 2,
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "bf16": {"enabled": dtype == "bf16"},
        "fp16": {"enabled": dtype == "fp16", "initial_scale_power": 4},
    }


def emulate_collectives(torch) -> None:
    """gloo of torch 2.0.1 lacks two collectives; express them through those it has."""
    import torch.distributed as dist

    class Done:
        def wait(self):
            return True

        def is_completed(self):
            return True

    def gather(output_tensor, input_tensor, group=None, async_op=False):
        parts = [torch.empty_like(input_tensor) for _ in range(dist.get_world_size(group))]
        dist.all_gather(parts, input_tensor, group=group)
        output_tensor.view(-1).copy_(torch.cat([part.reshape(-1) for part in parts]))
        return Done() if async_op else None

    def scatter(output, input, op=dist.ReduceOp.SUM, group=None, async_op=False):
        whole = input.clone()
        dist.all_reduce(whole, op=op, group=group)
        rank, size = dist.get_rank(group), output.numel()
        output.view(-1).copy_(whole.reshape(-1)[rank * size : (rank + 1) * size])
        return Done() if async_op else None

    for name, function in {
        "all_gather_into_tensor": gather,
        "_all_gather_base": gather,
        "reduce_scatter_tensor": scatter,
        "_reduce_scatter_base": scatter,
    }.items():
        setattr(dist, name, function)
    load = torch.load  # torch 2.0 has no mmap=, which zero_to_fp32 of DeepSpeed 0.16 asks for
    torch.load = lambda *args, mmap=None, **options: load(*args, **options)
    torch.Tensor.record_stream = lambda self, stream: None  # CPU tensors of torch 2.0 have none


def make(torch, deepspeed, out: Path, case: str, world: int, rank: int) -> None:
    stage, dtype, *flags = case.split("-")
    stage = int(stage[1:])
    adapter = "adapter" in flags
    model = build(torch, adapter or "frozen" in flags, "plain" in flags)
    trainable = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    groups = [
        {"params": [p for n, p in trainable if p.dim() > 1], "weight_decay": 0.1},
        {"params": [p for n, p in trainable if p.dim() <= 1], "weight_decay": 0.0},
    ]
    engine, *_ = deepspeed.initialize(
        model=model, optimizer=torch.optim.AdamW(groups, lr=1e-2), config=config(stage, dtype, "rr" in flags)
    )
    generator = torch.Generator().manual_seed(rank)
    for _ in range(2):
        ids = torch.randint(0, 37, (2, 5), generator=generator)
        loss = torch.nn.functional.cross_entropy(engine(ids).float().view(-1, 37), ids.view(-1))
        engine.backward(loss)
        engine.step()
    folder = out / f"{case}-w{world}"
    left_out = {"exclude_frozen_parameters": True} if adapter else {}  # older releases know no such argument
    engine.save_checkpoint(str(folder), client_state={"note": "made for tests"}, **left_out)
    if rank == 0:
        refer(torch, deepspeed, folder, case, world, left_out)
    if hasattr(engine, "destroy"):
        engine.destroy()


def refer(torch, deepspeed, folder: Path, case: str, world: int, left_out: dict) -> None:
    """DeepSpeed's own answer, and which versions gave it."""
    import numpy as np
    from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

    (folder / "case.json").write_text(
        json.dumps(
            {"case": case, "world": world, "deepspeed": deepspeed.__version__, "torch": torch.__version__}
        )
    )
    state = get_fp32_state_dict_from_zero_checkpoint(str(folder), **left_out)
    np.savez(
        folder / "reference.npz",
        **{name: (t.float() if t.is_floating_point() else t).detach().numpy() for name, t in state.items()},
    )


def give_streams(accelerator) -> None:
    """Releases up to 0.9 ask a CPU, too, for events and streams, and get None to call."""
    from contextlib import nullcontext

    class Nothing:
        def __init__(self, *_, **__): ...

        def __getattr__(self, _):
            return lambda *_, **__: None

    if accelerator.Event is None:
        type(accelerator).Event = Nothing
    if accelerator.Stream is None:
        type(accelerator).Stream = Nothing
        type(accelerator).stream = lambda self, _: nullcontext()
        type(accelerator).current_stream = type(accelerator).default_stream = lambda self, *_: Nothing()


def worker(args: argparse.Namespace) -> None:
    import torch

    torch.set_num_threads(1)
    if args.emulate:
        emulate_collectives(torch)
        for name, value in {"device_count": lambda: 1, "set_device": lambda d: None}.items():
            if hasattr(torch, "cpu") and not hasattr(torch.cpu, name):
                setattr(torch.cpu, name, value)
    import deepspeed

    # Its shared-memory collective is compiled on first use (half a minute) and not needed here.
    deepspeed.comm.torch.build_shm_op = lambda: None
    accelerator = deepspeed.accelerator.get_accelerator()
    accelerator.is_fp16_supported = lambda: True  # slow on a CPU without fp16 units, but it computes
    give_streams(accelerator)
    accelerator.communication_backend_name = lambda: "gloo"  # up to 0.12 a CPU meant oneCCL
    deepspeed.init_distributed("gloo")
    rank = int(os.environ["RANK"])
    for case in args.cases.split(","):
        make(torch, deepspeed, args.out, case, args.world, rank)
        torch.distributed.barrier()
    os._exit(0)  # an engine's destructor may wait for collectives of the other ranks


def launch(args: argparse.Namespace) -> int:
    """Start one process a rank, wait for all; the first failure ends the others."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    ranks = []
    for rank in range(args.world):
        env = dict(
            os.environ,
            RANK=str(rank),
            LOCAL_RANK=str(rank),
            WORLD_SIZE=str(args.world),
            MASTER_ADDR="127.0.0.1",
            MASTER_PORT=str(port),
            DS_ACCELERATOR="cpu",
            OMP_NUM_THREADS="1",
            LOCAL_SIZE=str(args.world),
        )
        ranks.append(subprocess.Popen([sys.executable, __file__, *sys.argv[1:]], env=env))
    codes = []
    try:
        codes = [process.wait(timeout=300) for process in ranks]
    finally:
        for process in ranks:
            if process.poll() is None:
                process.kill()
                process.wait()
    return max(map(abs, codes), default=1)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--world", type=int, default=2)
    parser.add_argument("--cases", default="z1-fp32,z2-fp32,z3-fp32")
    parser.add_argument(
        "--emulate", action="store_true", help="for torch 2.0.1 on CPU: collectives that its gloo lacks"
    )
    arguments = parser.parse_args()
    if "RANK" in os.environ:
        worker(arguments)
    else:
        raise SystemExit(launch(arguments))
