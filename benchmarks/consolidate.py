"""Consolidation against DeepSpeed's own script and against the disk, on one checkpoint, in one run.

Makes a ZeRO-2 or ZeRO-3 checkpoint of ChatGLM's layer shapes in DeepSpeed's file format (optimizer moments
included, so that the files have their true size), then times in turns, without fsync:

- ``deepspeed``: zero_to_fp32 --safe_serialization of the installed DeepSpeed, as users run it;
- ``ours``: python -m glmjobs.consolidate, manifest and hash included, with 1, 2 and as many workers as cores;
- ``read`` and ``write``: dd of as many bytes of the same files to nowhere, and of the output's bytes to the same disk
  (past the page cache, where the disk takes that). The slower of the two is the limit: nothing that reads and writes
  so much can be faster.

The page cache is warm, or (``--cold``) emptied of the checkpoint before each. Every tensor of ours is compared with
DeepSpeed's bit by bit. ``ratio`` in the JSON is DeepSpeed's time over ours; ratios are taken within a round, and
their least, median and greatest are shown.

    python benchmarks/consolidate.py [--billions 0.8 3] [--ranks 8] [--stage 2 3] [--dtype float32 float16]
    [--workers 1 2] [--cold] [--quick]
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

REPO = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPO))

Shapes = dict[str, tuple[int, ...]]


def model_shapes(billions: float) -> Shapes:
    """ChatGLM's parameters at a width and depth that give about so many (untied)."""
    hidden = max(64, 64 * round(2048 * (billions / 0.8) ** (1 / 3) / 64))
    vocabulary = 44 * hidden // 2
    layers = max(1, round((billions * 1e9 - 2 * vocabulary * hidden) / (12 * hidden * hidden)))
    shapes: Shapes = {"transformer.word_embeddings.weight": (vocabulary, hidden)}
    for index in range(layers):
        prefix = f"transformer.layers.{index}."
        for name, out, into in (
            ("attention.query_key_value", 3 * hidden, hidden),
            ("attention.dense", hidden, hidden),
            ("mlp.dense_h_to_4h", 4 * hidden, hidden),
            ("mlp.dense_4h_to_h", hidden, 4 * hidden),
        ):
            shapes[f"{prefix}{name}.weight"] = (out, into)
            shapes[f"{prefix}{name}.bias"] = (out,)
        for name in ("input_layernorm", "post_attention_layernorm"):
            shapes[f"{prefix}{name}.weight"] = (hidden,)
            shapes[f"{prefix}{name}.bias"] = (hidden,)
    shapes["transformer.final_layernorm.weight"] = (hidden,)
    shapes["transformer.final_layernorm.bias"] = (hidden,)
    shapes["lm_head.weight"] = (vocabulary, hidden)
    return shapes


def make_checkpoint(folder: Path, shapes: Shapes, stage: int, ranks: int, moments: bool) -> int:
    """Write a checkpoint as DeepSpeed 0.19 lays it out; the number of parameters."""
    import torch

    step = folder / "global_step10"
    step.mkdir(parents=True)
    sizes = {name: torch.Size(shape) for name, shape in shapes.items()}
    total = sum(math.prod(shape) for shape in shapes.values())
    if stage == 3:
        length = sum(math.ceil(math.prod(shape) / ranks) for shape in shapes.values())
        lengths = [length] * ranks
    else:
        length = math.ceil(total / (2 * ranks)) * 2
        lengths = [length] * (ranks - 1) + [total - length * (ranks - 1)]
    for rank, count in enumerate(lengths):
        generator = torch.Generator().manual_seed(rank)
        flat = torch.randn(count, generator=generator).mul_(0.02)
        state: dict[str, Any] = {"step": torch.tensor(10.0)}
        if moments:
            state |= {"exp_avg": torch.zeros(count), "exp_avg_sq": torch.zeros(count)}
        inner = {"state": {0: state}, "param_groups": [{"lr": 1e-5, "params": [0]}]}
        optimizer: dict[str, Any] = {
            "zero_stage": stage,
            "partition_count": ranks if stage == 3 else [ranks],
            "ds_version": "0.19.8",
            "loss_scaler": None,
            "overflow": False,
        }
        if stage == 3:
            optimizer |= {"optimizer_state_dict": inner, "fp32_flat_groups": [flat]}
        else:
            optimizer |= {
                "base_optimizer_state": inner,
                "single_partition_of_fp32_groups": [flat],
                "group_paddings": [0],
                "param_alignment_paddings": [[0] * len(shapes)],
            }
        torch.save(
            {"optimizer_state_dict": optimizer, "ds_config": {}, "ds_version": "0.19.8"},
            step / f"zero_pp_rank_{rank}_mp_rank_00_optim_states.pt",
        )
    common = {
        "buffer_names": [],
        "param_shapes": [sizes],
        "frozen_param_shapes": None,
        "frozen_param_fragments": None,
        "shared_params": {},
        "global_steps": 10,
        "ds_version": "0.19.8",
        "ds_config": {},
        "module": {},
    }
    for rank in range(ranks if stage == 3 else 1):
        name = (
            f"zero_pp_rank_{rank}_mp_rank_00_model_states.pt" if stage == 3 else "mp_rank_00_model_states.pt"
        )
        torch.save(common, step / name)
    (folder / "latest").write_text("global_step10")
    return total


