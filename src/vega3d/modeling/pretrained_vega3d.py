"""What the models of this package share: what they return, what they support, and how new weights begin."""

from dataclasses import dataclass

import torch
from torch import nn
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
from transformers.utils import ModelOutput

from .checkpoint_vega3d import CheckpointedModel
from .configuration_vega3d import VegaConfig
from .fusion_vega3d import InstructionGatedFusion, TokenGatedResidualFusion, WeightedFusion

Gates = dict[str, tuple[torch.Tensor, ...]]


@dataclass
class VegaEncoderOutput:
    """Fused visual tokens, computed once a prompt. A `ModelOutput` would unpack the dict of its first field.

    Args:
        mm_encoder_outputs: for each of `image` and `video` given, the VLM's encoder output with the fused tokens,
            float[N, D] an item, as its `pooler_output`.
        gates: for each modality, float[t, h, w] an item on its token grid ([t, h, w, D] for `channel_gated`), where 1
            keeps only the semantic token; None unless asked for, or for a fusion without a gate.
    """

    mm_encoder_outputs: dict[str, ModelOutput]
    gates: Gates | None = None


@dataclass
class VegaModelOutput(BaseModelOutputWithPast):
    """`last_hidden_state` float[B, L, D], cache, and `gates` as in `VegaEncoderOutput`."""

    gates: Gates | None = None


@dataclass
class VegaCausalLMOutput(CausalLMOutputWithPast):
    """`loss`, `logits` float[B, L, V], cache, and `gates` as in `VegaEncoderOutput`."""

    gates: Gates | None = None


class VegaPreTrainedModel(CheckpointedModel):
    config_class = VegaConfig
    config: VegaConfig
    base_model_prefix = "model"
    input_modalities = ("image", "video", "text")
    supports_gradient_checkpointing = True
    _skip_keys_device_placement = ["past_key_values"]  # noqa: RUF012
    _keep_in_fp32_modules_strict = ["fusion.residual_scale"]  # noqa: RUF012
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = False  # the generator and the VLM's vision tower have data-dependent sizes

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, TokenGatedResidualFusion):
            init.constant_(module.residual_scale, self.config.fusion_residual_init)
        elif isinstance(module, WeightedFusion):
            init.constant_(module.semantic_weight, 0.5)
            init.constant_(module.generative_weight, 0.5)
        elif isinstance(module, InstructionGatedFusion):
            init.constant_(module.gate_bias, self.config.fusion_gate_bias)
            init.constant_(module.instruction_scale, 1.0)
        elif isinstance(module, nn.MultiheadAttention):
            init.normal_(module.in_proj_weight, mean=0.0, std=self.config.initializer_range)
            init.zeros_(module.in_proj_bias)
