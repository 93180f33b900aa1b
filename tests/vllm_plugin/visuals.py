"""Pictures and films as vLLM hands them to a processor, and as `VegaProcessor` takes them."""

import numpy as np
from PIL import Image

IMAGE, VIDEO = (f"<|vision_start|><|{name}_pad|><|vision_end|>" for name in ("image", "video"))


def picture(seed: int, height: int = 64, width: int = 96) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8))


def film(seed: int, frames: int = 5, height: int = 48, width: int = 64) -> tuple[np.ndarray, dict]:
    """Frames uint8[T, H, W, 3] and what vLLM's reader says about them: every third frame of a film at 6 a second."""
    pixels = np.random.default_rng(seed).integers(0, 255, (frames, height, width, 3), dtype=np.uint8)
    return pixels, {
        "total_num_frames": 3 * frames,
        "fps": 6.0,
        "duration": frames / 2,
        "video_backend": "opencv",
        "frames_indices": list(range(0, 3 * frames, 3)),
        "do_sample_frames": False,
    }


def seconds(video: tuple[np.ndarray, dict]) -> list[float]:
    return [index / video[1]["fps"] for index in video[1]["frames_indices"]]