def in_child(make: Callable[..., int], *arguments: Any) -> int:
    """``make`` in a process of its own: torch's memory does not stay here."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(make, *arguments).result()


def measure(command: list[str]) -> tuple[float, float]:
    """(wall seconds, peak RSS in MiB) of a command; the disk's queue is emptied before, so that none pays for
    another.

    The peak is the kernel's VmHWM, asked every 10 ms: rusage would start at the memory of the process that
    forked.
    """
    os.sync()
    peak = 0
    with tempfile.TemporaryFile() as log:
        start = time.perf_counter()
        process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=log, env=environment(), cwd=REPO
        )
        status = Path(f"/proc/{process.pid}/status")
        while process.poll() is None:
            found = re.search(r"VmHWM:\s+(\d+) kB", status.read_text(encoding="utf-8"))
            peak = max(peak, int(found[1])) if found else peak
            time.sleep(0.01)
        seconds = time.perf_counter() - start
        if process.returncode:
            log.seek(0)
            raise SystemExit(f"{' '.join(command)} failed:\n{log.read().decode()[-2000:]}")
    return seconds, peak / 1024


def environment() -> dict[str, str]:
    return {**os.environ, "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": str(os.cpu_count())}


def prepare_cache(folder: Path, cold: bool) -> None:
    """Read every file once, so that all find the page cache in the same state (where memory allows); or drop all."""
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            with path.open("rb", buffering=0) as file:
                if cold:
                    os.fsync(file.fileno())  # only what is on the disk can be dropped
                    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
                while not cold and file.read(1 << 24):
                    pass


def read_command(checkpoint: Path, total: int) -> list[str]:
    """dd of the float32 weights' number of bytes, from the files that they are in."""
    files = sorted(checkpoint.rglob("*_optim_states.pt"))
    count = math.ceil(total * 4 / len(files) / (1 << 20))
    parts = [f"dd if='{path}' of=/dev/null bs=1M count={count} status=none" for path in files]
    return ["bash", "-c", " && ".join(parts)]


def write_command(model: Path, target: Path) -> list[str]:
    """dd of as many bytes as the model has, to the same disk."""
    from glmjobs.zero.output_files import is_local

    count = math.ceil(sum(path.stat().st_size for path in model.glob("*.safetensors")) / (1 << 20))
    direct = " oflag=direct" if is_local(target.parent) else ""
    return ["bash", "-c", f"dd if=/dev/zero of='{target}' bs=1M count={count} status=none{direct}"]


def same_tensors(ours: Path, theirs: Path) -> int:
    """Compare two directories of safetensors, tensor by tensor, bit by bit; how many there are."""
    from glmjobs.zero.safetensors_file import read_tensors
    from glmjobs.zero.weights import read_values

    def all_of(folder: Path) -> dict[str, Any]:
        return {
            name: tensor
            for file in folder.glob("*.safetensors")
            for name, tensor in read_tensors(file).items()
        }

    mine, other = all_of(ours), all_of(theirs)
    if mine.keys() != other.keys():
        raise SystemExit(f"different tensors: {sorted(mine.keys() ^ other.keys())[:5]}")
    for name, tensor in mine.items():
        if tensor.shape != other[name].shape or tensor.dtype != other[name].dtype:
            raise SystemExit(f"{name}: another shape or type")
        for start in range(0, tensor.numel, 1 << 24):
            count = min(1 << 24, tensor.numel - start)
            parts = [read_values(t.extents[0].part(start, count)) for t in (tensor, other[name])]
            if parts[0].tobytes() != parts[1].tobytes():
                raise SystemExit(f"{name}: differs between elements {start} and {start + count}")
    return len(mine)


def ours_command(checkpoint: Path, out: Path, dtype: str, workers: int) -> list[str]:
    command = [sys.executable, "-m", "glmjobs.consolidate", str(checkpoint), str(out), "--no-fsync"]
    return [*command, "--dtype", dtype, "--workers", str(workers)]


def deepspeed_command(checkpoint: Path, out: Path) -> list[str]:
    script = (
        "import runpy,sys;sys.argv[0]='zero_to_fp32';"
        "runpy.run_module('deepspeed.utils.zero_to_fp32',run_name='__main__')"
    )
    return [sys.executable, "-c", script, str(checkpoint), str(out), "--safe_serialization"]


