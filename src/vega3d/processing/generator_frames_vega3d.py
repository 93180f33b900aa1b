"""Frames for the video generator: fitted to its size, and packed as patches so that any mix of clips is one batch."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral

import torch
import torch.nn.functional as F

MAX_ASPECT_RATIO = 200
DEFAULT_MAX_AREA = 832 * 480  # [px^2]
MOST_AREA = 1 << 26  # [px^2]
FRAME_FITS = ("resize", "center_crop")


@dataclass(frozen=True)
class FrameSettings:
    """How frames are prepared for the video generator. The processor owns these settings; the model has none of them.

    Attributes:
        patch_size: side of the square of pixels that one token covers [px].
        max_area: the most pixels of a frame that is resized [px^2].
        frame_fit: `resize` keeps the whole frame at its own aspect ratio; `center_crop` cuts out its centre.
        frame_size: (height, width) of the centre crop [px]; only with `center_crop`.

    Raises:
        ValueError: if a setting is out of range; the message names the processor's arguments.
    """

    patch_size: int
    max_area: int = DEFAULT_MAX_AREA
    frame_fit: str = "resize"
    frame_size: Sequence[int] | None = None

    def __post_init__(self):
        size = self.frame_size
        for name, value in (("generator_patch_size", self.patch_size), ("generator_max_area", self.max_area)):
            if not isinstance(value, Integral) or value < 1:
                raise ValueError(f"`{name}` must be a whole number of at least 1, but got {value!r}.")
        if self.max_area < self.patch_size**2:
            raise ValueError(
                f"`generator_max_area` ({self.max_area} px) must hold at least one patch of {self.patch_size}x"
                f"{self.patch_size} px ({self.patch_size**2} px). Raise it, or lower `generator_patch_size`."
            )
        if self.frame_fit not in FRAME_FITS:
            raise ValueError(f"`generator_frame_fit` must be one of {FRAME_FITS}, but got {self.frame_fit!r}.")
        if (size is not None) != (self.frame_fit == "center_crop"):
            raise ValueError(
                "`generator_frame_size` goes with `generator_frame_fit='center_crop'`, and only with it, but got "
                f"{size} and {self.frame_fit!r}. Give both or neither."
            )
        wrong = [side for side in size or () if not isinstance(side, Integral) or side < 1 or side % self.patch_size]
        if size is not None and (len(size) != 2 or wrong):
            raise ValueError(
                "`generator_frame_size` must be [height, width] in multiples of `generator_patch_size` "
                f"({self.patch_size} px), but got {list(size)}."
            )
        area = self.max_area if size is None else math.prod(size)
        if area > MOST_AREA:
            name = "generator_max_area" if size is None else "generator_frame_size"
            raise ValueError(f"`{name}` asks for frames of {area} px, but the most is {MOST_AREA} px. Lower it.")


def fit_frames(frames: torch.Tensor, settings: FrameSettings) -> torch.Tensor:
    """Fits whole frames uint8[T, 3, H, W] at their own aspect ratio, or their centre if a `frame_size` is set.

    Returns:
        uint8[T, 3, h, w], h and w in multiples of the patch size.
    """
    if settings.frame_size is not None:
        return center_crop_frames(frames, *settings.frame_size)
    height, width = frames.shape[-2:]
    return resize_frames(frames, *generator_frame_size(height, width, settings.patch_size, settings.max_area))


def generator_frame_size(height: int, width: int, patch_size: int, max_area: int) -> tuple[int, int]:
    """Returns the (height, width) [px] of a frame for the generator: its own aspect ratio, in whole patches.

    A frame is scaled down to `max_area` [px^2] where it is larger, then rounded to the nearest multiples of
    `patch_size` [px]. It is never scaled up, except to the next multiple. Raises ValueError if one side is more than
    `MAX_ASPECT_RATIO` times the other.
    """
    if max(height, width) > MAX_ASPECT_RATIO * min(height, width):
        raise ValueError(
            f"A frame of {width}x{height} (width x height) is more than {MAX_ASPECT_RATIO} times as long as wide. "
            "Cut it into parts."
        )
    scale = min(1.0, (max_area / (height * width)) ** 0.5)
    rows, columns = (max(1, round(side * scale / patch_size)) for side in (height, width))
    while rows * columns * patch_size**2 > max_area:
        # Rounding went over the area: give up the row or the column that changes the aspect ratio less.
        fewer = [(rows - 1, columns), (rows, columns - 1)]
        rows, columns = min(
            (grid for grid in fewer if 0 not in grid), key=lambda grid: _distortion(grid, height, width)
        )
    return rows * patch_size, columns * patch_size


def _distortion(grid: tuple[int, int], height: int, width: int) -> float:
    ratio = grid[0] * width / (grid[1] * height)
    return max(ratio, 1 / ratio)


def resize_frames(frames: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Resizes whole frames uint8[T, 3, H, W], antialiased, without a crop, to uint8[T, 3, height, width]."""
    # Frame by frame: a clip in floating point would take four times its memory.
    return torch.stack(
        [
            _to_uint8(F.interpolate(frame[None].float(), size=(height, width), mode="bilinear", antialias=True)[0])
            for frame in frames
        ]
    )


def resize_and_center_crop(frames: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Scales frames until they cover `height` x `width` and cuts out the centre, as the official VEGA-3D code does.

    float[N, 3, h, w] in any range -> float[N, 3, height, width]. Bilinear without antialiasing, and only the centre is
    seen: for converted checkpoints only.
    """
    scale = max(height / frames.shape[-2], width / frames.shape[-1])
    size = (round(frames.shape[-2] * scale), round(frames.shape[-1] * scale))
    frames = F.interpolate(frames, size=size, mode="bilinear", align_corners=False)
    top, left = (size[0] - height) // 2, (size[1] - width) // 2
    return frames[..., top : top + height, left : left + width]


def center_crop_frames(frames: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """`resize_and_center_crop` of uint8[T, 3, H, W] frames, rounded to uint8[T, 3, height, width]."""
    return torch.stack([_to_uint8(resize_and_center_crop(frame[None].float(), height, width)[0]) for frame in frames])


def _to_uint8(frames: torch.Tensor) -> torch.Tensor:
    return frames.round().clamp(0, 255).to(torch.uint8)


def pack_patches(frames: torch.Tensor, patch_size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Cuts frames [T, 3, H, W], uint8 or float, into square patches of side p [px], one row each, in (t, h, w) order.

    Returns:
        patches: [T * h * w, 3 * p * p] of the same dtype, each a (3, p, p) block flattened; and
        grid: int64[3], (T, h, w) with h = H / p, w = W / p.

    Raises:
        ValueError: if the frames have another shape, or H or W is no multiple of `patch_size`.
    """
    if frames.ndim != 4 or frames.shape[1] != 3 or frames.shape[2] % patch_size or frames.shape[3] % patch_size:
        raise ValueError(
            f"Frames to pack must be [T, 3, H, W] with H and W multiples of {patch_size}, but got "
            f"{list(frames.shape)}. Resize them first (`resize_frames`)."
        )
    num_frames, rows, columns = frames.shape[0], frames.shape[2] // patch_size, frames.shape[3] // patch_size
    patches = frames.reshape(num_frames, 3, rows, patch_size, columns, patch_size).permute(0, 2, 4, 1, 3, 5)
    return patches.reshape(-1, 3 * patch_size * patch_size), torch.tensor([num_frames, rows, columns])
