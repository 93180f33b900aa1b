"""Policies at tiny size: of two cameras, a state of three numbers and actions of two."""

from pathlib import Path

import numpy as np

from processing.builders import build_processor
from tiny_checkpoints import VLM_PROCESSORS, save_vlm_with_processor
from tiny_models import BLOCK, randomise, save_generator
from vega3d import VegaForActionPrediction

CAMERAS = ["front", "wrist"]
CHUNK, STATE, ACTION = 4, 3, 2
TASKS = ["reach the ball", "close the drawer now"]
STATES = np.random.default_rng(0).uniform(-1, 1, (2, STATE)).astype(np.float32)


def statistics(low=(-1.0, 10.0), high=(1.0, 30.0)) -> dict:
    def of(low, high):
        low, high = np.asarray(low, float), np.asarray(high, float)
        values = {"mean": (low + high) / 2, "std": (high - low) / 4, "min": low, "max": high, "q01": low, "q99": high}
        return {name: value.tolist() for name, value in values.items()}

    return {"dataset": "toys", "state": of([-1] * STATE, [1] * STATE), "action": of(low, high)}


def pictures(seed: int = 0, frames: int | None = None, size=(32, 48)) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    shape = (*size, 3) if frames is None else (frames, *size, 3)
    return {name: random.integers(0, 256, shape, dtype=np.uint8) for name in CAMERAS}


def save_backbones(folder: Path, vlm_type: str) -> tuple[Path, Path]:
    """Folders of a VLM with its processor and of a generator."""
    return save_vlm_with_processor(folder / "vlm", vlm_type), save_generator(folder / "generator")


def build_policy(
    folders: tuple[Path, Path], vlm_type: str, seed: int = 0, **options
) -> tuple[VegaForActionPrediction, object]:
    """A policy and its processor, of the folders of `save_backbones`."""
    processor = build_processor(VLM_PROCESSORS[vlm_type], generator_max_area=4096)
    given = {"block": BLOCK, "projector_hidden_size": 32, "fusion_residual_init": 0.5, "action_chunk": CHUNK}
    model = VegaForActionPrediction.from_backbones(
        *folders,
        tokenizer=processor.tokenizer,
        statistics=statistics(),
        cameras=CAMERAS,
        seed=seed,
        **{**given, **options},
    )
    randomise(model.action_head, seed)
    return model, processor