def run_case(
    work: Path, checkpoint: Path, dtype: str, args: argparse.Namespace, total: int
) -> dict[str, Any]:
    """All of them on one checkpoint, in turns: (seconds, peak MiB) by name and round."""
    rounds: dict[str, list[tuple[float, float]]] = defaultdict(list)
    out, theirs, plain = work / "ours", work / "deepspeed", work / "plain"

    def timed(name: str, command: list[str]) -> None:
        prepare_cache(checkpoint, args.cold)
        rounds[name].append(measure(command))

    compared = 0
    for turn in range(args.repeat):
        if not args.no_deepspeed:
            timed("deepspeed", deepspeed_command(checkpoint, theirs))
        for workers in args.workers:
            shutil.rmtree(out, ignore_errors=True)
            timed(f"ours, {workers}", ours_command(checkpoint, out, dtype, workers))
        timed("read", read_command(checkpoint, total))
        timed("write", write_command(out, plain))
        plain.unlink()
        if theirs.exists():
            if dtype == "float32" and turn == 0:
                compared = same_tensors(out, theirs)
            shutil.rmtree(theirs)
    shutil.rmtree(out)
    row: dict[str, Any] = {"tensors_compared": compared}
    for name, results in rounds.items():
        row[f"{name} seconds"] = spread([seconds for seconds, _ in results])
        row[f"{name} MiB"] = round(max(peak for _, peak in results), 1)
    limits = [max(r[0], w[0]) for r, w in zip(rounds["read"], rounds["write"], strict=True)]
    for workers in args.workers:
        ours = [seconds for seconds, _ in rounds[f"ours, {workers}"]]
        row[f"ours, {workers} / limit"] = spread([o / limit for o, limit in zip(ours, limits, strict=True)])
        if rounds["deepspeed"]:
            pairs = zip(rounds["deepspeed"], ours, strict=True)
            row[f"deepspeed / ours, {workers}"] = spread([seconds / o for (seconds, _), o in pairs])
    return row


def spread(values: list[float]) -> tuple[float, float, float]:
    """Least, median, greatest."""
    return round(min(values), 3), round(statistics.median(values), 3), round(max(values), 3)


def show(row: dict[str, Any]) -> None:
    """One checkpoint and output type, a line for each that was timed."""
    head = f"{row['parameters'] / 1e9:.3f}B, ZeRO-{row['stage']}, {row['dtype']}"
    print(f"{head}: least, median, greatest; {row['tensors_compared']} tensors compared")
    for name, value in row.items():
        if isinstance(value, tuple):
            unit = " s" if name.endswith("seconds") else "x"
            peak = row[name.replace("seconds", "MiB")] if name.endswith("seconds") else ""
            said = "  ".join(f"{number:8.2f}" for number in value)
            print(f"  {name.removesuffix(' seconds'):<22}{said}{unit}" + (f"{peak:>10} MiB" if peak else ""))
    sys.stdout.flush()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--billions", type=float, nargs="+", default=[0.8])
    parser.add_argument("--ranks", type=int, default=8)
    parser.add_argument("--stage", type=int, nargs="+", default=[2, 3])
    parser.add_argument("--dtype", nargs="+", default=["float32", "float16"])
    parser.add_argument("--workers", type=int, nargs="+", default=sorted({1, 2, os.cpu_count() or 1}))
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--cold", action="store_true", help="the checkpoint is not in the page cache")
    parser.add_argument(
        "--no-moments", action="store_true", help="leave the optimizer's moments out (a third of the disk)"
    )
    parser.add_argument(
        "--no-deepspeed", action="store_true", help="only ours and dd, for sizes DeepSpeed has no memory for"
    )
    parser.add_argument("--quick", action="store_true", help="0.03 billion parameters, once: under a minute")
    parser.add_argument(
        "--work", type=Path, help="where to put the checkpoint; default: a temporary directory"
    )
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    if args.quick:
        args.billions, args.repeat = [0.03], 1
    rows = []
    for billions in args.billions:
        for stage in args.stage:
            with tempfile.TemporaryDirectory(dir=args.work) as name:
                work = Path(name)
                total = in_child(
                    make_checkpoint,
                    work / "checkpoint",
                    model_shapes(billions),
                    stage,
                    args.ranks,
                    not args.no_moments,
                )
                for dtype in args.dtype:
                    row = {"parameters": total, "stage": stage, "dtype": dtype}
                    row |= run_case(work, work / "checkpoint", dtype, args, total)
                    rows.append(row)
                    show(row)
    if args.json:
        first = next((row for row in rows if row["dtype"] == "float32"), rows[0])
        ratio = first.get(f"deepspeed / ours, {args.workers[-1]}", (math.nan,) * 3)[1]
        args.json.write_text(json.dumps({"ratio": ratio, "rows": rows, "cores": os.cpu_count()}, indent=1))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
