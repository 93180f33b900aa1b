"""A GPU that is not there: tensors with shapes, types and a device, but without values, so that nothing can be read.

What waits for a GPU, or copies to it from the CPU, ends in an error here as it does when a CUDA graph is captured.
"""

import contextlib
from collections.abc import Iterable
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

GPU = torch.device("cuda", 0)
MODE = FakeTensorMode(allow_non_fake_inputs=True)
FROM_PYTHON = (torch.tensor, torch.as_tensor, torch.asarray, torch.Tensor.new_tensor)
MOVES = (torch.Tensor.to, torch.Tensor.cpu, torch.Tensor.cuda, torch.Tensor.copy_, torch.Tensor.type)


class WaitError(AssertionError):
    """An operation for which a CPU would wait, or a copy between it and the GPU."""


class AbsentGPU(TorchFunctionMode):
    """While it is entered, there seems to be a GPU.

    Args:
        may_copy: whether tensors may come to it from the CPU, as before a capture.
    """

    def __init__(self, may_copy: bool):
        super().__init__()
        self.may_copy = may_copy

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        given = list(leaves((args, kwargs)))
        near = [one for one in given if isinstance(one, torch.Tensor) and not isinstance(one, FakeTensor)]
        if not any(isinstance(one, FakeTensor) or is_gpu(one) for one in given):
            return function(*args, **kwargs)
        if function is torch.Tensor.data_ptr:
            return id(args[0])
        name = getattr(function, "__name__", str(function))
        if not self.may_copy and function in FROM_PYTHON:
            raise WaitError(f"{name} copies numbers from the CPU")
        # A single number of the CPU is an argument of a kernel, unless it is the thing that is moved.
        if not self.may_copy and any(one.ndim > 0 or function in MOVES for one in near):
            raise WaitError(f"{name} reads {[list(one.shape) for one in near]} of the CPU")
        with MODE, contextlib.nullcontext() if self.may_copy else Copies():
            result = function(*args, **kwargs)
        if function in MOVES and isinstance(result, torch.Tensor) and result.device.type == "cpu":
            raise WaitError(f"{name} copies {list(result.shape)} to the CPU")
        return result


class Copies(TorchDispatchMode):
    """Copies from the CPU within functions of torch, which it does not show to a `TorchFunctionMode`."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        name = function.overloadpacket
        if name is torch.ops.aten.lift_fresh and is_gpu(args[0].device):
            raise WaitError("a tensor is made of numbers of the CPU")
        if name is torch.ops.aten._to_copy and args[0].device != result.device:
            raise WaitError(f"{list(result.shape)} is copied between CPU and GPU")
        if name is torch.ops.aten.copy_ and args[0].device != args[1].device:
            raise WaitError(f"{list(args[0].shape)} is copied between CPU and GPU")
        return result


def on_gpu(value: Any) -> Any:
    """A tensor, or a module with its parameters and buffers, on the GPU, without values."""
    if isinstance(value, torch.Tensor):
        with MODE:
            return torch.empty(value.shape, dtype=value.dtype, device=GPU)
    for part in value.modules():
        for name, parameter in part._parameters.items():
            if parameter is not None:
                part._parameters[name] = torch.nn.Parameter(on_gpu(parameter), requires_grad=False)
        for name, buffer in part._buffers.items():
            if buffer is not None:
                part._buffers[name] = on_gpu(buffer)
    return value


def leaves(value: Any) -> Iterable:
    """What lies in nested lists, tuples and dicts."""
    if isinstance(value, (list, tuple)):
        for one in value:
            yield from leaves(one)
    elif isinstance(value, dict):
        yield from leaves(list(value.values()))
    else:
        yield value


def is_gpu(value: Any) -> bool:
    return (isinstance(value, torch.device) and value.type == "cuda") or (
        isinstance(value, str) and value[:4] == "cuda"
    )
