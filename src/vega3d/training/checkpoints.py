"""Checkpoints of a run: the trained weights alone (`run_files.py` says which checkpoints are whole).

The frozen weights are those of the model that the run started from, so a checkpoint does not repeat them (nor the
generator's files): it holds `trained.safetensors`, and the Trainer's optimizer, scheduler, random states and log.
"""

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import TrainerState

from vega3d.files import read_json, whole_file
from vega3d.run_files import check_required, damage, last_whole_checkpoint

TRAINED_FILE = "trained.safetensors"
STATE_FILE = "trainer_state.json"
OPTIMIZER_FILES = ("optimizer.pt", "scheduler.pt")
FILES_OF_OTHERS = ("config.json", "adapter_*", "model*", "pytorch_model*", "global_step*")


def trained_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def save_trained(model: nn.Module, folder: Path) -> None:
    tensors = {name: parameter.detach().contiguous().cpu() for name, parameter in trained_parameters(model).items()}
    with whole_file(folder / TRAINED_FILE) as partial:
        save_file(tensors, partial, metadata={"format": "pt"})


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


def random_file(process: int, processes: int) -> str:
    """The name that the Trainer gives to the random state of a process."""
    return "rng_state.pth" if processes == 1 else f"rng_state_{process}.pth"


def needed_files(processes: int) -> list[str]:
    """Files without which a run does not go on as it would have."""
    randoms = [random_file(process, processes) for process in range(processes)]
    return [TRAINED_FILE, STATE_FILE, *OPTIMIZER_FILES, *randoms]


def last_checkpoint(folder: Path, processes: int) -> Path | None:
    """The newest whole checkpoint of a run; what a killed process left half is removed.

    Raises:
        ValueError: if it is not this trainer's, or lacks a file.
    """
    return last_whole_checkpoint(folder, needed_files(processes), FILES_OF_OTHERS)


def check_checkpoint(folder: Path, processes: int) -> None:
    """Raises ValueError for a checkpoint that is not whole, or from which a run would not go on as before."""
    wrong = damage(folder)
    if wrong is not None:
        raise ValueError(f"{folder} is no checkpoint of VegaTrainer, or not a whole one: {wrong}")
    check_required(folder, needed_files(processes))
    read_state(folder)


def read_state(folder: Path) -> TrainerState:
    """The Trainer's own account of a run.

    Raises:
        ValueError: if its file cannot be read, or holds something else.
    """
    path = folder / STATE_FILE
    remedy = f"Remove {folder} to continue from an earlier checkpoint."
    values = read_json(path, remedy)
    steps = [values.get("global_step"), values.get("max_steps")]
    log = values.get("log_history")
    if not (isinstance(log, list) and all(isinstance(entry, Mapping) for entry in log)):
        raise ValueError(f"{path} cannot be used: its log_history is {type(log).__name__}, not a list. {remedy}")
    if not all(isinstance(step, int) for step in steps):
        raise ValueError(f"{path} cannot be used: global_step and max_steps are {steps}, not numbers. {remedy}")
    try:
        return TrainerState.load_from_json(str(path))
    except (TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"{path} cannot be used: {error}. {remedy}") from error


@contextlib.contextmanager
def reading(folder: Path, *names: str) -> Iterator[None]:
    """Turns whatever a damaged or foreign pickle raises on loading into a ValueError that names the file.

    torch refuses pickles that hold more than tensors and plain values, so that nothing in them runs.
    """
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        files = [name for name in names if not is_loadable(folder / name)] or list(names)
        raise ValueError(
            f"{' or '.join(str(folder / name) for name in files)} cannot be used: {type(error).__name__}: "
            f"{str(error).partition('. ')[0]}. Remove {folder} to continue from an earlier checkpoint."
        ) from error


def is_loadable(file: Path) -> bool:
    """Whether torch takes a file for tensors and plain values, as the states of optimizer and scheduler are."""
    try:
        return isinstance(torch.load(file, map_location="cpu", weights_only=True), dict)
    except Exception:
        return False
