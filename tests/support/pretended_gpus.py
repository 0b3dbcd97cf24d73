"""GPUs for a machine that has none: the CUDA branches run here, and what only a GPU can show stays unseen.

:func:`fake_cuda`: tensors without values that say they are on a GPU (torch's FakeTensorMode). One left on the CPU is an
error, as it would be there.

:func:`pretend`, and this module as a program: torch, DeepSpeed and transformers believe in GPUs, NCCL is gloo, and
every tensor lies and is computed on the CPU. It finds calls that a release does not have, options that clash, devices
that a rank does not see, branches that lose something; nothing about kernels, streams or memory.

    python -m tests.support.pretended_gpus FILE      a JSON list of jobs, see :class:`Job`; exit codes go into the file
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import signal
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

PATIENCE = 300.0


@contextmanager
def fake_cuda(**options: Any) -> Iterator[FakeTensorMode]:
    """Within it every new tensor is fake, and may be asked for on ``cuda``."""
    if tuple(map(int, torch.__version__.split(".")[:2])) < (2, 5):
        pytest.skip("this torch's fake tensors ask the driver")
    without_driver = mock.patch.multiple(torch.cuda, _lazy_init=lambda: None, current_device=lambda: 0)
    with without_driver, FakeTensorMode(**options) as mode:
        yield mode


# What a rank believes


class Driver:
    """What the driver of a pretended GPU says; of every method the least that its callers need."""

    def __init__(self, visible: int) -> None:
        self.visible, self.current = visible, 0

    def set_device(self, device: Any) -> None:
        index = device if isinstance(device, int) else torch.device(device).index or 0
        if not 0 <= index < self.visible:
            raise RuntimeError(f"CUDA error: invalid device ordinal: {index} of {self.visible}")
        self.current = index

    def functions(self) -> dict[str, Any]:
        """torch.cuda's, by name."""
        nothing = (
            "synchronize", "empty_cache", "reset_peak_memory_stats", "reset_max_memory_allocated",
            "reset_max_memory_cached", "manual_seed", "manual_seed_all", "ipc_collect", "init", "_lazy_init",
            "set_rng_state_all",
        )  # fmt: skip
        zero = (
            "memory_allocated", "max_memory_allocated", "memory_reserved", "max_memory_reserved", "memory_cached",
            "max_memory_cached", "initial_seed",
        )  # fmt: skip

        def giving(
            value: Any,
        ) -> Any:  # a function of its own for each name: torch.compile's tables want that
            return lambda *args, **kwargs: value

        found = {name: giving(None) for name in nothing} | {name: giving(0) for name in zero}
        return found | {
            "is_available": lambda: True,
            "is_initialized": lambda: True,
            "device_count": lambda: self.visible,
            "current_device": lambda: self.current,
            "set_device": self.set_device,
            "device": lambda device: contextlib.nullcontext(),
            "get_device_name": lambda device=None: Properties.name,
            "get_device_capability": lambda device=None: (8, 0),
            "get_device_properties": lambda device=None: Properties(),
            "mem_get_info": lambda device=None: (80 * 10**9, 80 * 10**9),
            "memory_stats": lambda device=None: {},
            "is_bf16_supported": lambda *args, **kwargs: True,
            "is_current_stream_capturing": lambda: False,
            "current_stream": lambda device=None: Stream(),
            "default_stream": lambda device=None: Stream(),
            "stream": lambda stream: contextlib.nullcontext(),
            "Stream": Stream,
            "Event": Event,
            # The CPU's state stands for the GPU's: a resume that lost one of them would show.
            "get_rng_state": lambda device=None: torch.get_rng_state(),
            "set_rng_state": lambda state, device=None: torch.set_rng_state(state),
            "get_rng_state_all": lambda: [torch.get_rng_state()] * self.visible,
        }


class Properties:
    """Of an A100."""

    name, major, minor = "NVIDIA A100-SXM4-80GB", 8, 0
    total_memory, multi_processor_count = 80 * 10**9, 108


