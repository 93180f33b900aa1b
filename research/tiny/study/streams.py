"""Frames to the frozen streams: the tower's tokens, and what an arm fuses with them, many clips at a time.

Streams lie on disk in parts of a few hundred clips, each whole or not there, and are read onto the device.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from transformers.vision_utils import get_vision_cu_seqlens, get_vision_position_ids, get_vision_window_index

from research.tiny.study.ahead import Ahead
from research.tiny.study.data import Words
from research.tiny.study.loop import Deadline, check_identity, save_tensors
from research.tiny.study.packs import Prefix
from research.tiny.study.points import oracle_features
from research.tiny.study.tower import PATCH
from vega3d.files import read_json, write_json, write_whole
from vega3d.modeling.alignment_vega3d import align_time
from vega3d.modeling.generator_vega3d import VegaGenerator
from vega3d.modeling.inputs_vega3d import token_type_ids
from vega3d.modeling.modeling_vega3d import VegaForSpatialReasoning
from vega3d.processing.processing_vega3d import VegaProcessor
from vega3d.processing.video_vega3d import VideoClip
from vega3d.questions import SpatialQuestion
from vega3d.rooms.dataset.files import FPS

PART = 512  # clips in a file
AT_A_TIME = 32  # clips computed together


@dataclass(frozen=True)
class ClipFormat:
    """How frames of one size become the VLM's patches, taken from its processor and checked against it."""

    prefix: Prefix  # of every pack
    grid: tuple[int, int, int]  # (t, h, w) of the patches of a clip
    mean: tuple[float, ...]  # of the normalisation
    std: tuple[float, ...]
    patch: int  # edge [px]
    merge: int  # patches a token side
    temporal: int  # frames a patch

    def patches(self, frames: torch.Tensor) -> torch.Tensor:
        """uint8[B, T, H, W, 3] -> float32[B * patches, C], as the VLM's processor packs them."""
        pixels = frames.permute(0, 1, 4, 2, 3).float() / 255
        mean, std = (channels(values, pixels.device) for values in (self.mean, self.std))
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


def clip_format(
    model: VegaForSpatialReasoning, processor: VegaProcessor, words: Words, num_frames: int, size: int
) -> ClipFormat:
    """The format of clips of `num_frames` square frames of `size` px, from one prompt of the processor taken apart.

    Raises:
        ValueError: if the processor resizes such frames, or packs or writes them in another way than here.
    """
    frames = np.random.default_rng(0).integers(0, 256, (num_frames, size, size, 3), dtype=np.uint8)
    noise = VideoClip(frames, np.arange(num_frames) / FPS, "a clip of noise", True)
    messages = SpatialQuestion(noise, "Where?").messages()
    inputs = processor.apply_chat_template(
        messages, add_generation_prompt=True, tokenize=True, return_dict=True, num_frames=num_frames
    )
    vision = model.config.vlm_config.vision_config
    prefix = prefix_of(model, inputs, words)
    settings = processor.video_processor
    made = ClipFormat(
        prefix,
        tuple(inputs["video_grid_thw"][0].tolist()),
        tuple(settings.image_mean),
        tuple(settings.image_std),
        vision.patch_size,
        vision.spatial_merge_size,
        vision.temporal_patch_size,
    )
    check_format(made, inputs, frames, words)
    return made


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


def check_format(clip: ClipFormat, inputs, frames: np.ndarray, words: Words) -> None:
    """Raises ValueError unless frames and words become the same tensors as with the processor."""
    _, h, w = clip.grid
    if (h * clip.patch, w * clip.patch) != frames.shape[1:3]:
        raise ValueError(
            f"The processor resizes frames of {frames.shape[1]} x {frames.shape[2]} px to {h * clip.patch} x "
            f"{w * clip.patch}. Choose a size that passes, a multiple of {clip.patch * clip.merge} px."
        )
    ours = clip.patches(torch.from_numpy(frames)[None])
    theirs = inputs["pixel_values_videos"]
    if ours.shape != theirs.shape or not torch.allclose(ours, theirs, atol=1e-5):
        raise ValueError("The processor packs frames in another way than this recipe. Use a Qwen2.5-VL processor.")
    spelled = np.concatenate([clip.prefix.ids, words.prompts(["Where?"])[0]])
    if not np.array_equal(spelled, inputs["input_ids"][0].numpy()):
        raise ValueError("The chat template writes other tokens than this recipe. Let the text follow the video.")


def semantic_tokens(model: VegaForSpatialReasoning, frames: torch.Tensor, clip: ClipFormat) -> torch.Tensor:
    """uint8[B, T, H, W, 3] -> float[B, N, D], tokens of the VLM's vision tower."""
    visual = model.model.vlm.base_model.visual
    pixels = clip.patches(frames).to(visual.dtype)
    edges = visual.spatial_merge_size, visual.window_size, visual.patch_size
    places = tower_places(*edges, clip.grid, len(frames), pixels.device)
    outputs = visual(pixels, grid_thw=clip.grids(len(frames), pixels.device), return_dict=True, **places)
    return outputs.pooler_output.unflatten(0, (len(frames), -1))


