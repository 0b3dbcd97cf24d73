"""What differs between the two stacks: torch 2.0.1 with transformers 4, and torch 2.13 with transformers 5.

Everything that asks for a version asks here, and nothing else in the package branches on one.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from importlib.metadata import version
from typing import Any


def _release(package: str) -> tuple[int, int]:
    major, minor, *_ = version(package).split("+")[0].split(".")
    return int(major), int(minor)


TRANSFORMERS = _release("transformers")
TORCH = _release("torch")

#: transformers renamed the key-value cache's argument and output field from ``past_key_values`` to ``cache``.
CACHE_NAME = "cache" if TRANSFORMERS >= (5, 24) else "past_key_values"

#: from_pretrained's name for the type of the weights.
DTYPE_NAME = "dtype" if TRANSFORMERS >= (5, 0) else "torch_dtype"


#: Adam's fused kernel takes parameters that are still on the CPU, as the Trainer hands them over. Before 2.4 torch
#: refuses that, and 2.0.1 could not resume from the fused one's state (pytorch#104767).
FUSED_ADAM = TORCH >= (2, 4)

#: Before torch 2.1 a recomputation that is not reentrant sees none of the module hooks by which ZeRO-3 gathers the
#: weights of a layer: it computes with the empty shells that are left of them.
RECOMPUTES_UNDER_ZERO3 = TORCH >= (2, 1)


#: Attention under a mask has a kernel on GPUs; without one torch multiplies matrices, and float16 scores may overflow.
MASKED_ATTENTION_ON_GPUS = TORCH >= (2, 1)


#: torch's attention takes the scale of the scores. Where it does, transformers uses it by default ("sdpa"); elsewhere
#: its models have "eager" attention.
SCALED_ATTENTION = TORCH >= (2, 1)


#: FlexAttention came with torch 2.5.
FLEX_ATTENTION = TORCH >= (2, 5)

#: torch 2.5 and later compile a module's code once for all layers; before, once for each of the first eight.
COMPILES_ONCE = TORCH >= (2, 5)


def without_cudnn_attention() -> None:
    """Leave attention to torch's own kernels; call before the first one.

    On compute capability 9.0 (H100, H200) torch takes cuDNN's first, which is planned anew for each shape, for tens to
    hundreds of milliseconds. Packed examples have a hundred lengths in ten steps, and decoding a new one each step.
    """
    import torch

    if hasattr(torch.backends.cuda, "enable_cudnn_sdp"):  # from torch 2.5 on
        torch.backends.cuda.enable_cudnn_sdp(False)


def unfilled() -> dict[str, Any]:
    """What tells from_pretrained not to fill weights with random numbers before it reads them, as 5 never does.

    4.49 then takes weights for tied where they have one address, and all have the same one while they have no values:
    it would list none as missing. Here such weights are told apart by their storage.
    """
    if TRANSFORMERS >= (5, 0):
        return {}
    from transformers import modeling_utils

    def identity(tensor: Any) -> Any:
        return (tensor.device, tensor.untyped_storage()._cdata) if tensor.is_meta else by_address(tensor)

    by_address = modeling_utils.id_tensor_storage
    if by_address.__name__ != identity.__name__:
        modeling_utils.id_tensor_storage = identity
    return {"low_cpu_mem_usage": True}


@contextlib.contextmanager
def unfilled_partitions() -> Iterator[None]:
    """Modules that are made within have ZeRO-3's partitions for weights, and nothing fills these with numbers."""
    import deepspeed
    from transformers.integrations.deepspeed import deepspeed_config
    from transformers.modeling_utils import set_zero3_state

    with contextlib.ExitStack() as stack:
        if TRANSFORMERS >= (5, 0):
            from transformers.initialization import no_init_weights
            from transformers.integrations.deepspeed import prevent_arange_dtype_change

            stack.enter_context(prevent_arange_dtype_change())  # rotary frequencies stay float32
        else:
            from transformers.modeling_utils import no_init_weights
        stack.enter_context(no_init_weights())
        stack.enter_context(deepspeed.zero.Init(config_dict_or_path=deepspeed_config()))
        stack.enter_context(set_zero3_state())  # transformers is not to do so itself
        yield


def tied_weights(pairs: dict[str, str]) -> Any:
    """``_tied_weights_keys`` in this release's form: {tied: source}; before 5 only the tied names."""
    return pairs if TRANSFORMERS >= (5, 0) else list(pairs)


def autocast_dtype(device_type: str) -> Any:
    """The type that autocast computes in on ``device_type`` ("cuda", "cpu"), or None where it is off."""
    import torch

    if device_type == "cpu":
        return torch.get_autocast_cpu_dtype() if torch.is_autocast_cpu_enabled() else None
    return torch.get_autocast_gpu_dtype() if torch.is_autocast_enabled() else None


def import_deepspeed() -> None:
    """Import DeepSpeed where torch sees GPUs, whether or not there is a CUDA toolkit (nvcc).

    At import it asks each of its operators whether it could be compiled here, and some of 0.16's raise
    MissingCUDAException where there is a GPU and no nvcc. None of them is used here.
    """
    import torch
    from torch.utils import cpp_extension

    if cpp_extension.CUDA_HOME is not None:
        return
    available, torch.cuda.is_available = torch.cuda.is_available, lambda: False
    chosen = os.environ.get("DS_ACCELERATOR")
    os.environ["DS_ACCELERATOR"] = "cuda"  # which it would not find by itself now
    try:
        import deepspeed  # noqa: F401
    finally:
        torch.cuda.is_available = available
        del os.environ["DS_ACCELERATOR"]
        if chosen is not None:
            os.environ["DS_ACCELERATOR"] = chosen


