"""What the fused model returns."""

from dataclasses import dataclass

import torch
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
from transformers.utils import ModelOutput

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
