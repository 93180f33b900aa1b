"""Toy configs of generators, and runs of them in other processes."""

from pathlib import Path
from typing import Any

import torch

from research.tiny.simulator import GeneratorConfig, Watch, make_generator_config, train_dit, train_vae

ROOMS = {
    "size": 32,
    "num_frames": 9,
    "clip_frames": 5,
    "walks": 3,
    "workers": 0,
    "renderer": "embree",
    "validation_rooms": 1,
    "validation_walks": 2,
}
STAGE = {
    "batch_size": 2,
    "learning_rate": 3e-3,
    "first_walks": 3,
    "new_walks": 0.5,
    "window": 6,
    "logging_steps": 2,
    "save_steps": 4,
    "validation_steps": 4,
}
VAE = {
    **STAGE,
    "steps": 8,
    "optimizer": "muon",
    "base_dim": 3,
    "z_dim": 4,
    "patch_size": 2,
    "dim_mult": [1, 2, 2],
    "statistics_rooms": 1,
}
DIT = {
    **STAGE,
    "steps": 10,
    "num_layers": 3,
    "num_attention_heads": 2,
    "attention_head_dim": 12,
    "ffn_dim": 32,
    "freq_dim": 16,
    "prompt_tokens": 4,
    "sampling_steps": 2,
}
TIMES = ("steps_per_second", "clips_per_second", "waiting_for_clips")


def toy_config(output: Path, **changes: Any) -> GeneratorConfig:
    """`vae={...}`, `dit={...}`, `rooms={...}` change settings of a section."""
    sections = {"rooms": ROOMS, "vae": VAE, "dit": DIT}
    changed = {name: {**usual, **changes.pop(name, {})} for name, usual in sections.items()}
    return make_generator_config({"output": output, "device": "cpu", **changed, **changes})


def train(stage: str, output: Path, watch: Watch | None = None, **changes: Any) -> dict[str, Any]:
    """In one thread: the sums of several are not the same, to the bit, from run to run."""
    config = toy_config(output, **changes)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return train_vae(config, watch) if stage == "vae" else train_dit(config, stage == "image-twin", watch)
    finally:
        torch.set_num_threads(threads)


def train_and_tell(stage: str, output: str, told: str) -> None:
    """Trains and writes a byte after each step."""
    with open(told, "ab", buffering=0) as file:
        train(stage, Path(output), Watch(on_step=lambda done, steps: file.write(b"." * done)))


def figures_of(result: dict[str, Any]) -> list[dict[str, Any]]:
    """The log without times."""
    return [{name: value for name, value in entry.items() if name not in TIMES} for entry in result["log"]]


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*.safetensors"))}
