"""Small inputs of the training tests."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import TrainingArguments

from tiny_checkpoints import FROZEN, FROZEN_CONFIG
from vega3d.hub.load import load_vega
from vega3d.training import DataSource, VegaCollator, VegaTrainer, choose_parts, load_examples, make_config, train
from vega3d.training.config import TrainingConfig
from vega3d.video_files import write_video

TUNES = ("gate", "gate,projector", "gate,projector,llm-lora", "llm-lora,vision", "gate,projector,llm,vision")
# Rates at which untrained weights move in few steps.
RATES = {"gate": 1e-2, "projector": 3e-3, "llm": 1e-3, "llm-lora": 3e-3, "vision": 1e-3}


def write_clip(path: Path, seed: int, frames: int = 4, size: int = 64) -> Path:
    blocks = np.random.default_rng(seed).integers(0, 256, (frames, size // 8, size // 8, 3), dtype=np.uint8)
    write_video(path, blocks.repeat(8, axis=1).repeat(8, axis=2), 2)
    return path


def write_jsonl(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def trainer_for(
    data: Path,
    output: Path,
    tune: str,
    steps: int,
    rates: dict | None = None,
    train_dataset=None,
    eval_dataset: bool = False,
    **arguments,
) -> VegaTrainer:
    """With `eval_dataset` it also evaluates on the rows that it trains on."""
    dataset = load_examples([DataSource(str(data))]) if train_dataset is None else train_dataset
    parts = tune.split(",")
    model, processor = load_vega(FROZEN, device="cpu", dtype="float32")
    options: dict[str, Any] = {
        "max_steps": steps,
        "per_device_train_batch_size": 2,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "remove_unused_columns": False,
        "use_cpu": True,
        "accelerator_config": {"dispatch_batches": False},
        "disable_tqdm": True,
    }
    return VegaTrainer(
        choose_parts(model, parts, lora_rank=4),
        TrainingArguments(str(output), **{**options, **arguments}),
        rates={part: RATES[part] for part in parts} if rates is None else rates,
        data_collator=VegaCollator(processor, num_frames=2),
        train_dataset=dataset,
        eval_dataset=dataset if eval_dataset else None,
    )


def trained_parameters() -> dict[str, int]:
    """How many parameters gate and projector of the stored checkpoint have, by its config."""
    vlm, transformer = FROZEN_CONFIG["vlm_config"], FROZEN_CONFIG["generator_config"]["transformer"]
    assert (FROZEN_CONFIG["fusion"], FROZEN_CONFIG["projector"]) == ("token_gated_residual", "merger_mlp")
    width, hidden = vlm["text_config"]["hidden_size"], FROZEN_CONFIG["projector_hidden_size"]
    channels = transformer["num_attention_heads"] * transformer["attention_head_dim"]
    merged = vlm["vision_config"]["spatial_merge_size"] ** 2 * channels
    norms, gate, residual_scale = 2 * 2 * width, 2 * width + 1, 1
    return {
        "gate": norms + gate + residual_scale,
        "projector": channels + (merged + 1) * hidden + (hidden + 1) * width,
    }


def snapshot(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def losses_of(log: list[dict]) -> list[float]:
    return [entry["loss"] for entry in log if "loss" in entry]


def run_config(data: Path, output: Path, **values) -> TrainingConfig:
    """A run that would differ after a careless resume: dropout, accumulation, several epochs, a schedule."""
    settings = {
        "model": str(FROZEN),
        "data": str(data),
        "output": str(output),
        "dtype": "float32",
        "tune": "gate,projector,llm-lora",
        "learning_rates": {part: RATES[part] for part in ("gate", "projector", "llm-lora")},
        "lora_rank": 4,
        "lora_dropout": 0.2,
        "steps": 8,
        "batch_size": 2,
        "gradient_accumulation": 2,
        "num_frames": 2,
        "save_steps": 2,
        "weight_decay": 0.1,
        "device": "cpu",
    }
    return make_config({**settings, **values})


def run_training(config: TrainingConfig, on_progress=None) -> dict[str, Any]:
    from vega3d.hub.load import model_folder

    torch.set_num_threads(1)
    folder = model_folder(config.model)

    def load_model(device):
        return load_vega(folder, config.four_bit, device, config.dtype)

    result = train(config, load_model, folder, on_progress)
    assert result is not None
    return result
