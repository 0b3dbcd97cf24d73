"""What full-size models take: loading, consolidating, an adapter's save, resharding; against what plan says.

Anyone can run it: the weights are zeros in files with holes (ChatGLM-6B's or GLM-10B's shapes, a ZeRO-2 checkpoint of 8
ranks without the optimizer's moments), so that only what is written takes disk, for ChatGLM-6B at most 25 GB at once
(GLM-10B in float32: 40); whether there is room is looked at first. Every step is a process of its own. Of its memory
the peak of the anonymous part is shown (the kernel's RssAnon, children included, asked every 20 ms): pages mapped from
files are shared by all of a node.

    python benchmarks/size.py [--model glm10b] [--dtype float16 float32] [--layers 28] [--hidden 4096] [--vocab 130528]
    [--python OTHER/bin/python] [--quick]

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
from tests.support.sparse_models import (  # noqa: E402
    chatglm_shapes,
    glm_shapes,
    sparse_chatglm,
    sparse_checkpoint,
    sparse_glm,
)

RANKS = 8
#: family; what writes the model; its weights' shapes, layers and vocabulary
MODELS: dict[str, tuple[str, Any, Any, int, int]] = {
    "chatglm6b": ("chatglm", sparse_chatglm, chatglm_shapes, 28, 130_528),
    "glm10b": ("glm", sparse_glm, glm_shapes, 48, 50_304),
}
TORCH = "from importlib.metadata import version; print(version('torch'))"
LOAD = """
import sys, time
from glmjobs.models import load_model
start = time.perf_counter()
model = load_model(sys.argv[1])
print(f"loaded {sum(p.numel() for p in model.parameters()):,} in {time.perf_counter() - start:.2f} s")
"""
NODE = """
import subprocess, sys
ranks = [subprocess.Popen([sys.executable, "-c", *sys.argv[2:]], stdout=-1, text=True) for _ in range(int(sys.argv[1]))]
said = [rank.communicate()[0].strip().splitlines()[-1] for rank in ranks]
print(max(said))
raise SystemExit(max(rank.returncode for rank in ranks))
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
    """Seconds, peak anonymous MiB and last line of a command, and the machine's load when it ended."""
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
    return {
        "seconds": round(seconds, 2), "peak_mib": peak // 1024, "said": lines[-1] if lines else "",
        "load": round(os.getloadavg()[0], 1),
    }  # fmt: skip


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


def planned(base: Path, family: str, dtypes: list[str]) -> dict[str, Any]:
    """plan's document for a LoRA of the directory and a full fine-tuning to each type, on one node of 8 GPUs."""
    found = {}
    for method, dtype in (("lora", "float16"), *(("full", dtype) for dtype in dtypes)):
        command = [sys.executable, "-m", "glmjobs.plan", "--nodes", "1", "--gpus", str(RANKS), "--json"]
        options = [f"model.path={base}", f"train.method={method}", "train.zero_stage=2"]
        options += [f"consolidate.dtype={dtype}", f"model.family={family}"]
        command += [word for option in options for word in ("--set", option)]
        done = subprocess.run(command, cwd=REPO, capture_output=True, text=True, check=False)
        if not done.stdout:
            raise SystemExit(done.stderr)
        found[dtype if method == "full" else method] = json.loads(done.stdout)
    return found


def consolidating(work: Path, base: Path, args: argparse.Namespace) -> list[dict[str, Any]]:
    """A sparse ZeRO-2 checkpoint to a model directory of each type."""
    checkpoint, out = work / "checkpoint-10", work / "model"
    in_child(sparse_checkpoint, checkpoint, MODELS[args.model][2](args.layers, args.hidden, args.vocab), RANKS)
    rows = []
    for dtype in args.dtype:
        command = [sys.executable, "-m", "glmjobs.consolidate", str(checkpoint), str(out)]
        command += ["--base", str(base), "--dtype", dtype]
        rows.append({"step": f"consolidate, {dtype}", **measured(command), "written": size_of(out)})
        shutil.rmtree(out)
    shutil.rmtree(checkpoint)
    return rows


