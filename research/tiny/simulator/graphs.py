"""Functions of tensors as CUDA graphs: small models spend a step on launching thousands of short kernels."""

from collections.abc import Callable
from typing import Any

import torch

WARM_UP = 3  # calls before one is captured, in which libraries choose their kernels


class Graphed:
    """A function whose calls are captured once for each set of shapes, and replayed from then on.

    Args:
        function: of tensors on one GPU, giving any nesting of tensors. It must launch the same kernels for the same
            shapes, must not draw random numbers, and must not wait for the GPU.
    """

    def __init__(self, function: Callable[..., Any]):
        self.function = function
        self._captured: dict[tuple, tuple[torch.cuda.CUDAGraph, list[torch.Tensor], Any]] = {}

    def __call__(self, *inputs: torch.Tensor) -> Any:
        """What the function gives; its tensors are overwritten by the next call with the same shapes."""
        key = tuple((tensor.shape, tensor.dtype) for tensor in inputs)
        if key not in self._captured:
            self._captured[key] = self._capture(inputs)
        graph, places, outputs = self._captured[key]
        for place, tensor in zip(places, inputs, strict=True):
            place.copy_(tensor)
        graph.replay()
        return outputs

    def _capture(self, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.cuda.CUDAGraph, list[torch.Tensor], Any]:
        places = [tensor.detach().clone() for tensor in inputs]
        beside = torch.cuda.Stream()
        beside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(beside):
            for _ in range(WARM_UP):
                self.function(*places)
        torch.cuda.current_stream().wait_stream(beside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            outputs = self.function(*places)
        return graph, places, outputs


def graphed(function: Callable[..., Any], device: torch.device) -> Callable[..., Any]:
    """`Graphed` on a GPU, the function itself on a CPU."""
    return Graphed(function) if device.type == "cuda" else function
