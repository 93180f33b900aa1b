"""VEGA-3D for the Hugging Face stack: a frozen video diffusion model fused with a vision-language model."""

import importlib

from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForImageTextToText,
    AutoModelForMultimodalLM,
    AutoProcessor,
)

from vega3d.modeling.configuration_vega3d import VegaConfig, VegaGeneratorConfig
from vega3d.modeling.generator_vega3d import VegaGenerator
from vega3d.modeling.modeling_vega3d import VegaForSpatialReasoning, VegaModel
from vega3d.modeling.outputs_vega3d import VegaCausalLMOutput, VegaEncoderOutput, VegaModelOutput
from vega3d.processing.processing_vega3d import VegaProcessor

AutoConfig.register(VegaConfig.model_type, VegaConfig)
for auto_class in (AutoModel, AutoModelForImageTextToText, AutoModelForMultimodalLM):
    auto_class.register(VegaConfig, VegaForSpatialReasoning)
AutoProcessor.register(VegaConfig, VegaProcessor)
VegaConfig.register_for_auto_class()
VegaForSpatialReasoning.register_for_auto_class("AutoModelForImageTextToText")
VegaProcessor.register_for_auto_class()

__version__ = "0.1.0"
__all__ = [
    "VegaCausalLMOutput",
    "VegaConfig",
    "VegaEncoderOutput",
    "VegaForSpatialReasoning",
    "VegaGenerator",
    "VegaGeneratorConfig",
    "VegaModel",
    "VegaModelOutput",
    "VegaProcessor",
    "load",
]


def __getattr__(name: str):
    """`load` stands above all else in the package, so it is imported when it is used."""
    if name == "load":
        return importlib.import_module("vega3d.hub.load").load
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
