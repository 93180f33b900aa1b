"""Checkpoints of a run: the trained weights alone (`run_files.py` says which checkpoints are whole).

The frozen weights are those of the model that the run started from, so a checkpoint does not repeat them (nor the
generator's files): it holds `trained.safetensors`, and the Trainer's optimizer, scheduler, random states and log.
"""

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

TRAINED_FILE = "trained.safetensors"


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
