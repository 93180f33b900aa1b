"""What training leaves: a folder in diffusers' layout, with the stored prompt and the facts of its making.

OUT/transformer, OUT/vae       as diffusers loads them, in bfloat16 with diffusers' own float32 exceptions
OUT/prompt.safetensors         prompt_embeds float[P, text_dim], which takes the place of an empty prompt
OUT/generator.json             frames and size of the clips, prompt length, kind, steps, versions
"""

import copy
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import torch
from diffusers import WanTransformer3DModel
from safetensors.torch import load_file, save_file

from vega3d.files import check_new_folder, read_json, whole_files, whole_folder, write_json, write_whole
from vega3d.modeling.files_vega3d import INFO_FILE, PROMPT_FILE

WEIGHTS = "diffusion_pytorch_model.safetensors"


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
    with whole_files(target) as partial_folder:
        copied.save_pretrained(partial_folder)


def copy_part(source: Path, target: Path) -> None:
    """Copies the files of a part, unless they are there; each appears under its name when it is whole."""
    if target.exists() and target.samefile(source):
        return
    target.mkdir(parents=True, exist_ok=True)
    for file in sorted(source.iterdir()):
        if file.is_file():
            write_whole(target / file.name, partial(shutil.copyfile, file))


def export_read(folder: Path, output: Path, blocks: int) -> None:
    """What features need of a generator: its first blocks, with weights of 8 bits, and the VAE's encoder.

    Matrices of the blocks are stored as float8 (e4m3) without scales: their entries are a hundredth to a tenth, where
    it has three bits and an exponent. The transformer's config tells of these blocks alone; how many were trained
    stands in `generator.json`.

    Args:
        folder: of `export_generator`.
        output: is made.
        blocks: how many are stored; features of later ones cannot be read.

    Raises:
        ValueError: if the output is there, or the generator has fewer blocks.
    """
    check_new_folder(output)
    config = read_json(folder / "transformer" / "config.json")
    layers = config["num_layers"]
    if not 1 <= blocks <= layers:
        raise ValueError(f"blocks is {blocks}, but {folder} has {layers}. Give a number from 1 to {layers}.")
    with whole_folder(output) as partial_folder:
        shutil.copytree(folder, partial_folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.safetensors"))
        shutil.copyfile(folder / PROMPT_FILE, partial_folder / PROMPT_FILE)
        write_json(partial_folder / "transformer" / "config.json", {**config, "num_layers": blocks})
        for part, keep in (("transformer", partial(is_read, blocks=blocks)), ("vae", is_encoder)):
            weights = load_file(folder / part / WEIGHTS)
            kept = {name: in_8_bits(name, value) for name, value in weights.items() if keep(name)}
            write_whole(partial_folder / part / WEIGHTS, partial(save_file, kept, metadata={"format": "pt"}))


def is_read(name: str, blocks: int) -> bool:
    return not name.startswith("blocks.") or int(name.split(".")[1]) < blocks


def is_encoder(name: str) -> bool:
    return name.startswith(("encoder.", "quant_conv."))


def in_8_bits(name: str, value: torch.Tensor) -> torch.Tensor:
    """Matrices of the blocks rounded; norms, biases, convolutions and what diffusers keeps in float32 as they are."""
    is_matrix = name.startswith("blocks.") and value.ndim == 2 and value.dtype == torch.bfloat16
    return value.to(torch.float8_e4m3fn) if is_matrix else value


def export_generator(
    transformer: WanTransformer3DModel, vae: Path, folder: Path, prompt: torch.Tensor, facts: dict
) -> None:
    """
    Args:
        transformer: trained.
        vae: folder of its files, which are copied byte for byte.
        folder: is made.
        prompt: float[P, text_dim].
        facts: of `generator.json`; `num_frames`, `size` and `prompt_length` are read by `VegaGenerator.from_folder`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    copy_part(vae, folder / "vae")
    export_part(transformer, folder, "transformer")
    write_whole(folder / PROMPT_FILE, partial(save_file, {"prompt_embeds": prompt.detach().cpu().contiguous()}))
    write_json(folder / INFO_FILE, facts)
