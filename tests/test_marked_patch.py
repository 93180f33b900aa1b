"""A marked patch in frame f at some place moves the same token, at the same time, in both streams: every VLM.

Pixels through the real processors at the published patch sizes (tokens of 28 and 32 px beside generator patches of
16 px), and a whole tiny model from frames to the positions of the fused tokens in the prompt.
"""

import numpy as np
import pytest
import torch

from processing.builders import build_processor
from tiny_checkpoints import VLM_PROCESSORS, save_checkpoint
from vega3d import VegaConfig
from vega3d.hub.load import load_vega
from vega3d.modeling.alignment_vega3d import Projector, merge_windows
from vega3d.modeling.inputs_vega3d import unpack_patches

VIDEO = "<|vision_start|><|video_pad|><|vision_end|>"
PATCH = {"qwen2_5_vl": 14, "qwen3_vl": 16}  # [px]
ROWS, COLUMNS = 4, 8  # tokens; 16 px patches and tokens of both sizes fill such frames without a rest


class Brightness(Projector):
    """The alignment of every projector without its weights: the mean over the positions of a token."""

    def project(self, hidden: torch.Tensor) -> torch.Tensor:
        return merge_windows(hidden, self.merge).mean(-2)


def tokens_of_both_streams(vlm_type: str, frames: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """float[t, rows, columns]: brightness of each token in the semantic and in the generative stream."""
    processor = build_processor(VLM_PROCESSORS[vlm_type], patch=PATCH[vlm_type])
    batch = processor(text=VIDEO, videos=frames)
    t, h, w = patch_grid = batch["video_grid_thw"][0].tolist()
    semantic = batch["pixel_values_videos"].mean(-1).reshape(t, h // 2, w // 2, 4).mean(-1)
    clip = unpack_patches(batch["generator_pixel_values_videos"], batch["generator_video_grid_thw"], 16)[0]
    hidden = clip.float().mean(1).unflatten(1, (-1, 16)).unflatten(3, (-1, 16)).mean((2, 4))  # float[T, h, w]
    brightness = Brightness(VegaConfig(vlm_config={"model_type": vlm_type}))
    generative = brightness(hidden[None, ..., None], len(frames), patch_grid)
    return semantic, generative.reshape(semantic.shape)


@pytest.mark.parametrize("count", [1, 2, 5, 6])
@pytest.mark.parametrize("vlm_type", VLM_PROCESSORS)
def test_a_marked_patch_is_the_same_token_in_both_streams(vlm_type, count):
    side = 2 * PATCH[vlm_type]

    for frame, row, column in [(f, r, c) for f in range(count) for r, c in ((0, 0), (0, 7), (2, 3), (3, 0), (3, 7))]:
        frames = np.zeros((count, ROWS * side, COLUMNS * side, 3), np.uint8)
        frames[frame, row * side : (row + 1) * side, column * side : (column + 1) * side] = 255
        for stream in tokens_of_both_streams(vlm_type, frames):
            assert stream.shape == ((count + 1) // 2, ROWS, COLUMNS)
            assert np.unravel_index(int(stream.argmax()), stream.shape) == (frame // 2, row, column)
            bright = stream.amax() - stream.amin()
            others = stream.clone()
            others[frame // 2] = stream.amin()
            assert others.amax() - stream.amin() < 1e-3 * bright


@pytest.mark.parametrize("vlm_type", VLM_PROCESSORS)
def test_the_last_frame_of_an_odd_clip_counts_twice(vlm_type):
    """As bright in its patch as two marked frames, twice as bright as one of two, in both streams."""
    side = 2 * PATCH[vlm_type]
    heights = []
    for marked in ([4], [2, 3], [2]):
        frames = np.zeros((5, ROWS * side, COLUMNS * side, 3), np.uint8)
        frames[marked, :side, :side] = 255
        heights.append([float(s.amax() - s.amin()) for s in tokens_of_both_streams(vlm_type, frames)])
    for last, both, one in zip(*heights, strict=True):
        assert last == pytest.approx(both, rel=1e-5)
        assert last == pytest.approx(2 * one, rel=1e-5)


@pytest.fixture(scope="module", params=VLM_PROCESSORS)
def loaded(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("marked")
    return load_vega(save_checkpoint(folder, request.param, fusion="add"), device="cpu")


@pytest.mark.parametrize("count", [4, 5])
def test_a_changed_frame_moves_the_tokens_of_its_own_patch_in_the_prompt(loaded, count):
    """Each stream alone: the other one keeps the pixels of the plain clip."""
    model, processor = loaded
    random = np.random.default_rng(0)
    frames = random.integers(0, 256, (count, 48, 64, 3), dtype=np.uint8)
    plain = processor(text=f"Where? {VIDEO}", videos=frames)
    is_video = plain["input_ids"][0] == processor.video_token_id

    runs = is_video.nonzero()[:, 0].split(12)  # 3 x 4 tokens of 16 px a temporal patch

    for frame in range(count):
        changed = frames.copy()
        changed[frame] = random.integers(0, 256, changed[frame].shape, dtype=np.uint8)
        other = processor(text=f"Where? {VIDEO}", videos=changed)
        for stream in ("pixel_values_videos", "generator_pixel_values_videos"):
            moved = embedded(model, plain) != embedded(model, {**plain, stream: other[stream]})
            positions = moved.any(-1).nonzero()[:, 0]
            assert torch.equal(positions, runs[frame // 2]), (frame, stream)


@torch.no_grad()
def embedded(model, batch) -> torch.Tensor:
    """float[L, D]: what enters the language model."""
    seen: list[torch.Tensor] = []
    language_model = model.model.vlm.model.language_model
    hook = language_model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["inputs_embeds"][0]), with_kwargs=True
    )
    model(**batch)
    hook.remove()
    return seen[0]
