"""The layers of a policy's VLM compiled, for a robot that asks again and again with inputs of the same shapes."""

from typing import Any

import torch
from torch import nn

from vega3d.modeling.actions_vega3d import VegaForActionPrediction

WITH_GRAPHS = ("reduce-overhead", "max-autotune")  # modes of torch.compile that capture each compiled function


def compile_layers(policy: VegaForActionPrediction, **options: Any) -> list[nn.Module]:
    """Compiles the blocks of the vision tower and the layers of the language model of a policy, in place.

    The generator is compiled by its own option, `compile` of `VegaGeneratorConfig`. Weights and saving stay as they
    are; actions change by rounding. The first query compiles, which takes a minute or more at full size, as does the
    first one of another shape. `vega3d.inference.graphs.graph_queries` may follow, for a query of compiled layers as
    one CUDA graph.

    Args:
        policy: its layers share what is compiled. Those of a model that generates words would not: each reads its own
            place in the cache of keys and values, and torch gives up after eight.
        options: of `torch.compile`, but for those by which each layer would be a CUDA graph.

    Returns:
        What was compiled.

    Raises:
        ValueError: for a model that is no policy, one whose queries are graphs already, and for an option that makes
            CUDA graphs.
    """
    if not isinstance(policy, VegaForActionPrediction):
        raise ValueError(
            f"{type(policy).__name__} is no policy. Compile the layers of a VegaForActionPrediction alone: those of a "
            "model that generates words are compiled one by one, and most stay as they are."
        )
    if "forward" in vars(policy):
        raise ValueError(
            "The policy's queries are CUDA graphs of layers that are not compiled. Compile first, and call "
            "`graph_queries` after it; `del policy.forward` ends the graphs."
        )
    mode, inductor = options.get("mode"), options.get("options") or {}
    if mode in WITH_GRAPHS or inductor.get("triton.cudagraphs"):
        asked = f"mode is {mode!r}" if mode in WITH_GRAPHS else "options has 'triton.cudagraphs'"
        raise ValueError(
            f"{asked}, which makes a CUDA graph of each layer, and one overwrites what another has given. Leave it "
            "out, and call vega3d.inference.graphs.graph_queries after this: it makes one graph of the whole query."
        )
    core = policy.vlm_core
    layers = [*core.visual.blocks, *core.language_model.layers]
    for layer in layers:
        layer.forward = torch.compile(layer.forward, **options)
    return layers
