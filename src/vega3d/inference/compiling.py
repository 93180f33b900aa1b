"""The layers of a VLM compiled, for models that are asked again and again with inputs of the same shapes."""

from typing import Any

from torch import nn


def compile_layers(model: Any, mode: str | None = None) -> list[nn.Module]:
    """Compiles the blocks of the vision tower and the layers of the language model of a fused model, in place.

    The generator is compiled by its own option, `compile` of `VegaGeneratorConfig`. Weights and saving stay as they
    are; answers change by rounding. The first call compiles, which takes a minute or more at full size, as does the
    first one of another shape.

    Args:
        model: `VegaForActionPrediction`, or another model around `VegaModel`.
        mode: as of `torch.compile`; `reduce-overhead` takes CUDA graphs, and needs the same shapes in all calls.

    Returns:
        What was compiled.
    """
    core = model.vlm_core
    layers = [*core.visual.blocks, *core.language_model.layers]
    for layer in layers:
        layer.compile(mode=mode)
    return layers
