"""What full-size models take: loading, consolidating, an adapter's save, resharding; against what plan says.

Anyone can run it: the weights are zeros in files with holes (ChatGLM-6B's shapes, a ZeRO-2 checkpoint of 8 ranks
without the optimizer's moments), so that only what is written takes disk, at most 25 GB at once; whether there is room
is looked at first. Every step is a process of its own. Of its memory the peak of the anonymous part is shown (the
kernel's RssAnon, children included, asked every 20 ms): pages mapped from files are shared by all of a node.

    python benchmarks/size.py [--layers 28] [--hidden 4096] [--vocab 130528] [--python OTHER/bin/python] [--quick]

``--python`` loads with another environment's stack, too. Holes are read without the disk, so reading costs less than
from real files; resharding is done with 0.4 billion parameters, since it reads 12 bytes for each and writes as many.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

REPO = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPO))

from benchmarks.consolidate import in_child  # noqa: E402
from benchmarks.consolidate import model_shapes as shapes_of  # noqa: E402
from glmjobs.cli import run_command  # noqa: E402
from glmjobs.zero.write import check_space  # noqa: E402
from hpc.core.errors import BadInput  # noqa: E402
from tests.support.sparse_models import chatglm_shapes, sparse_chatglm, sparse_checkpoint  # noqa: E402

RANKS = 8
LOAD = """
import sys, time
from glmjobs.models import load_model
start = time.perf_counter()
model = load_model(sys.argv[1])
print(f"loaded {sum(p.numel() for p in model.parameters()):,} in {time.perf_counter() - start:.2f} s")
"""
ADAPTER = """
import sys
from glmjobs.models import load_model
from glmjobs.models.family import family_for
from glmjobs.recipe.schema import LoraSection
from glmjobs.training.adapters import adapt
model = adapt(load_model(sys.argv[1]), LoraSection(), family_for(sys.argv[1]))
model.save_pretrained(sys.argv[2])
"""


def measured(command: list[str]) -> dict[str, Any]:
    """Seconds, peak anonymous MiB and last line of a command."""
    environment = {**os.environ, "PYTHONPATH": str(REPO), "DS_ACCELERATOR": "cpu", "HF_HUB_OFFLINE": "1"}
    with tempfile.TemporaryFile("w+") as said:
        start, peak = time.perf_counter(), 0
        process = subprocess.Popen(command, stdout=said, stderr=subprocess.STDOUT, cwd=REPO, env=environment)
        while process.poll() is None:
            peak = max(peak, anonymous(process.pid))
            time.sleep(0.02)
        seconds = time.perf_counter() - start
        said.seek(0)
        lines = said.read().splitlines()
    if process.returncode:
        raise SystemExit("\n".join([f"{' '.join(command[:4])} … failed:", *lines[-15:]]))
    return {"seconds": round(seconds, 2), "peak_mib": peak // 1024, "said": lines[-1] if lines else ""}


def anonymous(pid: int) -> int:
    """kB of anonymous memory of a process and its children; shared pages of forked ones count for each."""
    total = 0
    try:
        family = [pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))]
        for one in family:
            found = re.search(r"RssAnon:\s+(\d+)", Path(f"/proc/{one}/status").read_text(encoding="ascii"))
            total += int(found[1]) if found else 0
    except (OSError, psutil.Error):
        pass
    return total


def size_of(folder: Path, pattern: str = "*") -> int:
    return sum(path.stat().st_size for path in folder.rglob(pattern) if path.is_file())


def planned(base: Path) -> dict[str, Any]:
    """plan's document for a full fine-tuning and a LoRA of the directory on one node of 8 GPUs."""
    found = {}
    for method in ("full", "lora"):
        command = [sys.executable, "-m", "glmjobs.plan", "--nodes", "1", "--gpus", str(RANKS), "--json"]
        options = [f"model.path={base}", f"train.method={method}", "train.zero_stage=2"]
        command += [word for option in options for word in ("--set", option)]
        done = subprocess.run(command, cwd=REPO, capture_output=True, text=True, check=False)
        if not done.stdout:
            raise SystemExit(done.stderr)
        found[method] = json.loads(done.stdout)
    return found


