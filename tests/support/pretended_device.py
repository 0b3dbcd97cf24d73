"""A pretended GPU's memory: which tensors would lie on it, so that mixing devices and waiting for the GPU show.

Everything lies and is computed on the CPU (:mod:`tests.support.pretended_gpus`); here is kept, by storage, what would
be on the GPU: what was made there or moved there, and what was computed from it. An operation on tensors of both places
is an error, as it would be on a GPU (numbers in tensors of no dimension are allowed, as there). Where the host would
have to wait for the GPU to go on, that is noted with the place in the code.

torch's own FakeTensorMode does the first half, but its tensors need a torch that is built for CUDA to be indexed and
differentiated.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from tests.support import pretended_gpus
from tests.support.pretended_gpus import OnTheCPU, is_cuda

TREE = torch.utils._pytree

WAITS = frozenset({
    "_local_scalar_dense", "nonzero", "masked_select", "_unique2", "unique_dim", "unique_consecutive", "equal",
    "is_nonzero", "bincount",
})  # fmt: skip
"""Operations whose result, or its shape, the host has to know."""

COPIES = frozenset({"copy_", "_to_copy", "_copy_from"})


OVERHEAD = ("torch/_compile.py", "eval_frame.py", "torch/_python_dispatch.py", "torch/_stats.py")
"""Files of torch's own between an operation and the mode that is told of it."""

OWN = (__file__, pretended_gpus.__file__)


class Mixed(AssertionError):
    """An operation got tensors of both places."""


class Memory:
    """What lies on the pretended GPU, and where the host waited for it.

    Attributes:
        waits: "operation at file:line code" each time.
        inside: a function of torch's is running that was given tensors which lie here.
    """

    def __init__(self) -> None:
        self.storages: dict[int, StorageWeakRef] = {}
        self.waits: list[str] = []
        self.inside = False

    def holds(self, tensor: torch.Tensor) -> bool:
        """Whether it lies here."""
        found = self.storages.get(tensor.untyped_storage()._cdata)
        return found is not None and not found.expired()

    def take(self, tensor: torch.Tensor) -> None:
        """From now on it does."""
        # While the reference is kept, no other storage gets the same address.
        reference = StorageWeakRef(tensor.untyped_storage())
        self.storages[reference.cdata] = reference

    def without(self, tensor: torch.Tensor) -> torch.Tensor:
        """The tensor, which lies elsewhere."""
        self.storages.pop(tensor.untyped_storage()._cdata, None)
        return tensor

    def wait(self, operation: str) -> None:
        """Note it, with the innermost line that is not torch's or this module's."""
        frames = [
            f for f in traceback.extract_stack() if "/torch/" not in f.filename and f.filename not in OWN
        ]
        at = frames[-1]
        self.waits.append(f"{operation} at {at.filename}:{at.lineno} {at.line}")


def _tensors(value: Any) -> list[torch.Tensor]:
    return [t for t in TREE.tree_flatten(value)[0] if isinstance(t, torch.Tensor)]


class Follow(TorchDispatchMode):
    """Results lie where their operands do."""

    def __init__(self, memory: Memory) -> None:
        super().__init__()
        self.memory = memory

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        memory, name = self.memory, func._schema.name.removeprefix("aten::")
        given = _tensors((args, kwargs))
        here = [t for t in given if memory.holds(t)]
        if here and name not in COPIES:
            there = [t for t in given if t.dim() and t.numel() and not memory.holds(t)]
            if there:
                shapes = ", ".join(f"{list(t.shape)} {t.dtype}" for t in there)
                raise Mixed(f"{name}: of tensors on the GPU, and on the CPU: {shapes}")
            if name in WAITS or (name.startswith("index") and any(t.dtype == torch.bool for t in given[1:])):
                memory.wait(name)
        out = func(*args, **(kwargs or {}))
        # What torch itself makes on the way, within an operation or for a gradient that there is none of.
        here = here or (not given and (memory.inside or _by_autograd()))
        if name == "copy_" and not memory.holds(args[0]):
            if here:
                memory.wait("copy to the CPU")
            return out
        if here:
            for t in _tensors(out):
                memory.take(t)
        return out


