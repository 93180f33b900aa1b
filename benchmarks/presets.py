"""Memory and time of a training step of each preset of `vega3d train`, with random weights.

    python benchmarks/presets.py                               # CPU, tiny shapes
    python benchmarks/presets.py --full --output presets.json  # GPU, Qwen2.5-VL-7B + Wan2.1-T2V-1.3B

One row of 16 frames, batch 1, by `VegaTrainer` with the settings of the preset: forward, backward, clipping, AdamW.
The generator runs in every step. A preset that does not fit says so, and the others are measured all the same.
"""

import argparse
import gc
import json
import platform
import statistics
import time
from pathlib import Path

import diffusers
import peft
import torch
import transformers
from generator import release
from model import made_checkpoint, question, weights_folder
from transformers import PrinterCallback, TrainerCallback

import vega3d
from vega3d import VegaForSpatialReasoning
from vega3d.hub.load import load_model
from vega3d.hub.memory import checkpoint_shapes, held_bytes, weight_bytes
from vega3d.hub.memory_choices import CHOICES
from vega3d.inference.vision_attention import pack_vision_attention
from vega3d.training import VegaTrainer, make_config
from vega3d.training.presets import PRESETS
from vega3d.training.run import trained_model, training_arguments

FRAMES = 16
WARM_UP = 2  # steps that are not timed
GIB = 2**30


class StepTimes(TrainerCallback):
    """Seconds of each step, once the device is done with it."""

    def __init__(self):
        self.seconds: list[float] = []

    def on_step_begin(self, args, state, control, **kwargs):
        self.start = now()

    def on_step_end(self, args, state, control, **kwargs):
        self.seconds.append(now() - self.start)


def now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def make_trainer(folder: Path, preset: str, options) -> VegaTrainer:
    values = {"model": str(folder), "data": "benchmark.jsonl", "output": str(folder / preset), "preset": preset}
    config = make_config({**values, "steps": WARM_UP + options.repeats, "schedule": "constant_with_warmup"})
    dtype = torch.bfloat16 if options.device == "cuda" else torch.float32
    memory = "4bit" if config.four_bit else "full"
    model = load_model(VegaForSpatialReasoning, folder, memory, torch.device(options.device), dtype)
    pack_vision_attention(model)
    batch = {name: value.cpu() for name, value in question(model, options, FRAMES).items()}
    batch["labels"] = torch.full_like(batch["input_ids"], -100)
    batch["labels"][:, -8:] = batch["input_ids"][:, -8:]
    arguments = training_arguments(config, is_bfloat16=dtype == torch.bfloat16)
    arguments = arguments.set_save("no")  # a checkpoint of `full` has 100 GB
    trainer = VegaTrainer(
        trained_model(config, model),
        arguments,
        data_collator=lambda rows: dict(batch),
        train_dataset=[{}] * config.steps,
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def measure(folder: Path, preset: str, options) -> dict:
    """Weights and their estimate, peak [GiB], trained parameters, and times of steps [ms]."""
    if options.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    trainer, times = make_trainer(folder, preset, options), StepTimes()
    shapes, choice = checkpoint_shapes(folder), CHOICES["4bit" if PRESETS[preset].four_bit else "full"]
    dtype = torch.bfloat16 if options.device == "cuda" else torch.float32
    row: dict = {
        "weights_gib": sum(held_bytes(trainer.vega()).values()) / GIB,
        "weights_before_training_gib": weight_bytes(shapes, choice, dtype, options.device).total / GIB,
        "trained_parameters": trainer.trained,
    }
    trainer.add_callback(times)
    trainer.train()
    milliseconds = [1000 * step for step in times.seconds[WARM_UP:]]
    row["step_ms"] = statistics.median(milliseconds)
    row |= {"fastest_ms": min(milliseconds), "slowest_ms": max(milliseconds)}
    row["peak_gib"] = torch.cuda.max_memory_allocated() / GIB if options.device == "cuda" else None
    return row


def shown(preset: str, row: dict) -> str:
    if "out_of_memory" in row:
        return f"{preset:10} out of memory: {row['out_of_memory']}"
    trained = sum(row["trained_parameters"].values())
    peak = "-" if row["peak_gib"] is None else f"{row['peak_gib']:.1f} GiB"
    return (
        f"{preset:10} step {row['step_ms']:9.1f} ms ({row['fastest_ms']:.1f} to {row['slowest_ms']:.1f}), "
        f"peak {peak}, weights {row['weights_gib']:.3f} GiB, trained {trained:,} parameters"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="shapes of Qwen2.5-VL-7B and Wan2.1-T2V-1.3B")
    parser.add_argument("--presets", nargs="+", default=list(PRESETS), choices=PRESETS)
    parser.add_argument("--repeats", type=int, default=7, help="timed steps")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--folder", type=Path, help="of the weights, kept for the next run; else they are deleted")
    parser.add_argument("--output", type=Path, help="JSON file")
    options = parser.parse_args()
    results = {
        "command": "python benchmarks/presets.py" + (" --full" if options.full else ""),
        "device": torch.cuda.get_device_name() if options.device == "cuda" else platform.processor(),
        "versions": {module.__name__: module.__version__ for module in (torch, diffusers, transformers, peft, vega3d)},
        "frames": FRAMES,
        "rows": {},
    }
    with weights_folder(options.folder) as folder:
        checkpoint = made_checkpoint(folder, options)
        for preset in options.presets:
            try:
                row = measure(checkpoint, preset, options)
            except torch.OutOfMemoryError as error:
                row = {"out_of_memory": str(error).partition("\n")[0]}
            gc.collect()
            release()
            results["rows"][preset] = row
            print(shown(preset, row), flush=True)
            if options.output:
                options.output.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