def consolidating(work: Path, base: Path, args: argparse.Namespace) -> list[dict[str, Any]]:
    """A sparse ZeRO-2 checkpoint to a float16 model directory."""
    checkpoint, out = work / "checkpoint-10", work / "model"
    in_child(sparse_checkpoint, checkpoint, chatglm_shapes(args.layers, args.hidden, args.vocab), RANKS)
    command = [sys.executable, "-m", "glmjobs.consolidate", str(checkpoint), str(out), "--base", str(base)]
    row = {"step": "consolidate", **measured(command), "written": size_of(out)}
    shutil.rmtree(out)
    shutil.rmtree(checkpoint)
    return [row]


def adapter(work: Path, base: Path, stacks: list[str]) -> list[dict[str, Any]]:
    """A fresh adapter on the whole base, saved by itself."""
    out = work / "adapter"
    row = measured([stacks[0], "-c", ADAPTER, str(base), str(out)])
    return [{"step": "LoRA save", **row, "written": size_of(out)}]


def loading(base: Path, stacks: list[str]) -> list[dict[str, Any]]:
    return [
        {"step": f"load ({python})", **measured([python, "-c", LOAD, str(base)]), "written": 0}
        for python in stacks
    ]


def resharding(work: Path, billions: float) -> list[dict[str, Any]]:
    from benchmarks.consolidate import make_checkpoint

    checkpoint = work / "checkpoint-20"
    in_child(make_checkpoint, checkpoint, shapes_of(billions), 3, 4, True)
    row = measured([sys.executable, "-m", "glmjobs.reshard", str(checkpoint), "--world-size", "2"])
    written = size_of(checkpoint / "global_step10_universal")
    shutil.rmtree(checkpoint)
    return [{"step": f"reshard ({billions} B)", **row, "written": written}]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=28)
    parser.add_argument("--hidden", type=int, default=4096, help="a multiple of 128")
    parser.add_argument("--vocab", type=int, default=130_528)
    parser.add_argument(
        "--python", nargs="*", default=[], help="of other stacks: loading is measured there, too"
    )
    parser.add_argument("--quick", action="store_true", help="2 layers of 512: under a minute")
    parser.add_argument("--work", type=Path, help="where to write; default: a temporary directory")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args(argv)
    if args.quick:
        args.layers, args.hidden, args.vocab = 2, 512, 8000
    billions = 0.03 if args.quick else 0.4
    if args.work is not None and not args.work.is_dir():
        raise BadInput(f"--work {args.work}: no such directory")
    if args.layers < 1 or args.hidden < 128 or args.hidden % 128 or args.vocab < 1:
        raise BadInput("--layers and --vocab: from 1 on; --hidden: a multiple of 128")
    for python in args.python:
        if shutil.which(python) is None:
            raise BadInput(f"--python {python}: no program there; the bin/python of an environment")
    stacks = [sys.executable, *args.python]
    with tempfile.TemporaryDirectory(dir=args.work) as name:
        work = Path(name)
        base = work / "base"
        weights = sparse_chatglm(base, layers=args.layers, hidden=args.hidden, vocab=args.vocab)
        check_space(work, max(weights, int(billions * 24e9)))
        plans = planned(base)
        rows = loading(base, stacks) + consolidating(work, base, args)
        rows += adapter(work, base, stacks) + resharding(work, billions)
    full = plans["full"]
    print(f"{full['model']['parameters']:,} parameters, {weights / 1e9:.2f} GB of weights")
    for row in rows:
        wrote = f"{row['written'] / 1e9:>8.3f} GB written" if row["written"] else ""
        print(f"{row['step']:<40}{row['seconds']:>9.1f} s {row['peak_mib']:>8,} MiB {wrote}")
    print(
        f"plan: model {full['model_bytes'] / 1e9:.3f} GB; checkpoint {full['checkpoint_bytes'] / 1e9:.1f} GB, "
        f"of a LoRA {plans['lora']['checkpoint_bytes'] / 1e9:.3f} GB"
    )
    if args.json:
        args.json.write_text(json.dumps({"rows": rows, "plan": plans}, indent=1))
    return 0


if __name__ == "__main__":
    raise SystemExit(run_command(main))
