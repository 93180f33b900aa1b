"""Frames to the frozen streams: semantic tokens and the generator's hidden states, many clips at a time."""

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from transformers.vision_utils import get_vision_cu_seqlens, get_vision_position_ids, get_vision_window_index

from research.tiny.study.data import Words
from research.tiny.study.packs import Prefix
from vega3d.modeling.alignment_vega3d import align_time
from vega3d.modeling.generator_vega3d import VegaGenerator, unit_pixels
from vega3d.modeling.inputs_vega3d import token_type_ids
from vega3d.modeling.layouts_vega3d import TEMPORAL_STRIDE
from vega3d.modeling.modeling_vega3d import VegaForSpatialReasoning
from vega3d.modeling.noise_vega3d import add_noise
from vega3d.processing.processing_vega3d import VegaProcessor
from vega3d.processing.video_vega3d import VideoClip
from vega3d.questions import SpatialQuestion
from vega3d.rooms.dataset.files import FPS

BATCHED = ("wan", "random")  # families whose clips are computed together


@dataclass(frozen=True)
class Stream:
    """How frames of one size become the VLM's patches, taken from its processor and checked against it.

    Attributes:
        prefix: of every pack.
        grid: (t, h, w) of the patches of a clip.
        mean, std: of the normalisation.
        patch, merge, temporal: edge of a patch [px], patches a token side, frames a patch.
    """

    prefix: Prefix
    grid: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    patch: int
    merge: int
    temporal: int

    def patches(self, frames: torch.Tensor) -> torch.Tensor:
        """uint8[B, T, H, W, 3] -> float32[B * patches, C], as the VLM's processor packs them."""
        pixels = frames.permute(0, 1, 4, 2, 3).float() / 255
        mean, std = (pixels.new_tensor(values).view(3, 1, 1) for values in (self.mean, self.std))
        pixels = (pixels - mean) / std
        missing = -pixels.shape[1] % self.temporal
        pixels = torch.cat([pixels, pixels[:, -1:].expand(-1, missing, -1, -1, -1)], dim=1)
        (t, h, w), merge, patch = self.grid, self.merge, self.patch
        shape = (len(pixels), t, self.temporal, 3, h // merge, merge, patch, w // merge, merge, patch)
        windows = pixels.reshape(shape).permute(0, 1, 4, 7, 5, 8, 3, 2, 6, 9)
        return windows.reshape(len(pixels) * t * h * w, -1)

    def grids(self, count: int, device: torch.device) -> torch.Tensor:
        """int[count, 3]"""
        return torch.tensor([self.grid] * count, device=device)


def make_stream(
    model: VegaForSpatialReasoning, processor: VegaProcessor, words: Words, num_frames: int, size: int
) -> Stream:
    """
    Args:
        model: of the processor.
        processor: of which one prompt is taken apart.
        words: of its tokenizer.
        num_frames: of every clip.
        size: edge of the square frames [px].

    Raises:
        ValueError: if the processor resizes such frames, or packs or writes them in another way than here.
    """
    frames = np.random.default_rng(0).integers(0, 256, (num_frames, size, size, 3), dtype=np.uint8)
    clip = VideoClip(frames, np.arange(num_frames) / FPS, "a clip of noise", True)
    messages = SpatialQuestion(clip, "Where?").messages()
    inputs = processor.apply_chat_template(
        messages, add_generation_prompt=True, tokenize=True, return_dict=True, num_frames=num_frames
    )
    vision = model.config.vlm_config.vision_config
    prefix = prefix_of(model, inputs, words)
    settings = processor.video_processor
    stream = Stream(
        prefix,
        tuple(inputs["video_grid_thw"][0].tolist()),
        tuple(settings.image_mean),
        tuple(settings.image_std),
        vision.patch_size,
        vision.spatial_merge_size,
        vision.temporal_patch_size,
    )
    check_stream(stream, inputs, frames, words)
    return stream


def prefix_of(model: VegaForSpatialReasoning, inputs, words: Words) -> Prefix:
    """What of a prompt "Where?" comes before its words, with the positions that the VLM gives it."""
    ids, merge = inputs["input_ids"], model.config.vlm_config.vision_config.spatial_merge_size
    positions, _ = model.model.vlm.base_model.get_rope_index(
        ids,
        mm_token_type_ids=token_type_ids(ids, model.config),
        video_grid_thw=inputs["video_grid_thw"],
        second_per_grid_ts=torch.as_tensor(inputs["second_per_grid_ts"]),
    )
    rest = len(words.prompts(["Where?"])[0])
    video = (ids[0] == model.config.video_token_id).nonzero().flatten().tolist()
    t, h, w = inputs["video_grid_thw"][0].tolist()
    return Prefix(
        ids=ids[0, :-rest].numpy(),
        positions=positions[:, 0, :-rest].numpy(),
        following=int(positions[0, 0, -rest]),
        first=video[0],
        visual_tokens=len(video),
        grid=(t, h // merge, w // merge),
    )


def check_stream(stream: Stream, inputs, frames: np.ndarray, words: Words) -> None:
    """Raises ValueError unless frames and words become the same tensors as with the processor."""
    _, h, w = stream.grid
    if (h * stream.patch, w * stream.patch) != frames.shape[1:3]:
        raise ValueError(
            f"The processor resizes frames of {frames.shape[1]} x {frames.shape[2]} px to {h * stream.patch} x "
            f"{w * stream.patch}. Choose a size that passes, a multiple of {stream.patch * stream.merge} px."
        )
    ours = stream.patches(torch.from_numpy(frames)[None])
    theirs = inputs["pixel_values_videos"]
    if ours.shape != theirs.shape or not torch.allclose(ours, theirs, atol=1e-5):
        raise ValueError("The processor packs frames in another way than this recipe. Use a Qwen2.5-VL processor.")
    spelled = np.concatenate([stream.prefix.ids, words.prompts(["Where?"])[0]])
    if not np.array_equal(spelled, inputs["input_ids"][0].numpy()):
        raise ValueError("The chat template writes other tokens than this recipe. Let the text follow the video.")


def semantic_tokens(model: VegaForSpatialReasoning, frames: torch.Tensor, stream: Stream) -> torch.Tensor:
    """uint8[B, T, H, W, 3] -> float[B, N, D], tokens of the VLM's vision tower."""
    visual = model.model.vlm.base_model.visual
    pixels = stream.patches(frames).to(visual.dtype)
    edges = visual.spatial_merge_size, visual.window_size, visual.patch_size
    places = tower_places(*edges, stream.grid, len(frames), pixels.device)
    outputs = visual(pixels, grid_thw=stream.grids(len(frames), pixels.device), return_dict=True, **places)
    return outputs.pooler_output.unflatten(0, (len(frames), -1))


@cache
def tower_places(
    merge: int, window: int, patch: int, grid: tuple[int, int, int], count: int, device: torch.device
) -> dict[str, Any]:
    """What the tower would compute of the grids of each batch anew, clip by clip: positions, and bounds of windows."""
    grids = torch.tensor([grid] * count)
    window_index, cu_window_seqlens = get_vision_window_index(grids, merge, window, patch)
    places = {
        "position_ids": get_vision_position_ids(grids, merge),
        "cu_seqlens": get_vision_cu_seqlens(grids),
        "window_index": window_index,
        "cu_window_seqlens": cu_window_seqlens,
    }
    lengths = {"max_seqlen": grid[1] * grid[2], "max_window_seqlen": window**2 // patch**2}
    return {name: value.to(device) for name, value in places.items()} | lengths


@torch.no_grad()
def generator_states(generator: VegaGenerator, frames: torch.Tensor, stream: Stream) -> torch.Tensor:
    """uint8[B, T, H, W, 3] -> float[B, t, h, w, C], averaged over the VLM's temporal patches as the projector does."""
    clips = frames.permute(0, 1, 4, 2, 3)  # uint8[B, T, 3, H, W]
    family, mode = generator.config.family, generator.config.clip_mode
    if family in BATCHED and generator.config.noise_draws == 1:
        hidden = batched_states(generator, clips)
    else:
        hidden = torch.stack(generator.encode(list(clips)))
    return align_time(hidden, clips.shape[1], stream.grid[0], mode)


def batched_states(generator: VegaGenerator, clips: torch.Tensor) -> torch.Tensor:
    """uint8[B, T, 3, H, W] -> float[B, t, h, w, C]; `VegaGenerator.encode` of all clips in one pass.

    The same but for rounding: a clip's noise depends on its frames' numbers alone, and no clip sees another.
    """
    config, tower, level = generator.config, generator.tower, generator.level
    pixels = unit_pixels(clips)
    with torch.autocast(clips.device.type, enabled=False):
        latents = batched_latents(tower, pixels, config.clip_mode == "clip")  # float32[B, t, Z, h, w]
        noise = generator.noise(0, latents.shape[1:], latents.device, 0)
        noisy = add_noise(latents, noise, level.sigma) if level.sigma > 0 else latents
        constants = tower.constants(generator.prompt_embeds, config.prompt_length, level.step)
        blocks = config.block_indices
        if config.clip_mode == "frame":
            states = tower(noisy.flatten(0, 1).unsqueeze(2), constants, blocks)
            hidden = [states[block][:, 0].unflatten(0, latents.shape[:2]) for block in blocks]
        else:
            states = tower(noisy.transpose(1, 2), constants, blocks)
            hidden = [states[block] for block in blocks]
    return torch.cat(hidden, dim=-1)


def batched_latents(tower, pixels: torch.Tensor, is_causal: bool) -> torch.Tensor:
    """float[B, T, 3, H, W] in [-1, 1] -> float32[B, t, Z, h, w]"""
    padding = -(pixels.shape[1] - 1) % TEMPORAL_STRIDE if is_causal else 0
    return tower.encode_frames(torch.cat([pixels, pixels[:, -1:].expand(-1, padding, -1, -1, -1)], dim=1))