@cache
def channels(values: tuple[float, ...], device: torch.device) -> torch.Tensor:
    return torch.tensor(values, device=device).view(3, 1, 1)


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
def generator_states(generator: VegaGenerator, frames: torch.Tensor, clip: ClipFormat) -> torch.Tensor:
    """uint8[B, T, H, W, 3] -> float[B, t, h, w, C], averaged over the VLM's temporal patches as the projector does."""
    clips = frames.permute(0, 1, 4, 2, 3)  # uint8[B, T, 3, H, W]
    hidden = torch.stack(generator.encode(list(clips)))
    return align_time(hidden, clips.shape[1], clip.grid[0], generator.config.clip_mode)


def pixel_states(frames: torch.Tensor, clip: ClipFormat) -> torch.Tensor:
    """uint8[B, T, H, W, 3] -> float[B, t, h, w, 768]: the pixels of each patch of 16 px, averaged as above."""
    patches = frames.float().div(127.5).sub(1).unfold(2, PATCH, PATCH).unfold(3, PATCH, PATCH)
    return align_time(patches.flatten(4), frames.shape[1], clip.grid[0], "views")


def oracle_states(points: torch.Tensor, clip: ClipFormat) -> torch.Tensor:
    """float[B, T, h, w, 5] of `points.patch_points` -> float[B, t, h, w, C]: the true geometry."""
    return align_time(oracle_features(points), points.shape[1], clip.grid[0], "views")


class StoredStream:
    """One stream of the `count` clips of a split, in a folder.

    Raises:
        ValueError: if the folder holds tensors of another identity.
    """

    def __init__(self, folder: Path, count: int, identity: dict):
        self.folder, self.count = folder, count
        described = folder / "identity.json"
        identity = {**identity, "count": count}
        if described.is_file():
            check_identity(read_json(described), identity, described)
        else:
            folder.mkdir(parents=True, exist_ok=True)
            write_json(described, identity)

    def parts(self) -> Iterator[tuple[Path, range]]:
        for start in range(0, self.count, PART):
            yield self.folder / f"{start // PART:05d}.safetensors", range(start, min(start + PART, self.count))

    @property
    def is_whole(self) -> bool:
        return all(is_whole_part(path) for path, _ in self.parts())

    def fill(
        self,
        prepare: Callable[[list[int]], Any],
        compute: Callable[[Any], torch.Tensor],
        dtype: torch.dtype,
        deadline: Deadline,
    ) -> None:
        """Computes the parts that are not there.

        Args:
            prepare: what `compute` needs of clips, by their numbers; called by threads while others are computed.
            compute: float[n, ...] of what was prepared.
            dtype: in which they are stored.
            deadline: checked before each part.
        """
        missing = [(path, numbers) for path, numbers in self.parts() if not is_whole_part(path)]
        pieces = [
            list(range(start, min(start + AT_A_TIME, numbers.stop)))
            for _, numbers in missing
            for start in range(numbers.start, numbers.stop, AT_A_TIME)
        ]
        done = 0
        with Ahead(lambda piece: prepare(pieces[piece]), len(pieces)) as prepared:
            for path, numbers in missing:
                deadline.check(f"{self.folder.name}: {numbers.start} of {self.count} clips")
                following = done + -(-len(numbers) // AT_A_TIME)
                rows = [compute(prepared[piece]).to(dtype).cpu() for piece in range(done, following)]
                write_whole(path, partial(save_tensors, tensors={"tokens": torch.cat(rows)}))
                done = following

    def open(self, device: torch.device) -> "StreamRows":
        """Raises ValueError if there is no clip at all."""
        if not self.count:
            raise ValueError(f"{self.folder} is to hold no clip at all. Make more rooms.")
        return StreamRows([load_file(path, device=str(device))["tokens"] for path, _ in self.parts()])


def is_whole_part(path: Path) -> bool:
    """Whether a file is there, and as long as its head says."""
    try:
        with safe_open(path, "pt") as file:
            return "tokens" in file.keys()  # noqa: SIM118 (no mapping)
    except (OSError, SafetensorError):
        return False


class StreamRows:
    """A stream on the device, in parts float[PART, ...]."""

    def __init__(self, parts: list[torch.Tensor]):
        self.parts = parts

    def __getitem__(self, clips: Sequence[int]) -> torch.Tensor:
        """float[B, ...] of some clips."""
        return torch.stack([self.parts[clip // PART][clip % PART] for clip in clips])
