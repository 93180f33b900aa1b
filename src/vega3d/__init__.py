"""VEGA-3D for the Hugging Face stack: a frozen video diffusion model fused with a vision-language model."""

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
from vega3d.modeling.pretrained_vega3d import VegaCausalLMOutput, VegaEncoderOutput, VegaModelOutput
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
]
