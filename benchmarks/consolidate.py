"""Consolidation against DeepSpeed's own script and against a plain copy, on one checkpoint, in one run.

Makes a ZeRO-2 or ZeRO-3 checkpoint of ChatGLM's layer shapes in DeepSpeed's file format (optimizer moments
included, so that the files have their true size), then times, alternating, with a warm page cache and without
fsync:

- ``deepspeed``: zero_to_fp32 --safe_serialization of the installed DeepSpeed, as users run it;
- ``ours``: python -m glmjobs.consolidate, with the default number of threads, manifest and hashes included;
- ``cp``: cp of the same bytes: what is written is copied, what is read beyond that is copied to /dev/null.

Every tensor of ours is compared with DeepSpeed's bit by bit. ``ratio`` in the JSON is DeepSpeed's time over
ours.

    python benchmarks/consolidate.py [--billions 0.8] [--ranks 8] [--stage 2 3] [--dtype float32 float16]
    [--quick]
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


def in_child(*arguments: Any) -> int:
    """make_checkpoint in a process of its own: torch's memory does not stay here."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(make_checkpoint, *arguments).result()


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


def warm(folder: Path) -> None:
    """Read every file once, so that all find the page cache in the same state (where memory allows)."""
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            with path.open("rb", buffering=0) as file:
                while file.read(1 << 24):
                    pass


def copy_command(model: Path, target: Path, extra: Path | None) -> list[str]:
    files = " ".join(f"'{path}'" for path in sorted(model.glob("*.safetensors")))
    beyond = f" && cp '{extra}' /dev/null" if extra else ""
    return ["bash", "-c", f"mkdir '{target}' && cp {files} '{target}/'{beyond}"]


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


def run_case(
    work: Path, checkpoint: Path, dtype: str, args: argparse.Namespace, total: int
) -> dict[str, Any]:
    """All three on one checkpoint; medians."""
    times: dict[str, list[tuple[float, float]]] = {"deepspeed": [], "ours": [], "cp": []}
    script = "import runpy,sys;sys.argv[0]='zero_to_fp32';runpy.run_module('deepspeed.utils.zero_to_fp32',run_name='__main__')"  # noqa: E501
    outs = {name: work / name for name in times}
    extra = None
    if dtype != "float32":  # what is read beyond what is written
        extra = work / "extra"
        with extra.open("wb") as file:
            for _ in range(0, total * 2, 1 << 20):
                file.write(b"\1" * (1 << 20))
    for _ in range(args.repeat):
        for folder in outs.values():
            shutil.rmtree(folder, ignore_errors=True)
        warm(checkpoint)
        if not args.no_deepspeed:
            times["deepspeed"].append(
                measure(
                    [
                        sys.executable,
                        "-c",
                        script,
                        str(checkpoint),
                        str(outs["deepspeed"]),
                        "--safe_serialization",
                    ]
                )
            )
            if dtype != "float32" or _ > 0:
                shutil.rmtree(outs["deepspeed"])
        times["ours"].append(
            measure(
                [
                    sys.executable,
                    "-m",
                    "glmjobs.consolidate",
                    str(checkpoint),
                    str(outs["ours"]),
                    "--dtype",
                    dtype,
                    "--no-fsync",
                    *args.ours,
                ]
            )
        )
        times["cp"].append(measure(copy_command(outs["ours"], outs["cp"], extra)))
        shutil.rmtree(outs["cp"])
        if outs["deepspeed"].exists():
            args.compared = same_tensors(outs["ours"], outs["deepspeed"])
            shutil.rmtree(outs["deepspeed"])
    for folder in outs.values():
        shutil.rmtree(folder, ignore_errors=True)
    if extra:
        extra.unlink()
    row: dict[str, Any] = {}
    for name, results in times.items():
        if results:
            row[f"{name}_seconds"] = round(statistics.median(seconds for seconds, _ in results), 3)
            row[f"{name}_rss_mib"] = round(max(rss for _, rss in results), 1)
    return row


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--billions", type=float, nargs="+", default=[0.8])
    parser.add_argument("--ranks", type=int, default=8)
    parser.add_argument("--stage", type=int, nargs="+", default=[2, 3])
    parser.add_argument("--dtype", nargs="+", default=["float32", "float16"])
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument(
        "--no-moments", action="store_true", help="leave the optimizer's moments out (a third of the disk)"
    )
    parser.add_argument(
        "--no-deepspeed", action="store_true", help="only ours and cp, for sizes DeepSpeed has no memory for"
    )
    parser.add_argument("--quick", action="store_true", help="0.03 billion parameters, once: under a minute")
    parser.add_argument(
        "--work", type=Path, help="where to put the checkpoint; default: a temporary directory"
    )
    parser.add_argument("--json", type=Path)
    parser.add_argument("ours", nargs="*", help="after --: more options for ours, such as --workers 1")
    args = parser.parse_args()
    if args.quick:
        args.billions, args.repeat = [0.03], 1
    args.compared = 0
    rows = []
    print(
        f"{'parameters':>11} {'ZeRO':>4} {'dtype':>9} {'deepspeed':>10} {'ours':>8} {'cp':>8} {'speed-up':>8} {'ours/cp':>8} "  # noqa: E501
        f"{'RSS ds':>8} {'RSS ours':>9} {'compared':>9}"
    )
    for billions in args.billions:
        for stage in args.stage:
            with tempfile.TemporaryDirectory(dir=args.work) as name:
                work = Path(name)
                total = in_child(
                    work / "checkpoint", model_shapes(billions), stage, args.ranks, not args.no_moments
                )
                for dtype in args.dtype:
                    args.compared = 0
                    row = {
                        "parameters": total,
                        "stage": stage,
                        "dtype": dtype,
                        **run_case(work, work / "checkpoint", dtype, args, total),
                        "tensors_compared": args.compared,
                    }
                    row["ratio"] = round(row.get("deepspeed_seconds", math.nan) / row["ours_seconds"], 2)
                    row["ratio_cp"] = round(row["ours_seconds"] / row["cp_seconds"], 2)
                    rows.append(row)
                    print(
                        f"{total / 1e9:>10.3f}B {stage:>4} {dtype:>9} {row.get('deepspeed_seconds', math.nan):>9.2f}s "
                        f"{row['ours_seconds']:>7.2f}s {row['cp_seconds']:>7.2f}s {row['ratio']:>7.1f}x {row['ratio_cp']:>7.2f}x "  # noqa: E501
                        f"{row.get('deepspeed_rss_mib', math.nan):>4.0f}MiB {row['ours_rss_mib']:>6.0f}MiB "
                        f"{row['tensors_compared']:>9}",
                        flush=True,
                    )
    if args.json:
        first = next((row for row in rows if row["dtype"] == "float32"), rows[0])
        args.json.write_text(
            json.dumps({"ratio": first["ratio"], "rows": rows, "cores": os.cpu_count()}, indent=1)
        )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
