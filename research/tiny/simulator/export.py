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
from safetensors.torch import save_file

from vega3d.files import whole_files, write_json, write_whole
from vega3d.modeling.files_vega3d import INFO_FILE, PROMPT_FILE


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