class Stream:
    """One queue, done as soon as it is asked."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.cuda_stream = 0

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *args: Any) -> None:
        return None

    def record_event(self, event: Any = None) -> Any:
        return event or Event()

    def wait_stream(self, other: Any) -> None:
        """Nothing is under way."""

    wait_event = wait_stream

    def synchronize(self) -> None:
        """Nothing is under way."""

    def query(self) -> bool:
        return True


class Event(Stream):
    """A moment in it."""

    def record(self, stream: Any = None) -> None:
        """Now."""

    def wait(self, stream: Any = None) -> None:
        """Nothing is under way."""

    def elapsed_time(self, other: Any) -> float:
        return 0.0


def is_cuda(value: Any) -> bool:
    """Whether an argument names a GPU."""
    if isinstance(value, torch.device):
        return value.type == "cuda"
    return isinstance(value, str) and value.partition(":")[0] == "cuda"


def _on_cpu(value: Any) -> Any:
    return "cpu" if is_cuda(value) else value


class OnTheCPU(TorchFunctionMode):
    """Whatever is asked for on a GPU is made on the CPU."""

    STAYS = (torch.Tensor.cuda, torch.Tensor.pin_memory)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.device:  # its name stays; what is made there does not
            return func(*args, **(kwargs or {}))
        kwargs = {name: _on_cpu(value) for name, value in (kwargs or {}).items()}
        if func in self.STAYS:
            return args[0]
        if func is torch.Tensor.to:  # a number is a GPU's
            args = [args[0], *("cpu" if type(value) is int else value for value in args[1:])]
            if type(kwargs.get("device")) is int:
                kwargs["device"] = "cpu"
        elif type(kwargs.get("device")) is int:
            kwargs["device"] = "cpu"
        kwargs.pop("pin_memory", None)
        return func(*map(_on_cpu, args), **kwargs)


class HalfAsFloat(TorchDispatchMode):
    """float16 where this torch's CPU has none: computed in float32, and rounded."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        try:
            return func(*args, **kwargs)
        except RuntimeError as error:
            if "not implemented for 'Half'" not in str(error):
                raise
        tree = torch.utils._pytree.tree_map

        def wider(value: Any) -> Any:
            if isinstance(value, torch.Tensor) and value.dtype == torch.float16:
                return value.float()
            return torch.float32 if value is torch.float16 else value

        def back(value: Any) -> Any:
            narrow = isinstance(value, torch.Tensor) and value.dtype == torch.float32
            return value.half() if narrow else value

        return tree(back, func(*tree(wider, args), **tree(wider, kwargs)))


def pretend(visible: int) -> Driver:
    """From here on, in this process and what it forks. Before DeepSpeed and transformers are imported."""
    driver = Driver(visible)
    for name, value in driver.functions().items():
        setattr(torch.cuda, name, value)
    torch.cuda.random.get_rng_state = torch.cuda.get_rng_state
    torch.cuda.random.set_rng_state = torch.cuda.set_rng_state
    torch.cuda.nccl.version = lambda: (2, 14, 3)
    torch.cuda.default_generators = (torch.default_generator,) * 8
    if hasattr(torch, "accelerator"):
        for name in ("device_count", "current_stream", "synchronize", "is_available", "empty_cache"):
            setattr(torch.accelerator, name, getattr(torch.cuda, name))
        torch.accelerator.current_device_index = torch.cuda.current_device
        torch.accelerator.set_device_index = driver.set_device
    if hasattr(torch.optim.Optimizer, "_accelerator_graph_capture_health_check"):
        torch.optim.Optimizer._accelerator_graph_capture_health_check = lambda self: None
    _gloo_for_nccl()
    from torch.utils import cpp_extension

    from glmjobs import compat

    cpp_extension.CUDA_HOME = None  # no toolkit, as in containers
    compat.import_deepspeed()
    from deepspeed.accelerator import get_accelerator

    gpu = get_accelerator()
    assert gpu._name == "cuda", gpu._name
    # DeepSpeed compares the devices of tensors with the names that it asks for here.
    kind = type(gpu)
    kind.device_name = kind.current_device_name = lambda self, index=None: "cpu"
    kind.device = lambda self, index=None: torch.device("cpu")
    kind.on_accelerator = lambda self, tensor: True
    kind.pin_memory = lambda self, tensor, align_bytes=1: tensor
    kind.is_pinned = lambda self, tensor: True
    kind.range_push = lambda self, message, domain=None, category=None: None
    kind.range_pop = lambda self, domain=None: None
    torch.Tensor.record_stream = lambda self, stream: None  # type: ignore[method-assign]
    OnTheCPU().__enter__()
    if tuple(map(int, torch.__version__.split(".")[:2])) < (2, 1):
        _bfloat16_by_gloo()
        compat._complete_torch_2_0()  # gloo's collectives, which training on GPUs has no need of
        HalfAsFloat().__enter__()
    return driver


def _gloo_for_nccl() -> None:
    import torch.distributed as dist

    start, group = dist.init_process_group, dist.new_group

    def init_process_group(backend: Any = None, *args: Any, **kwargs: Any) -> Any:
        assert backend is not None and "nccl" in str(backend), f"training on GPUs asks for {backend}"
        kwargs.pop("device_id", None)
        return start("gloo", *args, **kwargs)

    def new_group(*args: Any, **kwargs: Any) -> Any:
        if kwargs.get("backend") == "nccl":
            kwargs["backend"] = "gloo"
        kwargs.pop("device_id", None)
        return group(*args, **kwargs)

    barrier = dist.barrier
    for module in (dist, dist.distributed_c10d):
        module.init_process_group, module.new_group = init_process_group, new_group
    dist.barrier = lambda group=None, async_op=False, **_: barrier(group, async_op)
    dist.is_nccl_available = lambda: True


