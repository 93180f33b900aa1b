"""Whole tiny checkpoints: a VLM with its processor, and with a generator; the stored one with another config."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from processing.builders import build_processor
from tiny_models import BLOCK, save_generator, save_vlm
from vega3d import VegaForActionPrediction
from vega3d.hub.assemble import assemble
from vega3d.hub.load import load_vega

FROZEN = Path(__file__).parent / "fixtures" / "checkpoint"  # random weights, by make_frozen_checkpoint.py
FROZEN_CONFIG: dict[str, Any] = json.loads((FROZEN / "config.json").read_text())

VLM_PROCESSORS = {"qwen2_5_vl": "Qwen2_5_VLProcessor", "qwen3_vl": "Qwen3VLProcessor"}


def save_vlm_with_processor(folder: Path, vlm_type: str, **sizes) -> Path:
    """As its makers publish it, with the token ids of the processor's tokenizer; `sizes` as in `tiny_models`."""
    processor = build_processor(VLM_PROCESSORS[vlm_type]).vlm_processor
    names = ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")
    markers = ("<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>")
    tokens = dict(zip(names, processor.tokenizer.convert_tokens_to_ids(markers), strict=True))
    save_vlm(folder, vlm_type, **tokens, **sizes)
    processor.save_pretrained(folder)
    return folder


def save_checkpoint(folder: Path, vlm_type: str, **options) -> Path:
    """Assembled from tiny backbones, with an open gate, as training would open it."""
    vlm, generator = save_vlm_with_processor(folder / "vlm", vlm_type), save_generator(folder / "generator")
    options = {"block": BLOCK, "projector_hidden_size": 32, "fusion_residual_init": 0.5, "max_area": 4096, **options}
    return assemble(vlm, generator, folder / "model", **options)


def copy_frozen(folder: Path, **values) -> Path:
    """The stored checkpoint with other values in its config.json, such as a `notice`."""
    shutil.copytree(FROZEN, folder)
    (folder / "config.json").write_text(json.dumps({**FROZEN_CONFIG, **values}))
    return folder


def save_policy(folder: Path, cameras: Sequence[str], state: int, action: int, **options) -> Path:
    """A policy around the stored checkpoint, not trained, of a state and actions of so many numbers in [-1, 1].

    `options` are those of `VegaForActionPrediction.from_reasoning`.
    """
    model, processor = load_vega(FROZEN, device="cpu")
    numbers = {"mean": 0.0, "std": 1.0, "min": -1.0, "max": 1.0, "q01": -1.0, "q99": 1.0}
    sizes = {"state": state, "action": action}
    statistics: dict[str, Any] = {"dataset": "toy"}
    for name, size in sizes.items():
        statistics[name] = {key: [value] * size for key, value in numbers.items()}
    policy = VegaForActionPrediction.from_reasoning(model, processor.tokenizer, statistics, cameras, **options)
    policy.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder
