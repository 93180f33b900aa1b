"""What the fused model reads off its inputs: clips from packed patches, placeholders, the question."""

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict, TypeVar

import torch
from transformers.utils import ModelOutput

from .alignment_vega3d import check_frames
from .configuration_vega3d import VegaConfig, VegaGeneratorConfig

TOKEN_TYPES = {"image": 1, "video": 2}  # the VLM's mm_token_type_ids
SUFFIXES = {"image": "", "video": "_videos"}  # of the names of pixels
Item = TypeVar("Item")


class VisualInputs(TypedDict, total=False):
    """Images and videos of a batch, as `VegaProcessor` gives them: the visual arguments of the model."""

    # float[patches, C], semantic stream of the images, as the VLM's processor packs it; then that of the videos.
    pixel_values: torch.Tensor | None
    pixel_values_videos: torch.Tensor | None
    # int[n, 3], grid (t, h, w) of the VLM's patches of each image, and of each video.
    image_grid_thw: torch.Tensor | None
    video_grid_thw: torch.Tensor | None
    # uint8[P, 3 * size * size] or float in [-1, 1], generative stream of the images, in patches of size x size px;
    # then that of the videos. Or one such tensor a visual, as serving engines hand them on.
    generator_pixel_values: torch.Tensor | Sequence[torch.Tensor] | None
    generator_pixel_values_videos: torch.Tensor | Sequence[torch.Tensor] | None
    # int[n, 3], grid (t, h, w) of the generator's patches of each image, and of each video; t is its number of frames.
    generator_image_grid_thw: torch.Tensor | None
    generator_video_grid_thw: torch.Tensor | None
    # float[t, h, w, C] for each image, then each video, in place of the generator's pixels: features of
    # `VegaGenerator.encode`, on its own grid. The generator's grids may be left out in the `frame` and `views` modes,
    # where t is the number of frames.
    generator_hidden_states: Sequence[torch.Tensor] | None
    # float32[N, 3], where each visual token of the images, then of the videos, is in the world [m]; and bool[N], which
    # of them have a position. Without the mask all have.
    visual_positions: torch.Tensor | None
    visual_positions_mask: torch.Tensor | None


PATCH_GRIDS = ("image_grid_thw", "video_grid_thw")
VISUAL_INPUTS = tuple(name for name in VisualInputs.__annotations__ if name not in PATCH_GRIDS)
IGNORED = -100  # label of a token without a loss
LANGUAGE_INPUTS = ("mm_token_type_ids", "second_per_grid_ts", "coord_positions")


def split_visuals(inputs: Mapping[str, Any]) -> tuple[VisualInputs, dict[str, Any]]:
    """The visual arguments among some, and the others."""
    visual: Any = {name: inputs[name] for name in VisualInputs.__annotations__ if name in inputs}
    return visual, {name: value for name, value in inputs.items() if name not in visual}


def equal_items(items: Sequence[Hashable]) -> list[list[int]]:
    """Numbers of equal items, group by group, in the order of their first ones."""
    groups: dict[Hashable, list[int]] = {}
    for number, item in enumerate(items):
        groups.setdefault(item, []).append(number)
    return list(groups.values())


@dataclass(frozen=True, kw_only=True)
class VisualStreams:
    """Both streams of all images, or of all videos, of a batch; shapes as in `VisualInputs`."""

    pixels: torch.Tensor
    grid: torch.Tensor
    generator_patches: torch.Tensor | Sequence[torch.Tensor] | None
    generator_grid: torch.Tensor | None

    @property
    def grids(self) -> list[tuple[int, int, int]]:
        """(t, h, w) of the VLM's patches of each visual."""
        return [(t, h, w) for t, h, w in self.grid.tolist()]


def checked_streams(ids: torch.Tensor, visual: VisualInputs, config: VegaConfig) -> dict[str, VisualStreams]:
    """The streams of `image` and `video`, where there are any, which fit the placeholders of int[B, L].

    Raises:
        TypeError: for an argument that is no visual one.
        ValueError: if pixels, grids and placeholders do not fit each other.
    """
    unknown = visual.keys() - VisualInputs.__annotations__.keys()
    if unknown:
        raise TypeError(f"encode() got an unexpected keyword argument {min(unknown)!r}")
    streams = visual_streams(visual)
    merge = config.vlm_config.vision_config.spatial_merge_size
    tokens = {name: int((stream.grid.prod(-1) // merge**2).sum()) for name, stream in streams.items()}
    check_placeholders(ids, config, tokens)
    check_positions(visual, sum(tokens.values()))
    for name, suffix in SUFFIXES.items():
        if visual.get(f"generator_pixel_values{suffix}") is not None and name not in streams:
            raise ValueError(
                f"generator_pixel_values{suffix} come without pixel_values{suffix}: the {name}s would be seen by the "
                "generator only. Give both, as VegaProcessor does."
            )
    return streams


def check_positions(visual: VisualInputs, count: int) -> None:
    """Raises ValueError unless there is a position for each of `count` visual tokens, or there are none at all."""
    points, mask = visual.get("visual_positions"), visual.get("visual_positions_mask")
    if points is None:
        if mask is not None:
            raise ValueError("visual_positions_mask comes without visual_positions. Give both, as VegaProcessor does.")
        return
    if points.shape != (count, 3):
        raise ValueError(
            f"visual_positions must be float[{count}, 3], one for each visual token, but are {list(points.shape)}. "
            "Give those that VegaProcessor made of these visuals."
        )
    if points.dtype not in (torch.float32, torch.float64):
        raise ValueError(
            f"visual_positions are {points.dtype}, but must be float32: half precision would move them by "
            "centimetres. Call `.to(device)` on the processor's output without a dtype; the model casts by itself."
        )
    if mask is not None and (mask.shape != (count,) or mask.dtype != torch.bool):
        raise ValueError(f"visual_positions_mask must be bool[{count}], but is {mask.dtype} {list(mask.shape)}.")
    bad = ~points.isfinite().all(-1) if mask is None else mask & ~points.isfinite().all(-1)
    if bad.any():
        raise ValueError(
            f"The positions of {int(bad.sum())} of {count} visual tokens are NaN or infinite. Leave them out by "
            "visual_positions_mask."
        )


def visual_streams(visual: Mapping[str, Any]) -> dict[str, VisualStreams]:
    """The streams of each modality; one without pixels is left out.

    Raises ValueError if there are pixels without their grid, or of another number.
    """
    streams = {}
    for name, suffix in SUFFIXES.items():
        pixels, grid = visual.get(f"pixel_values{suffix}"), visual.get(f"{name}_grid_thw")
        if pixels is not None and grid is None:
            raise ValueError(f"{name} pixels come without {name}_grid_thw. Use VegaProcessor.")
        if pixels is not None and grid is not None:
            patches = int(grid.prod(-1).sum())
            if len(pixels) != patches:
                raise ValueError(
                    f"pixel_values{suffix} has {len(pixels)} patches, but {name}_grid_thw {grid.tolist()} has "
                    f"{patches}. Give the pixels and the grid of the same {name}s."
                )
            streams[name] = VisualStreams(
                pixels=pixels,
                grid=grid,
                generator_patches=visual.get(f"generator_pixel_values{suffix}"),
                generator_grid=visual.get(f"generator_{name}_grid_thw"),
            )
    return streams


def by_modality(streams: Mapping[str, VisualStreams], items: Sequence[Item]) -> dict[str, tuple[Item, ...]]:
    """What there is of each image, then each video, under `image` and `video`; nothing, if there is nothing."""
    rest, parts = list(items), {}
    for name, stream in streams.items() if items else ():
        parts[name], rest = tuple(rest[: len(stream.grid)]), rest[len(stream.grid) :]
    return parts


def check_lengths(streams: dict[str, VisualStreams], num_frames: Sequence[int]) -> None:
    """Raises ValueError unless the clips have the frames of the VLM's temporal patches."""
    patches = [grid[0] for stream in streams.values() for grid in stream.grids]
    for count, num_patches in zip(num_frames, patches, strict=True):
        check_frames(count, num_patches)


def generator_clips(streams: dict[str, VisualStreams], config: VegaGeneratorConfig) -> list[torch.Tensor]:
    """Frames [t, 3, H, W] of each image, then each video.

    Raises ValueError if clips are missing, or of other numbers or lengths than the VLM's.
    """
    clips: list[torch.Tensor] = []
    for name, stream in streams.items():
        count, suffix = len(stream.grid), SUFFIXES[name]
        if stream.generator_patches is None or stream.generator_grid is None:
            raise ValueError(
                f"There are {count} {name}s, but no generator_pixel_values{suffix} with their "
                f"generator_{name}_grid_thw. Use VegaProcessor, give generator_hidden_states, or set fusion='none'. "
                "TRL's GRPOTrainer hands on a fixed list of inputs, which these are not on: it takes text only."
            )
        if len(stream.generator_grid) != count:
            raise ValueError(
                f"There are {count} {name}s for the VLM, but {len(stream.generator_grid)} for the generator. "
                "Give both streams the same frames."
            )
        clips += unpack_patches(stream.generator_patches, stream.generator_grid, config.patch_size)
    check_lengths(streams, [len(clip) for clip in clips])
    return clips


def cached_frames(
    streams: dict[str, VisualStreams], hidden_states: Sequence[torch.Tensor], config: VegaGeneratorConfig
) -> list[int]:
    """Number of frames of each clip whose hidden states are given.

    Raises ValueError if clips are missing, of other lengths than the VLM's, or of other channels than the generator's,
    or if the generator's pixels are given, too.
    """
    wanted = sum(len(stream.grid) for stream in streams.values())
    if len(hidden_states) != wanted:
        raise ValueError(
            f"There are {wanted} images and videos, but generator_hidden_states of {len(hidden_states)} clips. "
            "Give one entry for each image, then for each video."
        )
    for state in hidden_states:
        if state.ndim != 4 or state.shape[-1] != config.hidden_size:
            raise ValueError(
                f"generator_hidden_states must be float[t, h, w, {config.hidden_size}], but one is "
                f"{tuple(state.shape)}. They are the output of this generator's `encode`."
            )
    if any(stream.generator_patches is not None for stream in streams.values()):
        raise ValueError(
            "Both generator_hidden_states and the generator's pixels are given, and one could be of other clips. "
            "Leave out one of them."
        )
    grids = [stream.generator_grid for stream in streams.values() if stream.generator_grid is not None]
    if len(grids) == len(streams):
        num_frames = [int(t) for grid in grids for t in grid[:, 0]]
    elif config.clip_mode == "clip" or config.frame_stride > 1:
        setting = "clip_mode='clip'" if config.clip_mode == "clip" else f"frame_stride={config.frame_stride}"
        raise ValueError(f"{setting} needs the generator's grids: their t is the number of frames.")
    else:
        num_frames = [len(state) for state in hidden_states]
    check_lengths(streams, num_frames)
    return num_frames


def unpack_patches(
    patches: torch.Tensor | Sequence[torch.Tensor] | None, grid: torch.Tensor | None, size: int
) -> list[torch.Tensor]:
    """Packed patches -> one [t, 3, h * size, w * size] a clip, where `size` is the edge of a patch [px].

    `patches` [P, 3 * size * size] lie in (t, h, w) order, clip after clip, or are one such tensor a clip; `grid`
    int[n, 3] is (t, h, w) of each clip in patches. Raises ValueError if they do not fill the grid, or have none.
    """
    if patches is None:
        return []
    if grid is None:
        raise ValueError("The generator's pixels come without their grid (t, h, w in patches). Use VegaProcessor.")
    counts, values = grid.prod(-1).tolist(), 3 * size * size
    if isinstance(patches, torch.Tensor) and patches.ndim == 2:
        if patches.shape != (sum(counts), values):
            raise ValueError(
                f"The generator's pixels must be [{sum(counts)}, {values}] for the grid {grid.tolist()}, "
                f"but are {list(patches.shape)}."
            )
        patches = patches.split(counts)
    shapes = [list(packed.shape) for packed in patches]
    if shapes != [[count, values] for count in counts]:
        raise ValueError(
            f"The generator's pixels, one tensor a clip, must be {[[count, values] for count in counts]} for the grid "
            f"{grid.tolist()}, but are {shapes}."
        )
    clips = []
    for packed, (t, h, w) in zip(patches, grid.tolist(), strict=True):
        windows = packed.reshape(t, h, w, 3, size, size)
        clips.append(windows.permute(0, 3, 1, 4, 2, 5).reshape(t, 3, h * size, w * size))
    return clips


def unpacked_clips(inputs: Mapping[str, Any], patch_size: int) -> list[torch.Tensor]:
    """The generator's pixels in the output of a processor as clips [t, 3, H, W]: each image, then each video."""
    clips: list[torch.Tensor] = []
    for name, suffix in SUFFIXES.items():
        pixels, grid = inputs.get(f"generator_pixel_values{suffix}"), inputs.get(f"generator_{name}_grid_thw")
        clips += unpack_patches(pixels, grid, patch_size)
    return clips


def token_id(modality: str, config: VegaConfig) -> int:
    return config.image_token_id if modality == "image" else config.video_token_id


def token_type_ids(input_ids: torch.Tensor, config: VegaConfig) -> torch.Tensor:
    """int[B, L]: 1 at image placeholders, 2 at video placeholders, 0 elsewhere."""
    types = torch.zeros_like(input_ids, dtype=torch.int)
    for modality, number in TOKEN_TYPES.items():
        types[input_ids == token_id(modality, config)] = number
    return types


def placeholder_ids(visual: Mapping[str, Any], config: VegaConfig) -> torch.Tensor:
    """int[1, N]: the placeholders alone of visuals that are given without a text."""
    merge = config.vlm_config.vision_config.spatial_merge_size
    ids = [
        torch.full((int(stream.grid.prod(-1).sum()) // merge**2,), token_id(name, config), device=stream.grid.device)
        for name, stream in visual_streams(visual).items()
    ]
    return torch.cat(ids)[None]


def text_ids(
    input_ids: torch.Tensor | None,
    inputs_embeds: torch.Tensor | None,
    embeddings: Callable[[torch.Tensor], torch.Tensor],
    config: VegaConfig,
) -> torch.Tensor:
    """int[B, L]: the ids, or for float[B, L, D] those of placeholders and markers of visuals, and -1 elsewhere.

    They are found as the VLM finds them, by comparing with the embeddings of these tokens. Raises ValueError if there
    is neither, or if the placeholders of images and videos cannot be told apart.
    """
    if input_ids is not None:
        return input_ids
    if inputs_embeds is None:
        raise ValueError("There is no text: give input_ids or inputs_embeds.")
    vlm = config.vlm_config
    tokens = (vlm.vision_start_token_id, vlm.vision_end_token_id, config.image_token_id, config.video_token_id)
    rows = embeddings(torch.tensor(tokens, device=inputs_embeds.device)).to(inputs_embeds.device)
    found = [(inputs_embeds == row).all(-1) for row in rows]
    if (found[2] & found[3]).any():
        raise ValueError(
            "The embeddings of the placeholders of images and of videos are equal, so inputs_embeds does not say "
            "which is meant. Give input_ids."
        )
    ids = torch.full(inputs_embeds.shape[:2], -1, device=inputs_embeds.device)
    for token, places in zip(tokens, found, strict=True):
        ids[places] = token
    return ids


def check_placeholders(ids: torch.Tensor, config: VegaConfig, features: Mapping[str, int]) -> None:
    """Raises ValueError, before any heavy work, if placeholders in the text and visual tokens do not match."""
    for modality in TOKEN_TYPES:
        tokens, given = int((ids == token_id(modality, config)).sum()), features.get(modality, 0)
        if tokens != given:
            raise ValueError(
                f"The text has {tokens} {modality} placeholder tokens, but the {modality}s given have {given}. "
                f"Give one {modality} for each placeholder of the prompt; of a prompt after a cache, for each that is "
                "not in the cache."
            )


class FusedVisuals(dict[str, ModelOutput]):
    """`mm_encoder_outputs`: the VLM's encoder output of each modality, with fused tokens.

    It remembers the pixels that it was made of, so that those of another clip beside it are noticed; copies do not.
    """

    sources: Mapping[str, list[torch.Tensor]]

    def __init__(self, outputs: Mapping[str, ModelOutput] | Iterable = (), **inputs):
        super().__init__(outputs)
        self.sources = {name: tensors(value) for name, value in inputs.items()}

    def __reduce__(self):
        return dict, (dict(self),)

    def made_of(self, name: str, value: torch.Tensor | Sequence[torch.Tensor]) -> bool:
        sources, given = self.sources.get(name, []), tensors(value)
        return len(sources) == len(given) and all(
            source is tensor or torch.equal(source, tensor.to(source.device))
            for source, tensor in zip(sources, given, strict=True)
        )


def tensors(value: torch.Tensor | Sequence[torch.Tensor] | None) -> list[torch.Tensor]:
    if value is None:
        return []
    return [value] if isinstance(value, torch.Tensor) else list(value)


def tokens_of_outputs(outputs: Mapping[str, ModelOutput | None], visual: Mapping[str, object]) -> dict[str, int]:
    """Visual tokens of each modality in given `mm_encoder_outputs`, of `encode` or of the VLM's encoders.

    Raises ValueError if pixels or hidden states are given beside them (`visual`) that they were not made of, or an
    unknown modality.
    """
    unknown = outputs.keys() - TOKEN_TYPES.keys()
    if unknown:
        raise ValueError(f"mm_encoder_outputs has {sorted(unknown)}, but is of {sorted(TOKEN_TYPES)} only.")
    for name, value in visual.items():
        if value is None or name.endswith("_grid_thw"):
            continue
        if not (isinstance(outputs, FusedVisuals) and outputs.made_of(name, value)):  # type: ignore[arg-type]
            raise ValueError(
                f"Both mm_encoder_outputs and {name} are given, but it was not made of these by `encode`, or is a "
                "copy. Leave one of them out."
            )
    return {
        name: sum(len(item) for item in output.pooler_output) for name, output in outputs.items() if output is not None
    }


def copied_outputs(outputs: Mapping[str, ModelOutput | None]) -> dict[str, ModelOutput]:
    """Outputs whose fields can be set, as generation with beams does, without changing the caller's."""
    return {name: type(output)(**output) for name, output in outputs.items() if output is not None}


def replaced_tokens(outputs: Mapping[str, ModelOutput], tokens: Sequence[torch.Tensor]) -> dict[str, ModelOutput]:
    """Copies of encoder outputs with other tokens: float[N, D] for each image, then each video."""
    copies, rest = copied_outputs(outputs), list(tokens)
    for output in copies.values():
        count = len(output.pooler_output)
        output.pooler_output, rest = tuple(rest[:count]), rest[count:]
    return copies


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


def is_visual(input_ids: torch.Tensor, config: VegaConfig) -> torch.Tensor:
    """bool[B, L]: placeholders, and all from the start marker of a visual to its end marker.

    Qwen3-VL writes a video as `start <0.5 seconds> start ... end <2.5 seconds> start ... end end`; the times of many
    frames would outweigh the words of the question.
    """
    starts = input_ids == config.vlm_config.vision_start_token_id
    ends = input_ids == config.vlm_config.vision_end_token_id
    opened, closed = starts.cumsum(-1), ends.cumsum(-1) - ends.long()
    return (opened > closed) | (token_type_ids(input_ids, config) != 0)


def instruction_embeddings(
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor | None,
    labels: torch.Tensor | None,
    config: VegaConfig,
    embeddings: Callable[[torch.Tensor], torch.Tensor],
) -> torch.Tensor:
    """float[B, D]: mean embedding of each prompt's text tokens, without visuals, padding and the answer.

    `embeddings` are int[B, L] -> float[B, L, D]; all else is as in `text_weights`, as are the errors.
    """
    return mean_embedding(text_weights(input_ids, attention_mask, labels, config), embeddings(input_ids))


def mean_embedding(weights: torch.Tensor, embedded: torch.Tensor) -> torch.Tensor:
    """float[B, D] for weights float[B, L] and embeddings float[B, L, D]."""
    return torch.einsum("bl,bld->bd", weights.to(embedded.dtype), embedded)


def text_weights(
    input_ids: torch.Tensor, attention_mask: torch.Tensor | None, labels: torch.Tensor | None, config: VegaConfig
) -> torch.Tensor:
    """float32[B, L]: one over the number of a prompt's text tokens at each of them, and 0 elsewhere.

    Ids and labels are int[B, L]; the mask is too, or int[B, P + L] with that of P tokens in a cache. Raises ValueError
    if a prompt has no text.
    """
    is_text = ~is_visual(input_ids, config)
    if attention_mask is not None:
        is_text &= attention_mask[:, -input_ids.shape[1] :].bool()
    if labels is not None:
        is_text &= labels == IGNORED
    if not is_text.any(-1).all():
        raise ValueError(
            "fusion='instruction_gated' needs a question, but a prompt of the batch has no text tokens. "
            "Give input_ids with one."
        )
    return is_text / is_text.sum(-1, keepdim=True)
