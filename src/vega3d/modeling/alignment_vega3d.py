"""From the generator's grid to the VLM's token grid: time, space, and projection to its width."""

import torch
import torch.nn.functional as F
from torch import nn

from .configuration_vega3d import VegaConfig

TEMPORAL_STRIDE = 4  # frames a latent of Wan's causal VAE stands for, after the first


def check_frames(num_frames: int, num_patches: int) -> None:
    """Raises ValueError unless a clip of `num_frames` has `num_patches` temporal patches of two frames."""
    expected = (num_frames + 1) // 2
    if num_patches != expected:
        raise ValueError(
            f"A clip of {num_frames} generator frames has {expected} temporal patches, but the VLM has {num_patches}. "
            "Give both pixel streams the same frames."
        )


def align_time(hidden: torch.Tensor, num_frames: int, num_patches: int, clip_mode: str) -> torch.Tensor:
    """Averages the generator's frames over the temporal patches of the VLM.

    Args:
        hidden: float[t, h, w, C], one entry a frame, or in `clip` mode one a latent: frame f is in latent ceil(f / 4).
        num_frames: frames of the clip.
        num_patches: temporal patches of the VLM; patch i covers frames 2i and 2i + 1, and an odd clip repeats its last
            frame, as Qwen-VL does. An image has one frame and one patch.
        clip_mode: `frame`, `views` or `clip`.

    Returns:
        float[num_patches, h, w, C].

    Raises:
        ValueError: if `num_patches` does not fit `num_frames`.
    """
    check_frames(num_frames, num_patches)
    first = torch.arange(0, num_frames, 2, device=hidden.device)
    second = (first + 1).clamp(max=num_frames - 1)
    if clip_mode == "clip":
        first, second = ((frame + TEMPORAL_STRIDE - 1) // TEMPORAL_STRIDE for frame in (first, second))
    if num_frames == 1:
        return hidden
    return (hidden[first] + hidden[second]) / 2


def align_space(hidden: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Bilinear resampling of float[t, h, w, C] to float[t, height, width, C], as the official code does it.

    Computed in float32 without antialiasing and with `align_corners=False`; a grid of the wanted size passes as it is.
    """
    if hidden.shape[1:3] == (height, width):
        return hidden
    channels_first = hidden.permute(0, 3, 1, 2).float()
    aligned = F.interpolate(channels_first, size=(height, width), mode="bilinear", align_corners=False)
    return aligned.permute(0, 2, 3, 1).to(hidden.dtype)


def merge_cells(hidden: torch.Tensor, merge: int) -> torch.Tensor:
    """float[t, h, w, C] -> float[t, h / merge, w / merge, merge * merge, C], cells of a window in row order.

    Raises:
        ValueError: if h or w is not a multiple of `merge`.
    """
    t, h, w, channels = hidden.shape
    if h % merge or w % merge:
        raise ValueError(f"A grid of {h} x {w} cannot be merged by {merge}: both sides must be multiples of {merge}.")
    windows = hidden.reshape(t, h // merge, merge, w // merge, merge, channels)
    return windows.transpose(2, 3).flatten(3, 4)


class Projector(nn.Module):
    """Brings a generator clip onto the token grid of the VLM and projects it to the VLM's width."""

    on_patch_grid = True  # False: the clip is resampled straight to the token grid

    def __init__(self, config: VegaConfig):
        super().__init__()
        self.merge = config.vlm_config.vision_config.spatial_merge_size
        self.clip_mode = config.generator_config.clip_mode

    def forward(self, hidden: torch.Tensor, num_frames: int, patch_grid: tuple[int, int, int]) -> torch.Tensor:
        """
        Args:
            hidden: float[t, h, w, C], one clip on the generator's grid.
            num_frames: frames of the clip.
            patch_grid: (t, h, w) of the VLM's patches, before its spatial merge.

        Returns:
            float[N, D], one token for each of the VLM's, in (t, h, w) order.
        """
        t, h, w = patch_grid
        if not self.on_patch_grid:
            h, w = h // self.merge, w // self.merge
        hidden = align_time(hidden, num_frames, t, self.clip_mode)
        hidden = align_space(hidden, h, w)
        return self.project(hidden).flatten(0, 2)

    def project(self, hidden: torch.Tensor) -> torch.Tensor:
        """float[t, h, w, C] -> float[t, token rows, token columns, D]"""
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

    def project(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.mlp(merge_cells(self.norm(hidden), self.merge).flatten(3))


class AvgProjector(Projector):
    """2x2 mean, MLP: the official `avg` merger. It has no norm of its own."""

    def __init__(self, config: VegaConfig):
        super().__init__(config)
        self.mlp = two_layer_mlp(config.generator_config.hidden_size, config)

    def project(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.mlp(merge_cells(hidden, self.merge).mean(dim=3))


class MLP2xProjector(Projector):
    """Linear, GELU, Linear on the token grid itself: the official `mlp2x_gelu`."""

    on_patch_grid = False

    def __init__(self, config: VegaConfig):
        super().__init__(config)
        self.mlp = two_layer_mlp(config.generator_config.hidden_size, config)

    def project(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.mlp(hidden)


PROJECTORS: dict[str, type[Projector]] = {
    "merger_mlp": MergerMLPProjector,
    "avg": AvgProjector,
    "mlp2x": MLP2xProjector,
}