def _bfloat16_by_gloo() -> None:
    """torch 2.0's gloo moves no bfloat16, NCCL does: here by float32, which holds each of its numbers."""
    import torch.distributed as dist

    from glmjobs.compat import _Done

    tree = torch.utils._pytree

    def by_float32(function: Any) -> Any:
        def call(*args: Any, async_op: bool = False, **kwargs: Any) -> Any:
            given = tree.tree_flatten((args, kwargs))[0]
            narrow = [t for t in given if isinstance(t, torch.Tensor) and t.dtype == torch.bfloat16]
            if not narrow:
                return function(*args, async_op=async_op, **kwargs)
            wide = {id(t): t.float() for t in narrow}
            args, kwargs = tree.tree_map(lambda t: wide.get(id(t), t), (args, kwargs))
            function(*args, **kwargs)
            for t in narrow:
                t.copy_(wide[id(t)])
            return _Done() if async_op else None

        return call

    for name in ("broadcast", "all_reduce", "reduce", "all_gather"):
        setattr(dist, name, by_float32(getattr(dist, name)))


# Jobs


@dataclass
class Job:
    """A stage of a run on the ranks of one node.

    Attributes:
        stage: train, consolidate, score or allreduce.
        run: the run directory.
        ranks: how many.
        visible: how many GPUs each of them sees.
        stop_after: the step after which rank 0 is told to stop; 0: never.
        watch: write down in ``waits-RANK.json``, a list a step, where the host reads a value out of a tensor.
        codes: of the ranks, when it is over.
    """

    stage: str
    run: str
    ranks: int = 2
    visible: int = 2
    stop_after: int = 0
    watch: bool = False
    codes: list[int] | None = None


def start(job: Job, port: int) -> list[int]:
    """The exit codes of a job's ranks, forked from here; what they say is in ``pretended-N.log`` of the run."""
    from hpc.runtime.rendezvous import Rank

    fork = multiprocessing.get_context("fork")
    places = [
        Rank(rank=rank, world_size=job.ranks, local_rank=rank, local_size=job.ranks, port=port)
        for rank in range(job.ranks)
    ]
    processes = [fork.Process(target=_rank, args=(job, place)) for place in places]
    for process in processes:
        process.start()
    for process in processes:
        process.join(PATIENCE)
        if process.is_alive():
            process.kill()
            process.join()
    return [process.exitcode for process in processes]


def _rank(job: Job, place: Any) -> None:
    os.environ.update(place.variables())
    log = os.open(f"{job.run}/pretended-{place.rank}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    DRIVER.visible = job.visible
    try:
        if job.watch:
            _watch(f"{job.run}/waits-{place.rank}.json")
        code = _stage(job, place.rank)
    except SystemExit as left:
        code = int(left.code or 0)
    except BaseException as error:
        traceback.print_exc()
        code = int(getattr(error, "exit_code", 1))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _watch(path: str) -> None:
    """From here on, in this process; the waits of a step are those between its begin and its end."""
    from glmjobs.training.trainer import StopTogether
    from tests.support.pretended_device import noted_waits

    waits, steps = noted_waits(), list[list[str]]()
    ended = StopTogether.on_step_end

    def begin(self: Any, *args: Any, **kwargs: Any) -> None:
        waits.clear()

    def end(self: Any, *args: Any, **kwargs: Any) -> None:
        ended(self, *args, **kwargs)
        steps.append(waits.copy())
        Path(path).write_text(json.dumps(steps))

    StopTogether.on_step_begin, StopTogether.on_step_end = begin, end  # type: ignore[method-assign]


def _stage(job: Job, rank: int) -> int:
    if job.stage == "allreduce":
        from hpc.health import allreduce

        return allreduce.main(["--mb", "1", "--out", f"{job.run}/allreduce.json"])
    if job.stage == "consolidate":
        from glmjobs import consolidate

        return consolidate.main([job.run])
    if job.stage == "score":
        from glmjobs import score

        return score.main([job.run])
    from glmjobs import train

    if job.stop_after and rank == 0:
        from glmjobs.training.trainer import StopTogether

        ended = StopTogether.on_step_end

        def stop(self: Any, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == job.stop_after:
                os.kill(os.getpid(), signal.SIGUSR1)
            ended(self, args, state, control, **kwargs)

        StopTogether.on_step_end = stop  # type: ignore[method-assign]
    return train.main([job.run])


def main(argv: list[str]) -> int:
    """Do the jobs of a file one after the other."""
    from hpc.runtime.rendezvous import free_port

    global DRIVER
    DRIVER = pretend(8)
    from glmjobs.training import session  # noqa: F401 - imported once for all ranks

    path = Path(argv[0])
    jobs = [Job(**job) for job in json.loads(path.read_text())]
    for job in jobs:
        job.codes = start(job, free_port())
        path.write_text(json.dumps([asdict(job) for job in jobs]))
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
