"""A generator alone in a folder, without a VLM.

FOLDER/transformer, FOLDER/vae     as diffusers loads them
FOLDER/prompt.safetensors          prompt_embeds float[P, text_dim], which takes the place of an empty prompt
FOLDER/generator.json              frames and size of the clips that it was trained on, prompt length
"""

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from vega3d.configs import shown
from vega3d.files import check_input, read_json
from vega3d.modeling.configuration_vega3d import VegaGeneratorConfig
from vega3d.modeling.generator_vega3d import VegaGenerator
from vega3d.processing.generator_frames_vega3d import FrameSettings

AGAIN = "Export the generator again."
PROMPT_FILE, FACTS_FILE = "prompt.safetensors", "generator.json"


def is_generator(folder: Path) -> bool:
    """Whether a folder holds what `export_generator` writes."""
    return (folder / FACTS_FILE).is_file() and (folder / PROMPT_FILE).is_file()


def read_prompt(folder: Path) -> torch.Tensor:
    """float[P, text_dim]: for `VegaForSpatialReasoning.from_backbones(vlm, folder, prompt_embeds=...)`."""
    path = folder / PROMPT_FILE
    try:
        return load_file(check_input(path))["prompt_embeds"]
    except (SafetensorError, OSError, KeyError) as error:
        raise ValueError(f"{path} cannot be read: {error}. Export the generator again.") from error


def read_facts(folder: Path) -> dict[str, Any]:
    """What `generator.json` says; raises ValueError unless frames, size and prompt length are numbers from 1 up."""
    facts = read_json(folder / FACTS_FILE, AGAIN)
    for name in ("num_frames", "size", "prompt_length"):
        if type(facts.get(name)) is not int or facts[name] < 1:
            raise ValueError(
                f"{folder / FACTS_FILE}: {name} is {shown(facts.get(name))}, not a number from 1. {AGAIN}"
            )
    return facts


def generator_options(folder: Path) -> dict[str, Any]:
    """Options of `from_backbones` that fit the generator: its prompt."""
    return {"prompt_embeds": read_prompt(folder), "prompt_length": read_facts(folder)["prompt_length"]}


def frame_settings(folder: Path, config: VegaGeneratorConfig) -> FrameSettings:
    """How frames are prepared for the generator in a folder: as large as those that it was trained on."""
    return FrameSettings(config.cell, max_area=read_facts(folder)["size"] ** 2)


def read_config(part: Path) -> dict[str, Any]:
    """A config of diffusers, without the facts about its file."""
    stored = read_json(part / "config.json", AGAIN)
    return {name: value for name, value in stored.items() if not name.startswith("_")}


def open_generator(folder: Path, dtype: torch.dtype = torch.float32, **options: Any) -> VegaGenerator:
    """The trained generator as a frozen latent world simulator, without a VLM.

    Args:
        folder: of `export_generator`.
        dtype: of the weights.
        options: fields of `VegaGeneratorConfig`, such as `block` or `clip_mode`.

    Raises:
        ValueError: if files are missing or do not fit, or for a bad option.
    """
    if not is_generator(folder):
        raise ValueError(f"{folder} holds no generator of `vega3d train-generator`: {FACTS_FILE} is not there.")
    transformer, vae = (read_config(folder / part) for part in ("transformer", "vae"))
    fitting = generator_options(folder)
    prompt = fitting.pop("prompt_embeds")
    if type(transformer.get("num_layers")) is not int:
        raise ValueError(f"{folder / 'transformer' / 'config.json'} does not say num_layers. {AGAIN}")
    usual = {"block": transformer["num_layers"] // 2, **fitting, "prompt_tokens": len(prompt)}
    config = VegaGeneratorConfig(transformer=transformer, vae=vae, **{**usual, **options})
    with torch.device("meta"):
        generator = VegaGenerator(config)
    generator.prompt_embeds = prompt.to(dtype)
    generator.load_files(folder)
    return generator
