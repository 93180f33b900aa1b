"""Attention of the VLM's vision tower over many windows at once, and the positions of images of one size at once.

Without the flash-attn package transformers attends to each window of each frame in a call of its own, and counts the
positions of each image apart: thousands of small operations, whose launching takes longer than the computation.
"""

from itertools import groupby
from typing import Any

import torch
import torch.nn.functional as F
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
    scaling: float | None = None,
    dropout: float = 0.0,
    **kwargs,
) -> tuple[torch.Tensor, None]:
    """Attention within each window, in the form in which transformers calls an attention function.

    On a GPU in 16 bits it is torch's kernel for packed sequences; elsewhere windows of one length are a batch. On a
    CPU in float32 outputs and gradients equal those of windows one by one bit for bit, elsewhere but for rounding.

    Args:
        module: the layer that attends.
        query: float[1, H, L, C], windows one after another; so are `key` and `value`.
        attention_mask: None, because `cu_seq_lens_q` separates the windows.
        cu_seq_lens_q: int32[windows + 1], where each window begins, and the end.
        max_length_q: tokens of the longest window.
        scaling: of the logits; None for 1 / sqrt(C).
        dropout: share of the weights that are dropped.

    Returns:
        float[1, L, H, C], and None for the weights.
    """
    if query.device.type == "cuda" and query.dtype in (torch.float16, torch.bfloat16):
        from torch.nn.attention.varlen import varlen_attn

        query, key, value = (states[0].transpose(0, 1) for states in (query, key, value))  # float[L, H, C]
        attended: Any = varlen_attn(query, key, value, cu_seq_lens_q, cu_seq_lens_q, max_length_q, max_length_q)
        return attended.unsqueeze(0), None
    options: dict[str, Any] = {"dropout_p": dropout, "scale": scaling}
    count = len(cu_seq_lens_q) - 1
    if count * max_length_q == query.shape[2]:  # none can be shorter; the lengths stay unread, for which a GPU waits
        query, key, value = (states[0].unflatten(1, (count, -1)).transpose(0, 1) for states in (query, key, value))
        attended = F.scaled_dot_product_attention(query, key, value, **options)  # float[windows, H, L / windows, C]
        return attended.transpose(1, 2).flatten(0, 1).unsqueeze(0), None
    lengths = cu_seq_lens_q.diff().tolist()
    windows = list(zip(*(states.split(lengths, dim=2) for states in (query, key, value)), strict=True))
    outputs: dict[int, torch.Tensor] = {}
    for length in set(lengths):
        numbers = [number for number, other in enumerate(lengths) if other == length]
        query, key, value = (
            torch.cat(states) for states in zip(*(windows[number] for number in numbers), strict=True)
        )
        attended = F.scaled_dot_product_attention(query, key, value, **options)  # float[numbers, H, length, C]
        outputs.update(zip(numbers, attended.transpose(1, 2).split(1), strict=True))
    return torch.cat([outputs[number] for number in range(count)], dim=1), None


def join_equal_images(vision: torch.nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict] | None:
    """Hook before a vision tower that makes images of one size, one after another, the frames of a single video.

    The tower tells neither from the other, and counts the positions of a video once.
    """
    grids = kwargs["grid_thw"].tolist()  # t, h, w
    joined = [[sum(t for t, _, _ in same), *size] for size, same in groupby(grids, key=lambda grid: grid[1:])]
    if len(joined) == len(grids):
        return None
    return args, {**kwargs, "grid_thw": kwargs["grid_thw"].new_tensor(joined)}


def pack_vision_attention(model: PreTrainedModel) -> bool:
    """Makes the vision tower of a fused model attend to many windows at once, and says whether it does.

    It does so unless another attention than the default, sdpa, was chosen. It may be moved and cast afterwards. How
    its features change says `packed_attention`.
    """
    vision = model.base_model.vlm.base_model.visual
    if vision.config._attn_implementation == "sdpa":
        ALL_ATTENTION_FUNCTIONS.register(NAME, packed_attention)
        vision.config._attn_implementation = NAME
        vision.register_forward_pre_hook(join_equal_images, with_kwargs=True)
    return vision.config._attn_implementation == NAME
