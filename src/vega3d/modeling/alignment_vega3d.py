"""From the generator's grid to the VLM's token grid: time, space, and projection to its width.

All of it takes clips of one grid together: float[B, t, h, w, C] in, float[B, N, D] out.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from .configuration_vega3d import VegaConfig
from .layouts_vega3d import TEMPORAL_STRIDE


def by_clip(operation: Callable[..., torch.Tensor], *streams: torch.Tensor) -> torch.Tensor:
    """`operation` on float[B, ...], whose values for a clip are those for the clip alone, bit by bit, on a CPU.

    On a CPU matrix products, and sigmoids at the end of an array, round differently with the number of rows, so there
    each clip is computed for itself; all that rounds row by row (norms, resampling, sums) need not be. On a GPU the
    clips are one call.
    """
    if streams[0].device.type != "cpu":
        return operation(*streams)
    return torch.stack([operation(*clips) for clips in zip(*streams, strict=True)])


def check_frames(num_frames: int, num_patches: int) -> None:
    """Raises ValueError unless a clip of `num_frames` has `num_patches` temporal patches of two frames."""
    expected = (num_frames + 1) // 2
    if num_patches != expected:
        raise ValueError(
            f"A clip of {num_frames} generator frames has {expected} temporal patches, but the VLM has {num_patches}. "
            "Give both pixel streams the same frames."
        )


def align_time(
    hidden: torch.Tensor, num_frames: int, num_patches: int, clip_mode: str, frame_stride: int = 1
) -> torch.Tensor:
    """Averages the generator's frames over the temporal patches of the VLM.

    Args:
        hidden: float[B, t, h, w, C], one entry a frame, or in `clip` mode one a latent: frame f is in latent
            ceil(f / 4).
        num_frames: of each clip, whatever t is.
        num_patches: temporal patches of the VLM; patch i covers frames 2i and 2i + 1, and an odd clip repeats its last
            frame, as Qwen-VL does. An image has one frame and one patch.
        clip_mode: `frame`, `views` or `clip`.
        frame_stride: 2 if there is one entry for each two frames.

    Returns:
        float[B, num_patches, h, w, C]. Raises ValueError if `num_patches` does not fit `num_frames`.
    """
    check_frames(num_frames, num_patches)
    first = torch.arange(0, num_frames, 2, device=hidden.device)
    second = (first + 1).clamp(max=num_frames - 1)
    if clip_mode == "clip":
        first, second = ((frame + TEMPORAL_STRIDE - 1) // TEMPORAL_STRIDE for frame in (first, second))
    if num_frames == 1 or frame_stride == 2:
        return hidden
    return (hidden[:, first] + hidden[:, second]) / 2


def align_space(hidden: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Bilinear resampling of float[B, t, h, w, C] to float[B, t, height, width, C], as the official code does it.

    Computed in float32 without antialiasing and with `align_corners=False`; a grid of the wanted size passes as it is.
    """
    if hidden.shape[2:4] == (height, width):
        return hidden
    channels_first = hidden.flatten(0, 1).permute(0, 3, 1, 2).float()
    aligned = F.interpolate(channels_first, size=(height, width), mode="bilinear", align_corners=False)
    return aligned.permute(0, 2, 3, 1).to(hidden.dtype).unflatten(0, hidden.shape[:2])


def merge_windows(hidden: torch.Tensor, merge: int) -> torch.Tensor:
    """float[..., h, w, C] -> float[..., h / merge, w / merge, merge * merge, C], positions of a window in row order.

    Raises ValueError if h or w is not a multiple of `merge`.
    """
    h, w = hidden.shape[-3:-1]
    if h % merge or w % merge:
        raise ValueError(f"A grid of {h} x {w} cannot be merged by {merge}: both sides must be multiples of {merge}.")
    windows = hidden.unflatten(-3, (h // merge, merge)).unflatten(-2, (w // merge, merge))
    return windows.transpose(-4, -3).flatten(-3, -2)


class Projector(nn.Module):
    """Brings generator clips onto the token grid of the VLM and projects them to the VLM's width."""

    on_patch_grid = True  # False: clips are resampled straight to the token grid
    mlp: nn.Sequential

    def __init__(self, config: VegaConfig):
        super().__init__()
        self.merge = config.vlm_config.vision_config.spatial_merge_size
        self.clip_mode = config.generator_config.clip_mode
        self.frame_stride = config.generator_config.frame_stride

    def forward(self, hidden: torch.Tensor, num_frames: int, patch_grid: tuple[int, int, int]) -> torch.Tensor:
        """Generative tokens of the clips, one for each token of the VLM.

        Args:
            hidden: float[B, t, h, w, C], clips of one size and length on the generator's grid.
            num_frames: frames of each clip.
            patch_grid: (t, h, w) of the VLM's patches of each clip, before its spatial merge.

        Returns:
            float[B, N, D], in (t, h, w) order.
        """
        t, h, w = patch_grid
        if not self.on_patch_grid:
            h, w = h // self.merge, w // self.merge
        hidden = align_time(hidden, num_frames, t, self.clip_mode, self.frame_stride)
        hidden = align_space(hidden, h, w)
        return self.project(hidden).flatten(1, 3)

    def project(self, hidden: torch.Tensor) -> torch.Tensor:
        """float[B, t, h, w, C] -> float[B, t, token rows, token columns, D]"""
        return by_clip(self.mlp, self.merged(hidden))

    def merged(self, hidden: torch.Tensor) -> torch.Tensor:
        """What the MLP sees of each token: float[B, t, h, w, C] -> float[B, t, token rows, token columns, C']"""
        raise NotImplementedError


def two_layer_mlp(in_features: int, config: VegaConfig) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(in_features, config.projector_hidden_size),
        nn.GELU(),
        nn.Linear(config.projector_hidden_size, config.hidden_size),
    )


class MergerMLPProjector(Projector):
    """RMSNorm, 2x2 merge, MLP: the official `mlp` merger."""

    def __init__(self, config: VegaConfig):
        super().__init__(config)
        channels = config.generator_config.hidden_size
        self.norm = nn.RMSNorm(channels, eps=1e-6)
        self.mlp = two_layer_mlp(self.merge * self.merge * channels, config)

    def merged(self, hidden: torch.Tensor) -> torch.Tensor:
        return merge_windows(self.norm(hidden), self.merge).flatten(-2)


class AvgProjector(Projector):
    """2x2 mean, MLP: the official `avg` merger. It has no norm of its own."""

    def __init__(self, config: VegaConfig):
        super().__init__(config)
        self.mlp = two_layer_mlp(config.generator_config.hidden_size, config)

    def merged(self, hidden: torch.Tensor) -> torch.Tensor:
        return merge_windows(hidden, self.merge).mean(dim=-2)


class MLP2xProjector(Projector):
    """Linear, GELU, Linear on the token grid itself: the official `mlp2x_gelu`."""

    on_patch_grid = False

    def __init__(self, config: VegaConfig):
        super().__init__(config)
        self.mlp = two_layer_mlp(config.generator_config.hidden_size, config)

    def merged(self, hidden: torch.Tensor) -> torch.Tensor:
        return hidden


PROJECTORS: dict[str, type[Projector]] = {
    "merger_mlp": MergerMLPProjector,
    "avg": AvgProjector,
    "mlp2x": MLP2xProjector,
}
