"""Attention that makes use of what is known of packs and frames: fewer and larger calls, the same sums."""

import torch
import torch.nn.functional as F
from transformers import PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

EQUAL_WINDOWS = "flash_equal_windows"  # "flash" tells transformers to hand over packed windows
PREFIXED = "prefixed"

Attended = tuple[torch.Tensor, torch.Tensor | None]


def equal_windows_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: None,
    *,
    cu_seq_lens_q: torch.Tensor,
    **kwargs,
) -> Attended:
    """Attention of the vision tower within windows of one size, in one call on any device.

    Args:
        module: of the vision tower.
        query: float[1, H, W * L, C], W windows of L patches one after another; so are `key` and `value`.
        attention_mask: None; windows are told apart by their number.
        cu_seq_lens_q: int32[W + 1].

    Returns:
        float[1, W * L, H, C], and None for the weights.
    """
    windows = len(cu_seq_lens_q) - 1
    query, key, value = (states[0].unflatten(1, (windows, -1)).transpose(0, 1) for states in (query, key, value))
    attended = F.scaled_dot_product_attention(query, key, value)  # float[W, H, L, C]
    return attended.transpose(1, 2).flatten(0, 1).unsqueeze(0), None


def prefixed_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    **kwargs,
) -> Attended:
    """Attention of a pack: the prefix is plainly causal, for which there is a faster kernel, the rest has a mask.

    Args:
        module: of the language model.
        query: float[B, H, L, C]; so are `key` and `value`.
        attention_mask: bool[B, 1, L - P, L], of the tokens after a prefix of P; a mask of another shape, or None, is
            one of transformers' own, and goes to its own function.
        scaling: of the logits.

    Returns:
        float[B, L, H, C], and None for the weights.
    """
    start = 0 if attention_mask is None else query.shape[2] - attention_mask.shape[2]
    if attention_mask is None or start <= 0:
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **kwargs)
    before, after = query[:, :, :start], query[:, :, start:]
    first_keys, first_values = key[:, :, :start], value[:, :, :start]
    before = F.scaled_dot_product_attention(before, first_keys, first_values, is_causal=True, scale=scaling)
    after = F.scaled_dot_product_attention(after, key, value, attn_mask=attention_mask, scale=scaling)
    return torch.cat([before, after], dim=2).transpose(1, 2), None


def use_packed_attention(model: PreTrainedModel) -> None:
    """
    Raises:
        ValueError: if some blocks of the vision tower attend within smaller windows than a pair of frames, so that
            windows may differ in size, or keys are shared by several heads.
    """
    vlm = model.base_model.vlm.base_model
    vision, text = vlm.visual.config, vlm.language_model.config
    if len(vision.fullatt_block_indexes) != vision.depth or text.num_key_value_heads != text.num_attention_heads:
        raise ValueError("The VLM is not of this recipe: give one of research.tiny.study.vlm.build_vlm.")
    ALL_ATTENTION_FUNCTIONS.register(EQUAL_WINDOWS, equal_windows_attention)
    ALL_ATTENTION_FUNCTIONS.register(PREFIXED, prefixed_attention)
    ALL_MASK_ATTENTION_FUNCTIONS.register(PREFIXED, sdpa_mask)
    vision._attn_implementation = EQUAL_WINDOWS
    text._attn_implementation = PREFIXED
