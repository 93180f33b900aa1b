"""Checkpoints of a run: the trained weights alone, whole or not there, and the settings that they belong to.

The frozen weights are those of the model that the run started from, so a checkpoint does not repeat them (nor the
generator's files): it holds `trained.safetensors`, and the Trainer's optimizer, scheduler, random states and log.
"""

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

TRAINED_FILE = "trained.safetensors"
WHOLE_FILE = "whole.json"
PREFIX = "checkpoint-"


def write_json(path: Path, values) -> None:
    """Writes a whole file or nothing: under a temporary name, then renamed."""
    partial = path.with_name(f"{path.name}.writing-{os.getpid()}")
    try:
        with partial.open("w", encoding="utf-8") as file:
            json.dump(values, file, indent=1, ensure_ascii=False, allow_nan=False)
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def trained_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def save_trained(model: nn.Module, folder: Path) -> None:
    tensors = {name: parameter.detach().contiguous().cpu() for name, parameter in trained_parameters(model).items()}
    partial = folder / f"{TRAINED_FILE}.writing"
    save_file(tensors, partial, metadata={"format": "pt"})
    partial.replace(folder / TRAINED_FILE)


@torch.no_grad()
def load_trained(model: nn.Module, folder: Path) -> None:
    """Puts the trained weights of a checkpoint into a model of which the same parts are trained.

    Raises:
        ValueError: if the file cannot be read, or holds other weights than those trained.
    """
    path = folder / TRAINED_FILE
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError) as error:
        raise ValueError(
            f"{path} cannot be read: {error}. Remove {folder} to continue from an earlier one."
        ) from error
    parameters = trained_parameters(model)
    wanted = {name: tuple(parameter.shape) for name, parameter in parameters.items()}
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if wanted != found:
        other = sorted(set(wanted.items()) ^ set(found.items()))[0][0]
        raise ValueError(f"{path} holds other weights than are trained here, such as {other}. Train the same parts.")
    for name, parameter in parameters.items():
        parameter.copy_(tensors[name])


def mark_whole(folder: Path) -> None:
    """Says that all files of a checkpoint are written, and how long they are; the last thing to be written."""
    sizes = {file.name: file.stat().st_size for file in sorted(folder.iterdir()) if file.name != WHOLE_FILE}
    write_json(folder / WHOLE_FILE, sizes)


def is_whole(folder: Path) -> bool:
    try:
        sizes = json.loads((folder / WHOLE_FILE).read_text(encoding="utf-8"))
        return all((folder / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, json.JSONDecodeError):
        return False


def last_whole_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint that was written to its end; what a killed process left half is removed."""
    numbered = {
        int(path.name.removeprefix(PREFIX)): path
        for path in folder.glob(f"{PREFIX}*")
        if path.is_dir() and path.name.removeprefix(PREFIX).isdecimal()
    }
    for path in numbered.values():
        if not is_whole(path):
            shutil.rmtree(path)
    whole = [step for step, path in numbered.items() if path.is_dir()]
    return numbered[max(whole)] if whole else None


def check_same_settings(path: Path, settings: Mapping) -> None:
    """Compares the settings of a run with those, in a file, of the run that it would continue.

    Raises:
        ValueError: naming each setting that differs, with both values; if the file cannot be read.
    """
    try:
        before = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        raise ValueError(
            f"{path.parent} holds checkpoints of unknown settings ({error}). Give another output."
        ) from error
    now = json.loads(json.dumps(settings))
    differing = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    if differing:
        told = "; ".join(f"{name} was {before.get(name)!r} and is {now.get(name)!r}" for name in differing)
        raise ValueError(
            f"{path.parent} holds a run with other settings: {told}. Continue it with the same ones, or give another "
            "output."
        )
