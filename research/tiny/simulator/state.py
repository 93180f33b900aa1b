"""The state of a run in files of at most 15 MB, so that they can be carried from machine to machine."""

import shutil
from pathlib import Path
from typing import Any

import torch
from diffusers.training_utils import EMAModel
from huggingface_hub import save_torch_state_dict
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from vega3d.configs import shown
from vega3d.files import read_json, write_json
from vega3d.training.checkpoints import PREFIX, mark_whole

LARGEST_FILE = "15MB"
FACTS_FILE = "state.json"
KEPT = 2  # the last whole checkpoint stays until the next one is whole


def gather(model: nn.Module, optimizer: torch.optim.Optimizer, average: EMAModel) -> dict[str, torch.Tensor]:
    """All tensors of a run, by name."""
    tensors = {f"model.{name}": parameter.detach() for name, parameter in model.named_parameters()}
    tensors |= {f"average.{index}": shadow for index, shadow in enumerate(average.shadow_params)}
    for number, moments in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{number}.{name}": value for name, value in moments.items()}
    return {name: tensor.cpu() for name, tensor in tensors.items()}


def save_checkpoint(runs: Path, step: int, tensors: dict[str, torch.Tensor], facts: dict[str, Any]) -> None:
    """Writes a checkpoint, whole at its end, and removes those before the last two."""
    folder = runs / f"{PREFIX}{step}"
    if folder.is_dir():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    save_torch_state_dict(tensors, folder, max_shard_size=LARGEST_FILE)
    write_json(folder / FACTS_FILE, facts)
    mark_whole(folder)
    steps = sorted(int(path.name.removeprefix(PREFIX)) for path in runs.glob(f"{PREFIX}*") if path.is_dir())
    for old in steps[:-KEPT]:
        shutil.rmtree(runs / f"{PREFIX}{old}")


def check_facts(facts: dict[str, Any]) -> None:
    """Raises ValueError unless they are as `Loop.save` writes them."""
    kinds: dict[str, Any] = {"step": int, "seconds": (int, float), "average_steps": int, "schedule": dict, "log": list}
    for name, kind in kinds.items():
        if not isinstance(facts.get(name), kind):
            raise ValueError(f"{FACTS_FILE}: {name} is {shown(facts.get(name))}")


@torch.no_grad()
def restore(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, average: EMAModel) -> dict[str, Any]:
    """Puts the state of a checkpoint in place; returns its facts.

    Raises:
        ValueError: if a file cannot be read, or holds other tensors than the run has.
    """
    try:
        tensors: dict[str, torch.Tensor] = {}
        for file in sorted(folder.glob("*.safetensors")):
            tensors |= load_file(file)
        facts = read_json(folder / FACTS_FILE, "")
        check_facts(facts)
    except (SafetensorError, OSError, ValueError) as error:
        raise ValueError(
            f"{folder} cannot be read: {error}. Remove it to continue from an earlier checkpoint."
        ) from error
    try:
        for name, parameter in model.named_parameters():
            parameter.copy_(tensors[f"model.{name}"])
        for index, shadow in enumerate(average.shadow_params):
            shadow.copy_(tensors[f"average.{index}"])
    except (KeyError, RuntimeError) as error:
        raise ValueError(
            f"{folder} holds another model than is trained here ({error}). Give another output."
        ) from error
    average.optimization_step = facts["average_steps"]
    moments: dict[int, dict[str, torch.Tensor]] = {}
    for name, tensor in tensors.items():
        kind, _, rest = name.partition(".")
        if kind == "optimizer":
            number, _, moment = rest.partition(".")
            moments.setdefault(int(number), {})[moment] = tensor
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": moments, "param_groups": groups})
    return facts
