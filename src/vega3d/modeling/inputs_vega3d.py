"""What the fused model reads off its inputs: clips from packed cells, placeholders, the question."""

import torch
from torch import nn

from .configuration_vega3d import VegaConfig

MERGED = {"image": 1, "video": 2}  # the VLM's mm_token_type_ids


def unpack_cells(
    cells: torch.Tensor | None, grid: torch.Tensor | None, modality: str, count: int, cell: int
) -> list[torch.Tensor]:
    """Packed cells -> one [t, 3, h * cell, w * cell] a clip.

    Args:
        cells: [P, 3 * cell * cell], rows in (t, h, w) order, clip after clip.
        grid: int[n, 3], (t, h, w) of each clip in cells.
        modality: `image` or `video`, for messages.
        count: clips expected, as many as the VLM sees.
        cell: edge of a cell [px].

    Raises:
        ValueError: if clips are missing or of another size than the grid says.
    """
    suffix = "" if modality == "image" else "_videos"
    if cells is None or grid is None:
        raise ValueError(
            f"There are {count} {modality}s, but no generator_pixel_values{suffix} with their "
            f"generator_{modality}_grid_thw. Use VegaProcessor, give generator_hidden_states, or set fusion='none'."
        )
    if len(grid) != count:
        raise ValueError(
            f"There are {count} {modality}s for the VLM, but {len(grid)} for the generator. "
            "Give both streams the same frames."
        )
    sizes = grid.prod(-1).tolist()
    if cells.ndim != 2 or cells.shape != (sum(sizes), 3 * cell * cell):
        raise ValueError(
            f"generator_pixel_values{suffix} must be [{sum(sizes)}, {3 * cell * cell}] for the grid "
            f"{grid.tolist()}, but is {list(cells.shape)}."
        )
    clips = []
    for packed, (t, h, w) in zip(cells.split(sizes), grid.tolist(), strict=True):
        windows = packed.reshape(t, h, w, 3, cell, cell)
        clips.append(windows.permute(0, 3, 1, 4, 2, 5).reshape(t, 3, h * cell, w * cell))
    return clips


def token_id(modality: str, config: VegaConfig) -> int:
    return config.image_token_id if modality == "image" else config.video_token_id


def token_type_ids(input_ids: torch.Tensor, config: VegaConfig) -> torch.Tensor:
    """int[B, L]: 1 at image placeholders, 2 at video placeholders, 0 elsewhere."""
    types = torch.zeros_like(input_ids, dtype=torch.int)
    for modality, number in MERGED.items():
        types[input_ids == token_id(modality, config)] = number
    return types


def check_placeholders(
    input_ids: torch.Tensor,
    config: VegaConfig,
    pixels: dict[str, torch.Tensor | None],
    grids: dict[str, torch.Tensor | None],
) -> None:
    """Raises ValueError, before any heavy work, if placeholders in the text and visuals given do not match."""
    merge = config.vlm_config.vision_config.spatial_merge_size
    for modality in MERGED:
        tokens = int((input_ids == token_id(modality, config)).sum())
        grid = grids[modality]
        if pixels[modality] is not None and grid is None:
            raise ValueError(f"{modality} pixels come without {modality}_grid_thw. Use VegaProcessor.")
        features = 0 if pixels[modality] is None else int((grid.prod(-1) // merge**2).sum())
        if tokens != features:
            raise ValueError(
                f"The text has {tokens} {modality} placeholder tokens, but the {modality}s given have {features}. "
                f"Give one {modality} for each placeholder of the prompt."
            )


def visual_rows(input_ids: torch.Tensor, modality: str, grid: torch.Tensor, config: VegaConfig) -> list[int]:
    """Row of the batch in which each visual of one modality stands."""
    merge = config.vlm_config.vision_config.spatial_merge_size
    left = (input_ids == token_id(modality, config)).sum(-1).tolist()
    rows, row = [], 0
    for size in (grid.prod(-1) // merge**2).tolist():
        while left[row] == 0:
            row += 1
        left[row] -= size
        rows.append(row)
    return rows


def instruction_embeddings(
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor | None,
    labels: torch.Tensor | None,
    config: VegaConfig,
    embeddings: nn.Module,
) -> torch.Tensor:
    """float[B, D]: mean embedding of each prompt's text tokens, without visuals, padding and the answer.

    Raises:
        ValueError: if a prompt has no text.
    """
    is_text = token_type_ids(input_ids, config) == 0
    if attention_mask is not None:
        is_text &= attention_mask.bool()
    if labels is not None:
        is_text &= labels == -100
    if not is_text.any(-1).all():
        raise ValueError("fusion='instruction_gated' needs a question, but a prompt of the batch has no text tokens.")
    weight = (is_text / is_text.sum(-1, keepdim=True)).to(embeddings.weight.dtype)
    return torch.einsum("bl,bld->bd", weight, embeddings(input_ids))