def keep_gradient_hooks() -> None:
    """Have ZeRO-3 train on torch 2.0; call before DeepSpeed starts, whatever the device.

    Below torch 2.1 DeepSpeed 0.16 hooks the node of the graph where a parameter's gradient arrives, and keeps no
    reference to it; Python then frees the node and its hook with it. No gradient is ever reduced: the training runs,
    with a gradient norm of 0, and learns nothing. Here the hook's handle, which DeepSpeed keeps, keeps the node.
    """
    if TORCH >= (2, 1):
        return
    import deepspeed.runtime.zero.stage3 as stage3
    import deepspeed.utils.torch as deepspeed_torch

    def register_grad_hook(param: Any, hook: Any) -> Any:
        node = param.expand_as(param).grad_fn.next_functions[0][0]
        handle = node.register_hook(hook)
        handle.node = node
        return handle

    for module in (deepspeed_torch, stage3):
        module.register_grad_hook = register_grad_hook


def keep_offloaded_gradients() -> None:
    """Have ZeRO-2 with optimizer offload add up all micro-steps of a step; call before DeepSpeed starts.

    Below 0.19 DeepSpeed keeps the first micro-step's gradient on the CPU and adds it to every later one, but does not
    put the sums back (DeepSpeed#7967): of four micro-steps, the first and the last count. ZeRO-1 reduces its gradients
    once, at the last micro-step, and nothing may be put back there: it would be added to the next step.
    """
    if _release("deepspeed") >= (0, 19):
        return
    from deepspeed.runtime.zero.stage_1_and_2 import DeepSpeedZeroOptimizer

    add = DeepSpeedZeroOptimizer.async_accumulate_grad_in_cpu_via_gpu

    def add_and_put_back(self: Any, param: Any) -> None:
        add(self, param)
        step = self.micro_step_id
        if step > 0 and not self.is_gradient_accumulation_boundary:
            self.micro_step_id = 0  # the first one's gradient is put there, not added
            add(self, param)
            self.micro_step_id = step

    DeepSpeedZeroOptimizer.async_accumulate_grad_in_cpu_via_gpu = add_and_put_back


def prepare_cpu_training() -> None:
    """Make the CPU path train with gloo; call before DeepSpeed starts. Does nothing to training on GPUs."""
    if TORCH < (2, 1):
        _complete_torch_2_0()
    _without_shared_memory_op()


def _without_shared_memory_op() -> None:
    """Keep DeepSpeed from compiling its CPU all-reduce while ranks start.

    torch builds it behind a lock file in the user's cache; a job killed during that minute leaves the lock,
    and every later job of that user waits for it for ever. gloo does the same work, and training on the CPU
    is for rehearsals.
    """
    import deepspeed.ops
    from deepspeed.ops.op_builder.cpu import ShareMemCommBuilder

    deepspeed.ops.__compatible_ops__[ShareMemCommBuilder.NAME] = False


def _complete_torch_2_0() -> None:
    """What accelerate and DeepSpeed call on the CPU and torch 2.0 has for GPUs (NCCL) only.

    ``torch.cpu`` has no device functions there, its streams' events have no methods, and gloo has neither of the
    collectives on one flat tensor; they are put together from those that gloo has.
    """
    import torch
    import torch.distributed as dist

    cpu: Any = torch.cpu
    for name, function in (("device_count", lambda: 1), ("set_device", lambda device: None)):
        if not hasattr(cpu, name):
            setattr(cpu, name, function)
    tensor: Any = torch.Tensor
    record_on_gpu = tensor.record_stream
    tensor.record_stream = lambda self, stream: record_on_gpu(self, stream) if self.is_cuda else None

    gather_on_gpu, scatter_on_gpu = dist.all_gather_into_tensor, dist.reduce_scatter_tensor

    def all_gather_into_tensor(
        output_tensor: Any, input_tensor: Any, group: Any = None, async_op: bool = False
    ) -> Any:
        output, source = output_tensor, input_tensor
        if output.is_cuda:
            return gather_on_gpu(output, source, group=group, async_op=async_op)
        parts = list(output.view(-1).chunk(dist.get_world_size(group)))
        # Waited for at once: else DeepSpeed 0.16 has read memory that gloo's thread had not filled yet.
        dist.all_gather(parts, source.view(-1), group=group)
        return _Done() if async_op else None

    def reduce_scatter_tensor(
        output: Any, input: Any, op: Any = dist.ReduceOp.SUM, group: Any = None, async_op: bool = False
    ) -> Any:
        source = input
        if output.is_cuda:
            return scatter_on_gpu(output, source, op=op, group=group, async_op=async_op)
        size, rank = dist.get_world_size(group), dist.get_rank(group)
        whole = source.clone()
        if op == dist.ReduceOp.AVG:  # gloo sums only
            dist.all_reduce(whole, group=group)
            whole /= size
        else:
            dist.all_reduce(whole, op=op, group=group)
        output.copy_(whole.view(-1).chunk(size)[rank].view_as(output))
        return _Done() if async_op else None

    dist.all_gather_into_tensor = all_gather_into_tensor
    dist.reduce_scatter_tensor = reduce_scatter_tensor


class _Done:
    """The handle of a collective that is over."""

    def wait(self) -> bool:
        """True at once."""
        return True

    def is_completed(self) -> bool:
        """True."""
        return True


#: TrainingArguments' names for activation checkpointing.
CHECKPOINTING_NAME = "activation_checkpointing" if TRANSFORMERS >= (5, 24) else "gradient_checkpointing"


def accepted(kind: Any, values: dict[str, Any]) -> dict[str, Any]:
    """Those of ``values`` that ``kind``'s constructor takes in this release (arguments come and go)."""
    import inspect

    known = inspect.signature(kind.__init__).parameters
    return {name: value for name, value in values.items() if name in known}