def adapter(work: Path, base: Path, stacks: list[str]) -> list[dict[str, Any]]:
    """A fresh adapter on the whole base, saved by itself."""
    out = work / "adapter"
    row = measured([stacks[0], "-c", ADAPTER, str(base), str(out)])
    return [{"step": "LoRA save", **row, "written": size_of(out)}]


def loading(base: Path, stacks: list[str], ranks: int) -> list[dict[str, Any]]:
    """By one rank, and by all of a node at once: what each of them has for itself, added up."""
    rows = []
    for python in stacks:
        stack = f"torch {subprocess.check_output([python, '-c', TORCH], text=True).strip()}"
        one = [python, "-c", LOAD, str(base)]
        rows.append({"step": f"load, {stack}", **measured(one), "written": 0})
        node = measured([python, "-c", NODE, str(ranks), *one[2:]])
        rows.append({"step": f"load by {ranks} ranks, {stack}", **node, "written": 0})
    return rows


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
    parser.add_argument("--model", choices=MODELS, default="chatglm6b", help="whose names and sizes")
    parser.add_argument("--layers", type=int, help="the model's own")
    parser.add_argument("--hidden", type=int, default=4096, help="a multiple of 128")
    parser.add_argument("--vocab", type=int, help="the model's own")
    parser.add_argument(
        "--dtype", nargs="+", choices=("float16", "bfloat16", "float32"), default=["float16", "float32"],
        help="of what is consolidated",
    )  # fmt: skip
    parser.add_argument(
        "--python", nargs="*", default=[], help="of other stacks: loading is measured there, too"
    )
    parser.add_argument("--quick", action="store_true", help="2 layers of 512: under a minute")
    parser.add_argument("--work", type=Path, help="where to write; default: a temporary directory")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args(argv)
    if args.quick:
        args.layers, args.hidden, args.vocab = 2, 512, 8000
    family, make, _, layers, vocab = MODELS[args.model]
    args.layers = layers if args.layers is None else args.layers
    args.vocab = vocab if args.vocab is None else args.vocab
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
        weights = make(base, layers=args.layers, hidden=args.hidden, vocab=args.vocab)
        check_space(work, max(weights * (2 if "float32" in args.dtype else 1), int(billions * 24e9)))
        plans = planned(base, family, args.dtype)
        rows = loading(base, stacks, 2 if args.quick else RANKS) + consolidating(work, base, args)
        rows += adapter(work, base, stacks) + resharding(work, billions)
    full = plans[args.dtype[0]]
    print(f"{full['model']['parameters']:,} parameters, {weights / 1e9:.2f} GB of weights")
    for row in rows:
        wrote = f"{row['written'] / 1e9:>8.3f} GB written" if row["written"] else ""
        print(f"{row['step']:<40}{row['seconds']:>9.1f} s {row['peak_mib']:>8,} MiB {wrote}")
    models = ", ".join(f"{plans[dtype]['model_bytes'] / 1e9:.3f} GB in {dtype}" for dtype in args.dtype)
    print(
        f"plan: model {models}; host memory {full['host_bytes_per_node'] / 1e9:.1f} GB a node; "
        f"checkpoint {full['checkpoint_bytes'] / 1e9:.1f} GB, "
        f"of a LoRA {plans['lora']['checkpoint_bytes'] / 1e9:.3f} GB"
    )
    if args.json:
        for row in rows:  # what other steps say is of folders here
            row["said"] = row["said"] if row["said"].startswith("loaded") else ""
        args.json.write_text(json.dumps({"model": args.model, "rows": rows, "plan": plans}, indent=1))
    return 0


if __name__ == "__main__":
    raise SystemExit(run_command(main))