def _by_autograd() -> bool:
    """Whether the running operation was called by torch's backward pass, and not by a function written in Python."""
    frame = sys._getframe(2)
    while frame.f_back is not None and frame.f_code.co_filename.endswith(OVERHEAD):
        frame = frame.f_back
    return frame.f_code.co_filename.endswith(("torch/autograd/graph.py", "torch/autograd/__init__.py"))


class OnTheGPU(OnTheCPU):
    """What is asked for on a GPU is in its memory."""

    READ = (torch.Tensor.tolist, torch.Tensor.numpy)

    def __init__(self, memory: Memory) -> None:
        super().__init__()
        self.memory = memory

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        memory, kwargs = self.memory, kwargs or {}
        if func == torch.Tensor.device.__get__ and memory.holds(args[0]):
            return torch.device("cuda", 0)
        if func == torch.Tensor.is_cuda.__get__:
            return memory.holds(args[0])
        if func is torch._C._nn._parse_to:  # Module.to asks by what its arguments mean; it moves nothing
            return func(*args, **kwargs)
        if func is torch.Tensor.backward:
            with self:  # sees what runs in it: backward passes written in Python, recomputation
                kwargs["grad_tensors"] = kwargs.pop("gradient", None)
                return torch.autograd.backward(*args, **kwargs)
        mover = func in (torch.Tensor.to, torch.Tensor.cuda, torch.Tensor.cpu)
        here = mover and memory.holds(args[0])
        if func in self.READ and memory.holds(args[0]):
            memory.wait(func.__name__)
        places = [value for value in (*args[1:], *kwargs.values()) if is_place(value)]
        onto = func is torch.Tensor.cuda or any(map(is_cuda, places))
        off = func is torch.Tensor.cpu or (places and not onto)
        outside, memory.inside = memory.inside, any(map(memory.holds, _tensors((args, kwargs))))
        try:
            out = super().__torch_function__(func, types, args, kwargs)
        finally:
            memory.inside = outside
        if mover and here and off:
            memory.wait("copy to the CPU")
            return memory.without(out.clone())
        if onto and func is not torch.device:
            if mover and not here and isinstance(out, torch.Tensor) and _same(out, args[0]):
                out = out.clone()  # a copy there: the original stays where it is
            for t in _tensors(out):
                memory.take(t)
        return out


def is_place(value: Any) -> bool:
    """Whether an argument names a device."""
    return isinstance(value, torch.device) or (
        isinstance(value, str) and value.split(":")[0] in ("cpu", "cuda")
    )


def _same(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.untyped_storage()._cdata == other.untyped_storage()._cdata


@contextmanager
def pretended_memory() -> Iterator[Memory]:
    """Within it ``device="cuda"`` is a place of its own."""
    memory = Memory()
    with Follow(memory), OnTheGPU(memory):
        yield memory


class Everywhere(Memory):
    """Of a process whose tensors are not told apart: every value that the host reads is a wait."""

    def holds(self, tensor: torch.Tensor) -> bool:
        return True

    def take(self, tensor: torch.Tensor) -> None:
        """It is here already."""


class Reads(TorchFunctionMode):
    """Notes what reads a whole tensor: on the CPU, torch tells nobody else."""

    def __init__(self, memory: Memory) -> None:
        super().__init__()
        self.memory = memory

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (*OnTheGPU.READ, torch.Tensor.cpu):
            self.memory.wait(func.__name__)
        return func(*args, **(kwargs or {}))


def noted_waits() -> list[str]:
    """From here on, in this process, where the host reads a value out of any tensor is noted in this list."""
    memory = Everywhere()
    Follow(memory).__enter__()
    Reads(memory).__enter__()
    return memory.waits
