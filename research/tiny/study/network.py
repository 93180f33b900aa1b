"""The fused model on tensors that were computed before: the same weights and layers as its own `forward`, batched.

Attention makes use of what is known of packs and frames: fewer and larger calls, the same sums.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention
from transformers import PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask
from transformers.modeling_outputs import BaseModelOutputWithPast
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from research.tiny.study.packs import Pack, Prefix, pack_mask, sees
from vega3d.modeling.alignment_vega3d import align_space
from vega3d.modeling.inputs_vega3d import IGNORED
from vega3d.modeling.modeling_vega3d import VegaTaskModel

EQUAL_WINDOWS = "flash_equal_windows"  # "flash" tells transformers to hand over packed windows
PREFIXED, BLOCKS = "prefixed", "blocks"  # attention of packs, the latter in compiled layers

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


def blocks_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: BlockMask,
    scaling: float | None = None,
    **kwargs,
) -> Attended:
    """`prefixed_attention` within a compiled layer: only of blocks of tokens that see each other."""
    return flex_attention(query, key, value, block_mask=attention_mask, scale=scaling).transpose(1, 2), None


@cache
def compiled_block_mask() -> Any:
    """`create_block_mask`, compiled once a process."""
    return torch.compile(create_block_mask, dynamic=False)


@contextmanager
def compiled_layers(model: VegaTaskModel) -> Iterator[None]:
    """The language model's layers compiled, while it is entered: few kernels in place of many short ones."""
    language = model.model.vlm.base_model.language_model
    language.config._attn_implementation = BLOCKS
    for layer in language.layers:
        layer.forward = torch.compile(layer.forward, dynamic=False)
    try:
        yield
    finally:
        language.config._attn_implementation = PREFIXED
        for layer in language.layers:
            del layer.forward


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
    ALL_ATTENTION_FUNCTIONS.register(BLOCKS, blocks_attention)
    ALL_MASK_ATTENTION_FUNCTIONS.register(PREFIXED, sdpa_mask)
    vision._attn_implementation = EQUAL_WINDOWS
    text._attn_implementation = PREFIXED


def fused_tokens(
    model: VegaTaskModel, semantic: torch.Tensor, hidden: torch.Tensor | None, prefix: Prefix
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Projects and fuses a batch of clips at once.

    Args:
        model: its projector and fusion are used; with fusion none the semantic tokens pass.
        semantic: float[B, N, D], visual tokens of the VLM.
        hidden: float[B, t, h, w, C], of the generator, already averaged over the VLM's temporal patches.
        prefix: says what grid the N tokens lie on.

    Returns:
        float[B, N, D], and the gate float[B, N, 1] or None.

    Raises:
        ValueError: for a fusion that reads the question.
    """
    core = model.model
    if core.fusion is None or hidden is None:
        return semantic, None
    if core.fusion.needs_instruction:
        raise ValueError(
            f"fusion={model.config.fusion!r} reads the question; tokens of a clip are shared by many here."
        )
    return core.fusion(semantic, projected_tokens(model, hidden.to(semantic.dtype), prefix), prefix.grid)


def projected_tokens(model: VegaTaskModel, hidden: torch.Tensor, prefix: Prefix) -> torch.Tensor:
    """float[B, N, D]: generative tokens of float[B, t, h, w, C], aligned with the semantic ones."""
    projector = model.model.projector
    _, rows, columns = prefix.grid
    scale = projector.merge if projector.on_patch_grid else 1
    return projector.project(align_space(hidden, rows * scale, columns * scale)).flatten(1, 3)


def packed_outputs(
    model: VegaTaskModel, tokens: torch.Tensor | None, pack: Pack, prefix: Prefix, **options: Any
) -> BaseModelOutputWithPast:
    """What the language model gives of a pack, the visual tokens float[B, N, D] in their places; `options` are its."""
    embedded = model.get_input_embeddings()(pack.ids)
    if tokens is not None:
        start, end = prefix.first, prefix.first + prefix.visual_tokens
        embedded = torch.cat([embedded[:, :start], tokens.to(embedded.dtype), embedded[:, end:]], dim=1)
    language = model.model.vlm.base_model.language_model
    if language.config._attn_implementation == BLOCKS:
        count, length = pack.segments.shape
        mask = compiled_block_mask()(sees(pack.segments), count, None, length, length, device=embedded.device)
    else:
        mask = pack_mask(pack.segments, len(prefix.ids))
    return language(
        inputs_embeds=embedded,
        attention_mask=mask,
        position_ids=pack.positions,
        use_cache=False,
        **options,
    )


def answer_loss(model: VegaTaskModel, states: torch.Tensor, pack: Pack, prefix: Prefix) -> torch.Tensor:
    """Mean cross-entropy over all answer tokens of the batch, in float32, as the model's own loss."""
    start = len(prefix.ids)  # there is no answer before
    logits = model.get_output_embeddings()(states[:, start:-1]).float()
    return F.cross_entropy(logits.flatten(0, 1), pack.labels[:, start + 1 :].flatten(), ignore_index=IGNORED)


def visual_states(outputs: BaseModelOutputWithPast, layer: int, prefix: Prefix) -> torch.Tensor:
    """float[B, N, D]: visual tokens after a layer."""
    assert outputs.hidden_states is not None
    return outputs.hidden_states[layer][:, prefix.first : prefix.first + prefix.visual_tokens]
