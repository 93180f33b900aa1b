"""The model of each arm, from the one checkpoint of stage 0, and what of it is trained."""

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from safetensors.torch import load_file
from torch import nn

from research.tiny.simulator.muon import OTHERS_RATE
from research.tiny.study.attention import use_packed_attention
from research.tiny.study.recipe import ArmRecipe, Recipe, StageRecipe
from vega3d.modeling.backbones_vega3d import read_part_config
from vega3d.modeling.files_vega3d import hash_files
from vega3d.modeling.modeling_vega3d import VegaForSpatialReasoning
from vega3d.training.parts import choose_parts, parameter_groups

TUNED = {0: ("llm", "vision"), 1: ("gate", "projector", "llm")}


def write_placeholder_generator(folder: Path) -> None:
    """The smallest generator there can be, for models that do not use one: stage 0 and the VLM alone."""
    if (folder / "vae" / "config.json").is_file():
        return
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        transformer = WanTransformer3DModel(
            num_attention_heads=1, attention_head_dim=12, text_dim=16, freq_dim=16, ffn_dim=16, num_layers=1
        )
        transformer.save_pretrained(folder / "transformer")
        AutoencoderKLWan(base_dim=3, num_res_blocks=1).save_pretrained(folder / "vae")


def arm_model(
    recipe: Recipe, arm: ArmRecipe, vlm: Path, generator: Path, seed: int, dtype: torch.dtype = torch.float32
) -> VegaForSpatialReasoning:
    """The model before stage 1; the same seed gives the same projector and gate in all arms of one width.

    Args:
        recipe: of the experiment.
        arm: its generator's options and fusion.
        vlm: folder of stage 0.
        generator: folder in diffusers layout.
        seed: of projector and gate.
        dtype: of the weights.

    Raises:
        ValueError: if files are missing, or an option is bad.
    """
    options: dict[str, Any] = {"block": 0 if arm.generator is None else -1}
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
        facts = json.loads((generator / "generator.json").read_text(encoding="utf-8"))
        return {"prompt_embeds": load_file(stored)["prompt_embeds"], "prompt_length": facts["prompt_length"]}
    text_dim = read_part_config(generator, "transformer").get("text_dim", 4096)
    return {"prompt_embeds": torch.zeros(1, text_dim)}


def tune(model: VegaForSpatialReasoning, stage: int, settings: StageRecipe) -> list[dict]:
    """Freezes what the stage does not train; returns the optimizer's groups.

    Raises:
        ValueError: if a trained part has no learning rate.
    """
    parts = [part for part in TUNED[stage] if part not in ("gate", "projector") or model.config.fusion != "none"]
    if model.config.fusion == "add":
        parts.remove("gate")
    lacking = [part for part in parts if part not in settings.learning_rates]
    if lacking:
        raise ValueError(
            f"Stage {stage} trains {', '.join(parts)}, but has no learning rate for {', '.join(lacking)}."
        )
    choose_parts(model, parts)
    embeddings = {id(model.get_input_embeddings().weight), id(model.get_output_embeddings().weight)}
    is_muon = settings.optimizer == "muon"
    matrices = [
        name
        for name, value in model.named_parameters()
        if value.ndim > 1 and not (is_muon and id(value) in embeddings)
    ]
    rates = {part: settings.learning_rates[part] for part in parts}
    groups = parameter_groups(model, rates, settings.residual_scale_rate, settings.weight_decay, matrices)
    return [with_muon(group) for group in groups] if is_muon else groups


def head_group(head: nn.Module, settings: StageRecipe, part: str) -> dict:
    """Of a head that is left behind, at the rate of a part; with Muon, as output layers are, by AdamW."""
    rate = settings.learning_rates[part] * (OTHERS_RATE if settings.optimizer == "muon" else 1.0)
    return {"name": "head", "params": list(head.parameters()), "lr": rate, "weight_decay": 0.0}


def with_muon(group: dict) -> dict:
    """Of the groups of `parameter_groups`, those that decay are Muon's; r keeps its rate."""
    if group["name"] == "residual_scale":
        return group
    is_muon = group["weight_decay"] > 0
    return {**group, "muon": is_muon, "lr": group["lr"] * (1.0 if is_muon else OTHERS_RATE)}


def generator_identity(arm: ArmRecipe, folder: Path) -> dict[str, Any]:
    """What an arm's hidden states depend on, beside the frames."""
    return {"files": hash_files(folder), "options": dict(sorted(arm.options.items()))}
