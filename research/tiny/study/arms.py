"""The model of each arm, from the one VLM with the trained tower, and what of it is trained."""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from safetensors.torch import load_file, save_file
from torch import nn

from research.tiny.simulator.muon import OTHERS_RATE
from research.tiny.study.network import use_packed_attention
from research.tiny.study.recipe import ArmRecipe, Recipe, TowerRecipe, TrainingRecipe
from vega3d.files import whole_folder
from vega3d.modeling.backbones_vega3d import read_part_config
from vega3d.modeling.grounding_vega3d import VegaForVisualGrounding
from vega3d.modeling.modeling_vega3d import VegaForSpatialReasoning, VegaTaskModel
from vega3d.training.parts import choose_parts, parameter_groups

WEIGHTS = "transformer/diffusion_pytorch_model.safetensors"


def write_placeholder_generator(folder: Path, width: int) -> None:
    """The smallest generator with features of `width`, for arms whose second stream comes from elsewhere, or none."""
    if folder.is_dir():
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    with torch.random.fork_rng(devices=[]), whole_folder(folder) as partial_folder:
        torch.manual_seed(0)
        heads = next(count for count in (32, 16, 8, 4, 2, 1) if width % (2 * count) == 0)
        transformer = WanTransformer3DModel(
            num_attention_heads=heads,
            attention_head_dim=width // heads,
            text_dim=16,
            freq_dim=16,
            ffn_dim=16,
            num_layers=1,
        )
        transformer.save_pretrained(partial_folder / "transformer")
        AutoencoderKLWan(base_dim=3, num_res_blocks=1).save_pretrained(partial_folder / "vae")


def arm_model(
    recipe: Recipe, arm: ArmRecipe, vlm: Path, generator: Path, seed: int, dtype: torch.dtype = torch.float32
) -> VegaForSpatialReasoning:
    """The model before its training; the same seed gives the same projector and gate in all arms of one width.

    Raises:
        ValueError: if files are missing, or an option is bad.
    """
    options: dict[str, Any] = {"block": -1 if arm.stream in recipe.generators else 0}
    options.update(prompt_options(generator), **arm.options)
    model = VegaForSpatialReasoning.from_backbones(
        vlm,
        generator,
        dtype=dtype,
        seed=seed,
        fusion=arm.fusion,
        fusion_residual_init=recipe.residual_init,
        projector_hidden_size=recipe.projector_hidden_size,
        **options,
    )
    use_packed_attention(model)
    return model


def prompt_options(generator: Path) -> dict[str, Any]:
    """The stored prompt of a generator of `train-generator`; a row of zeros for one without."""
    stored = generator / "prompt.safetensors"
    if stored.is_file():
        values = json.loads((generator / "generator.json").read_text(encoding="utf-8"))
        return {"prompt_embeds": load_file(stored)["prompt_embeds"], "prompt_length": values["prompt_length"]}
    text_dim = read_part_config(generator, "transformer").get("text_dim", 4096)
    return {"prompt_embeds": torch.zeros(1, text_dim)}


def tower_groups(model: VegaForSpatialReasoning, stage: TowerRecipe) -> list[dict]:
    """Of the vision tower alone; the rest is frozen."""
    choose_parts(model, ["vision"])
    groups = parameter_groups(model, {"vision": stage.learning_rate}, 0.0, stage.weight_decay, matrices(model))
    return [with_muon(group) for group in groups]


def tune(model: VegaTaskModel, stage: TrainingRecipe) -> list[dict]:
    """Freezes what an arm does not train; returns the optimizer's groups.

    Raises:
        ValueError: if a trained part has no learning rate.
    """
    parts = ["llm"] if model.config.fusion == "none" else ["gate", "projector", "llm"]
    parts += ["ground"] if isinstance(model, VegaForVisualGrounding) else []
    lacking = [part for part in parts if part not in stage.learning_rates]
    if lacking:
        raise ValueError(f"Trained are {', '.join(parts)}, but {', '.join(lacking)} has no learning rate.")
    choose_parts(model, parts)
    rates = {part: stage.learning_rates[part] for part in parts}
    groups = parameter_groups(model, rates, stage.residual_scale_rate, stage.weight_decay, matrices(model))
    return [with_muon(group) for group in groups]


def matrices(model: VegaTaskModel) -> list[str]:
    """Names of the matrices and kernels, which Muon trains; not the embeddings."""
    embeddings = {id(model.get_input_embeddings().weight), id(model.get_output_embeddings().weight)}
    return [name for name, value in model.named_parameters() if value.ndim > 1 and id(value) not in embeddings]


def head_group(head: nn.Module, rate: float) -> dict:
    """Of a head that is left behind; as output layers are, by AdamW."""
    return {"name": "head", "params": list(head.parameters()), "lr": rate * OTHERS_RATE, "weight_decay": 0.0}


def with_muon(group: dict) -> dict:
    """Of the groups of `parameter_groups`, those that decay are Muon's; r keeps its rate."""
    if group["name"] == "residual_scale":
        return group
    is_muon = group["weight_decay"] > 0
    return {**group, "muon": is_muon, "lr": group["lr"] * (1.0 if is_muon else OTHERS_RATE)}


def write_shuffled(generator: Path, folder: Path, seed: int = 0) -> Path:
    """The generator with the entries of each weight of its transformer in another order, made unless it is there."""
    if folder.is_dir():
        return folder
    with whole_folder(folder) as partial_folder:
        shutil.copytree(generator, partial_folder, dirs_exist_ok=True)
        random = torch.Generator().manual_seed(seed)
        weights = {
            name: value.flatten()[torch.randperm(value.numel(), generator=random)].view(value.shape)
            for name, value in load_file(generator / WEIGHTS).items()
        }
        save_file(weights, partial_folder / WEIGHTS, metadata={"format": "pt"})
    return folder
