"""The fused model on tensors that were computed before: the same weights and layers as its own `forward`, batched."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from transformers.modeling_outputs import BaseModelOutputWithPast

from research.tiny.study.packs import IGNORED, Pack, Prefix
from vega3d.modeling.alignment_vega3d import align_space
from vega3d.modeling.modeling_vega3d import VegaForSpatialReasoning


def fused_tokens(
    model: VegaForSpatialReasoning, semantic: torch.Tensor, hidden: torch.Tensor | None, prefix: Prefix
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


def projected_tokens(model: VegaForSpatialReasoning, hidden: torch.Tensor, prefix: Prefix) -> torch.Tensor:
    """float[B, N, D]: generative tokens of float[B, t, h, w, C], aligned with the semantic ones."""
    projector = model.model.projector
    _, rows, columns = prefix.grid
    scale = projector.merge if projector.on_patch_grid else 1
    return projector.project(align_space(hidden, rows * scale, columns * scale)).flatten(1, 3)


def packed_states(model: VegaForSpatialReasoning, tokens: torch.Tensor, pack: Pack, prefix: Prefix) -> torch.Tensor:
    """float[B, L, D]: last hidden states of the language model, the visual tokens float[B, N, D] in their places."""
    return packed_outputs(model, tokens, pack, prefix).last_hidden_state


def packed_outputs(
    model: VegaForSpatialReasoning, tokens: torch.Tensor, pack: Pack, prefix: Prefix, **options: Any
) -> BaseModelOutputWithPast:
    """As `packed_states`, with all that transformers gives back, such as `output_hidden_states=True` asks for."""
    embedded = model.get_input_embeddings()(pack.ids)
    start, end = prefix.first, prefix.first + prefix.visual_tokens
    embedded = torch.cat([embedded[:, :start], tokens.to(embedded.dtype), embedded[:, end:]], dim=1)
    language: nn.Module = model.model.vlm.base_model.language_model
    return language(
        inputs_embeds=embedded, attention_mask=pack.mask(), position_ids=pack.positions, use_cache=False, **options
    )


def answer_loss(model: VegaForSpatialReasoning, states: torch.Tensor, pack: Pack) -> torch.Tensor:
    """Mean cross-entropy over all answer tokens of the batch, in float32, as the model's own loss."""
    is_answer = pack.labels != IGNORED
    logits = model.get_output_embeddings()(states[:, :-1][is_answer[:, 1:]])  # float[answers, V]
    return F.cross_entropy(logits.float(), pack.labels[is_answer])
