"""Attention of the VLM's vision tower over its windows in one kernel, on a GPU.

Without the flash-attn package transformers attends to each window of each frame in a call of its own: thousands of
small kernels, whose launching takes longer than the language model. torch has the same kernel for packed sequences.
"""

from typing import Any

import torch
from transformers import PreTrainedModel
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

NAME = "flash_packed_windows"  # "flash" tells transformers to hand over packed windows


def packed_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: None,
    *,
    cu_seq_lens_q: torch.Tensor,
    max_length_q: int,
    **kwargs,
) -> tuple[torch.Tensor, None]:
    """Attention within each window, in the form in which transformers calls an attention function.

    Args:
        module: the layer that attends.
        query: float16 or bfloat16[1, H, L, C], windows one after another; so are `key` and `value`.
        attention_mask: None, because `cu_seq_lens_q` separates the windows.
        cu_seq_lens_q: int32[windows + 1], where each window begins, and the end.
        max_length_q: tokens of the longest window.

    Returns:
        float[1, L, H, C], and None for the weights.
    """
    from torch.nn.attention.varlen import varlen_attn

    query, key, value = (states[0].transpose(0, 1) for states in (query, key, value))  # float[L, H, C]
    attended: Any = varlen_attn(query, key, value, cu_seq_lens_q, cu_seq_lens_q, max_length_q, max_length_q)
    return attended.unsqueeze(0), None


def pack_vision_attention(model: PreTrainedModel) -> bool:
    """Makes the vision tower of a fused model attend to all its windows at once, if it can, and says whether it can.

    It can on a GPU, in float16 or bfloat16, if no other flash attention was chosen. The features change by rounding
    only.
    """
    vision = model.base_model.vlm.base_model.visual
    able = vision.device.type == "cuda" and vision.dtype in (torch.float16, torch.bfloat16)
    if able and vision.config._attn_implementation == "sdpa":
        ALL_ATTENTION_FUNCTIONS.register(NAME, packed_attention)
        vision.config._attn_implementation = NAME
        return True
    return False
