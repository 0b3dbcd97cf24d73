"""The machine as the doctor sees it, and what is installed: for the record, no bounds."""

from __future__ import annotations

import importlib.metadata
import json
import platform
import shutil
import subprocess
import sys
from typing import Any

from benchmarks.gpu import Findings, Place

PACKAGES = (
    "torch",
    "transformers",
    "deepspeed",
    "accelerate",
    "peft",
    "tokenizers",
    "triton",
    "nvidia-nccl-cu13",
)
QUERY = ["--query-gpu=name,memory.total,driver_version,ecc.mode.current", "--format=csv,noheader"]


def run(place: Place) -> Findings:
    """Versions, the driver's words, and the doctor's findings."""
    found = Findings({"python": platform.python_version(), "system": platform.platform()})
    found.figures["packages"] = {name: version(name) for name in PACKAGES}
    if shutil.which("nvidia-smi"):
        found.figures["nvidia-smi"] = output(["nvidia-smi", *QUERY]).strip()
    text = output([sys.executable, "-m", "glmjobs.doctor", "--json"])
    try:
        checks = json.loads(text)["checks"]
        found.figures["doctor"] = {c["what"]: f"{c['state']}: {c['found']}" for c in checks}
    except ValueError:
        found.missed.append(f"doctor: no JSON document: {text[-300:]!r}")
    if place.device == "cuda":
        import torch

        properties: Any = torch.cuda.get_device_properties(0)
        found.figures["gpu"] = {"name": properties.name, "bytes": properties.total_memory}
    return found


def version(name: str) -> str | None:
    """Installed version; None where it is not."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def output(command: list[str]) -> str:
    """A command's standard output, whatever its exit code."""
    return subprocess.run(command, capture_output=True, text=True, encoding="utf-8", timeout=60).stdout
