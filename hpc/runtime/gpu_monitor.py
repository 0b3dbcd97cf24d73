"""Utilisation, memory and power of every GPU of a node, sampled into the run directory.

A line a GPU and sample in ``gpu/<node>.jsonl``: ``{"time": …, "node": …, "gpu": index, "utilisation": percent,
"memory": bytes in use, "power": watts}``; a figure that a GPU does not give is null. Read through NVIDIA's own
library (nvidia-ml-py, imported as ``pynvml``): where it or a driver is missing, nothing is written and nothing said,
because training goes on all the same.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from hpc.core import timestamps
from hpc.core.files import Json

#: Seconds between samples: 8 GPUs make 8,640 of them a day each, 9 MB in all.
INTERVAL = 10.0


class GpuWatch:
    """Samples from a thread of its own until it is stopped.

    Args:
        run: the run directory.
        nvml: the ``pynvml`` module, or None for the installed one.
        node: name of this node; None: Slurm's name for it, or the machine's.
        interval: seconds between samples.
    """

    def __init__(
        self, run: Path, *, nvml: Any = None, node: str | None = None, interval: float = INTERVAL
    ) -> None:
        self.node = node or os.environ.get("SLURMD_NODENAME") or os.uname().nodename.split(".")[0]
        self.path = run / "gpu" / f"{self.node}.jsonl"
        self.interval = interval
        self._nvml = nvml
        self._handles: dict[int, Any] = {}
        self._stop = threading.Event()
        self._last = False  # the sample to come is the last
        self._thread: threading.Thread | None = None

    def start(self) -> bool:
        """Begin; False where there is no GPU to be seen."""
        if not self._open():
            return False
        self._thread = threading.Thread(target=self._loop, name="gpuwatch", daemon=True)
        self._thread.start()
        return True

    def stop(self) -> None:
        """Take a last sample and end. Safe to call twice, and without a start."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(timeout=10)
            self._thread = None
        if self._handles:
            self._handles = {}
            with contextlib.suppress(Exception):
                self._nvml.nvmlShutdown()

    def sample(self) -> list[Json]:
        """One reading of every GPU."""
        time = timestamps.now()
        return [
            {"time": time, "node": self.node, "gpu": i, **self._figures(h)} for i, h in self._handles.items()
        ]

    def _figures(self, handle: Any) -> Json:
        nvml = self._nvml
        return {
            "utilisation": _read(lambda: int(nvml.nvmlDeviceGetUtilizationRates(handle).gpu)),
            "memory": _read(lambda: int(nvml.nvmlDeviceGetMemoryInfo(handle).used)),
            # NVML counts milliwatts.
            "power": _read(lambda: round(nvml.nvmlDeviceGetPowerUsage(handle) / 1000, 1)),
        }

    def _open(self) -> bool:
        try:
            nvml = self._nvml = self._nvml or importlib.import_module("pynvml")
            nvml.nvmlInit()
            self._handles = {
                i: nvml.nvmlDeviceGetHandleByIndex(i) for i in job_gpu_indices(nvml.nvmlDeviceGetCount())
            }
        except Exception:  # no module, no driver, no permission: nothing to watch
            self._handles = {}
        return bool(self._handles)

    def _loop(self) -> None:
        while True:
            # A full disk must not end the training; a later sample may find room.
            with contextlib.suppress(OSError):
                self._write(self.sample())
            if self._last:
                return
            self._last = self._stop.wait(self.interval)

    def _write(self, samples: list[Json]) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        text = "".join(json.dumps(s) + "\n" for s in samples)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(text)


def job_gpu_indices(count: int) -> list[int]:
    """Indices of this job's GPUs among ``count``: those Slurm names, or all where it names none or other numbers.

    Where Slurm confines jobs to their GPUs, the driver shows only those, counted from 0, and the names don't fit.
    """
    listed = os.environ.get("SLURM_JOB_GPUS", "").split(",")
    named = sorted({int(i) for i in listed if i.strip().isdigit()})
    return named if named and named[-1] < count else list(range(count))


def _read(value: Callable[[], Any]) -> Any:
    try:
        return value()
    except Exception:  # this GPU doesn't tell (MIG, an old driver), or it has just fallen off the bus
        return None


@contextlib.contextmanager
def watching(run: Path, local_rank: int, **options: Any) -> Iterator[None]:
    """Watch this node's GPUs for as long as the block runs, from one process of the node."""
    watch = GpuWatch(run, **options) if local_rank == 0 else None
    if watch is not None:
        watch.start()
    try:
        yield
    finally:
        if watch is not None:
            watch.stop()
