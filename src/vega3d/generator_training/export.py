"""What training leaves: a folder in diffusers' layout, with the stored prompt and the facts of its making.

OUT/transformer, OUT/vae       as diffusers loads them, in bfloat16 with diffusers' own float32 exceptions
OUT/prompt.safetensors         prompt_embeds float[P, text_dim], which takes the place of an empty prompt
OUT/generator.json             frames and size of the clips, prompt length, kind, steps, versions
"""

import copy
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from diffusers import WanTransformer3DModel
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from vega3d.config_files import shown
from vega3d.files import (
    LOCK,
    check_input,
    held,
    partial_path,
    read_json,
    remove_left_over,
    sync,
    write_json,
    write_whole,
)
from vega3d.modeling.configuration_vega3d import VegaGeneratorConfig
from vega3d.modeling.generator_vega3d import VegaGenerator

AGAIN = "Export the generator again."
PROMPT_FILE, FACTS_FILE = "prompt.safetensors", "generator.json"


def export_part(model: torch.nn.Module, folder: Path, part: str, dtype: torch.dtype = torch.bfloat16) -> None:
    """Writes `transformer` or `vae`; each file appears under its name when it is whole.

    Args:
        model: of diffusers; it is not changed.
        folder: of the generator.
        part: "transformer" or "vae".
        dtype: of the weights, but for those that diffusers keeps in float32.
    """
    with torch.no_grad():
        copied: Any = copy.deepcopy(model).cpu()
    in_float32 = set(copied._keep_in_fp32_modules or ())
    for name, parameter in copied.named_parameters():
        if not in_float32.intersection(name.split(".")):
            parameter.data = parameter.data.to(dtype)
    target = folder / part
    target.mkdir(parents=True, exist_ok=True)
    with files_for(target) as partial_folder:
        copied.save_pretrained(partial_folder)


@contextmanager
def files_for(target: Path) -> Iterator[Path]:
    """Gives a temporary folder to write into; its files move into the target, which is there, when the block ends.

    What killed processes left of such folders is removed.
    """
    remove_left_over(target)
    made = partial_path(target)
    made.mkdir()
    try:
        with held(made / LOCK, 0o666):
            yield made
            for file in sorted(made.iterdir()):
                if file.name != LOCK:
                    sync(file)
                    file.replace(target / file.name)
            sync(target)
    finally:
        shutil.rmtree(made, ignore_errors=True)


def copy_part(source: Path, target: Path) -> None:
    """Copies the files of a part, unless they are there; each appears under its name when it is whole."""
    if target.exists() and target.samefile(source):
        return
    target.mkdir(parents=True, exist_ok=True)
    for file in sorted(source.iterdir()):
        if file.is_file():
            write_whole(target / file.name, partial(shutil.copyfile, file))


def export_generator(
    transformer: WanTransformer3DModel, vae: Path, folder: Path, prompt: torch.Tensor, facts: dict
) -> None:
    """
    Args:
        transformer: trained.
        vae: folder of its files, which are copied byte for byte.
        folder: is made.
        prompt: float[P, text_dim].
        facts: of `generator.json`; `num_frames`, `size` and `prompt_length` are read by `open_generator`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    copy_part(vae, folder / "vae")
    export_part(transformer, folder, "transformer")
    write_whole(folder / PROMPT_FILE, partial(save_file, {"prompt_embeds": prompt.detach().cpu().contiguous()}))
    write_json(folder / FACTS_FILE, facts)


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
    """Options of `from_backbones` that fit the generator: its prompt, and the frames that it was trained on."""
    facts = read_facts(folder)
    return {
        "prompt_embeds": read_prompt(folder),
        "prompt_length": facts["prompt_length"],
        "max_area": facts["size"] ** 2,
    }


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
