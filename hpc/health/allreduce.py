"""All-reduce bandwidth: of the ranks of each node by themselves, then of all ranks. One process a rank.

    RANK=… WORLD_SIZE=… LOCAL_RANK=… MASTER_ADDR=… MASTER_PORT=… python -m hpc.health.allreduce --mb 256 --out FILE

NCCL where torch sees GPUs, else gloo. Rank 0 of each node writes ``{"backend": …, "node_gb_s": …, "all_gb_s": …}``.
Bus bandwidth as nccl-tests define it: 2 (n - 1) / n x bytes / seconds, which does not depend on n on a ring.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

from hpc.core.errors import NotFit
from hpc.core.files import write_json
from hpc.health.gpus import device_of

ROUNDS, WARM_UP = 5, 2


def main(argv: list[str] | None = None) -> int:
    """Measure; 0 when all ranks got through."""
    parser = argparse.ArgumentParser(prog="python -m hpc.health.allreduce")
    parser.add_argument("--mb", type=int, required=True, help="message size, MiB")
    parser.add_argument("--seconds", type=float, default=120, help="give up after so long")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args(argv)
    import torch
    import torch.distributed as dist

    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    local, local_size = int(os.environ["LOCAL_RANK"]), int(os.environ["LOCAL_WORLD_SIZE"])
    cuda = torch.cuda.is_available()
    device = torch.device("cpu")
    if cuda:
        own = device_of(local, local_size, torch.cuda.device_count())
        if own is None:
            raise NotFit(
                f"rank {rank} sees {torch.cuda.device_count()} GPUs for the {local_size} of its node"
            )
        device = torch.device("cuda", own)
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if cuda else "gloo", timeout=timedelta(seconds=args.seconds))
    data = torch.zeros(args.mb << 18, dtype=torch.float32, device=device)
    groups = [dist.new_group(list(range(first, first + local_size))) for first in range(0, size, local_size)]
    result = {
        "backend": "nccl" if cuda else "gloo",
        "node_gb_s": bandwidth(data, groups[rank // local_size], local_size),
        "all_gb_s": bandwidth(data, None, size),
        "gpus": torch.cuda.device_count() if cuda else 0,
    }
    if local == 0:
        write_json(args.out, result)
    dist.barrier()
    dist.destroy_process_group()
    return 0


def bandwidth(data: Any, group: Any, size: int) -> float | None:
    """Bus bandwidth of an all-reduce of ``data`` (a float32 tensor) in GB/s; None for one rank: nothing moves."""
    import torch
    import torch.distributed as dist

    if size < 2:
        return None
    seconds = []
    for _ in range(WARM_UP + ROUNDS):
        dist.barrier(group=group)
        started = time.perf_counter()
        dist.all_reduce(data, group=group)
        if data.is_cuda:
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    bytes_ = data.numel() * data.element_size()
    return round(float(2 * (size - 1) / size * bytes_ / statistics.median(seconds[WARM_UP:]) / 1e9), 3)


if __name__ == "__main__":
    raise SystemExit(main())
