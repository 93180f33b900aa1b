"""Wan2.1 text-to-video in the layout of the original code, written in that of diffusers."""

import re
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import UMT5Config, UMT5EncoderModel

from vega3d.hub.official_configs import wan_transformer_config
from vega3d.hub.official_names import WAN_TEXT_ENCODER, WAN_TRANSFORMER, rename, rename_vae
from vega3d.hub.tensor_files import (
    Stored,
    StoredTensor,
    by_file,
    stored_tensors,
    unpickled,
    write_shards,
    write_tensors,
)
from vega3d.hub.weight_checks import WHOLE_AGAIN, check_weights, depths
from vega3d.modeling.backbones_vega3d import TEXT_ENCODER, check_prompt, read_generator
from vega3d.modeling.files_vega3d import PARTS, PROMPT_FILE, Repository, read_json, weight_files
from vega3d.modeling.layouts_vega3d import check_generator

Report = Callable[[str], object]
STEM = "diffusion_pytorch_model"
VAE_FILES = ("Wan2.1_VAE.pth", "Wan2.1_VAE.safetensors")
TEXT_FILES = ("models_t5_umt5-xxl-enc-bf16.pth", "models_t5_umt5-xxl-enc-bf16.safetensors")
PROMPT_PICKLE = "wan_prompt_embedding.pt"  # in which the official VEGA-3D code keeps the prompt
LATENTS = 16  # channels whose mean and spread are those of Wan2.1, which diffusers fills in
NOT_NEEDED = ("decoder.", "post_quant_conv.")  # of the VAE; files may lack them
PROMPT_LENGTH = 512


class Wan(NamedTuple):
    """A Wan2.1 text-to-video in one of the two layouts, of which only small files were read so far."""

    repository: Repository
    is_original: bool
    transformer: dict[str, Any]  # diffusers config
    prompt_length: int

    @property
    def name(self) -> str:
        return self.repository.name

    def file(self, names: tuple[str, ...]) -> str:
        """The one of these files that is there; raises ValueError if none is."""
        found = [name for name in names if name in self.repository.sizes]
        if not found:
            raise ValueError(f"{self.name} has no {names[0]}. {WHOLE_AGAIN}")
        return found[0]


def find_wan(repository: Repository) -> Wan:
    """Finds out which layout it has; raises ValueError for another model, or if parts are missing."""
    names = repository.names_in("")
    config = read_json(repository.folder / "config.json") if "config.json" in names else {}
    if "_class_name" not in config:
        parts, _ = read_generator(repository, with_text_encoder=PROMPT_FILE not in names)
        return Wan(repository, False, parts["transformer"], PROMPT_LENGTH)
    transformer, length = wan_transformer_config(config, f"The config of {repository.name}")
    weight_files(repository.folder, STEM, names, repository.name)
    wan = Wan(repository, True, transformer, length)
    wan.file(VAE_FILES)
    if PROMPT_PICKLE not in names:
        wan.file(TEXT_FILES)
    return wan


def fetch_wan(wan: Wan, scratch: Path, report: Report) -> Path:
    """A local folder with this Wan in diffusers' layout, and its prompt or the text encoder that embeds it."""
    has_prompt = (PROMPT_PICKLE if wan.is_original else PROMPT_FILE) in wan.repository.sizes
    if wan.is_original:
        write_wan(wan, scratch, report, with_text_encoder=not has_prompt)
        return scratch
    parts = PARTS if has_prompt else (*PARTS, TEXT_ENCODER)
    patterns = [f"{part}/*.{kind}" for part in parts for kind in ("json", "safetensors")]
    return wan.repository.fetch([PROMPT_FILE, *patterns])


def write_wan(wan: Wan, target: Path, report: Report, with_text_encoder: bool = True) -> None:
    """Writes `transformer/` and `vae/`; of `text_encoder/` and `prompt.safetensors` those that are there, and wanted.

    Raises ValueError for files of another model, or of other sizes than its config says.
    """
    from diffusers import WanTransformer3DModel

    if not wan.is_original:
        raise ValueError(f"{wan.name} is in diffusers' layout already. Give it to `vega3d assemble`.")
    names = wan.repository.names_in("")
    others = {"vae": wan.file(VAE_FILES)}
    if PROMPT_PICKLE in names:
        others["prompt"] = PROMPT_PICKLE
    if with_text_encoder and (PROMPT_PICKLE not in names or set(names) & set(TEXT_FILES)):
        others[TEXT_ENCODER] = wan.file(TEXT_FILES)
    weights = weight_files(wan.repository.folder, STEM, names, wan.name)
    folder = wan.repository.fetch([*weights, *others.values()])
    files = [folder / name for name in weights]
    renamed = rename_transformer(stored_tensors(files), wan.name)
    with torch.device("meta"):
        transformer = WanTransformer3DModel.from_config(wan.transformer)
    check_weights(renamed, transformer.state_dict(), f"The transformer of {wan.name}")
    for part, file in others.items():
        report(f"reading {folder / file}")
        with tempfile.TemporaryDirectory(dir=target) as scratch:
            tensors = (
                stored_tensors([folder / file])
                if file.endswith(".safetensors")
                else unpickled(folder / file, Path(scratch))
            )
            WRITERS[part](tensors, wan, target)
    transformer.save_config(target / "transformer")
    write_shards(target / "transformer", STEM, by_file(renamed, files))


def rename_transformer(tensors: Mapping[str, StoredTensor], place: str) -> Stored:
    """A transformer under diffusers' names; raises ValueError for one that takes images or controls."""
    other = next((key for key in tensors if key.startswith(("vace_", "img_emb."))), None)
    if other is not None:
        raise ValueError(f"The transformer of {place} has {other}: it is no Wan2.1 text-to-video. Give one that is.")
    return rename(tensors, WAN_TRANSFORMER)


def write_vae(tensors: Mapping[str, StoredTensor], wan: Wan, target: Path) -> None:
    """The VAE, whose sizes are those of its weights; raises ValueError for another than Wan2.1's."""
    from diffusers import AutoencoderKLWan

    place = f"The VAE of {wan.name}"
    flat = [int(match[1]) for key in tensors if (match := re.match(r"encoder\.downsamples\.(\d+)\.", key))]
    blocks, left_over = divmod(max(flat, default=0) + 1 - 3, 4)  # four levels, with three down-samplers between them
    first, latents = tensors.get("encoder.conv1.weight"), tensors.get("conv1.weight")
    if first is None or latents is None or left_over or blocks < 1 or latents.shape[0] != 2 * LATENTS:
        raise ValueError(f"{place} is none of Wan2.1: it must have latents of {LATENTS} channels at four levels.")
    with torch.device("meta"):
        vae = AutoencoderKLWan(base_dim=first.shape[0], num_res_blocks=blocks)
    check_generator(wan.transformer, dict(vae.config))
    renamed, expected = rename_vae(tensors, blocks), vae.state_dict()
    if not any(name.startswith(NOT_NEEDED) for name in renamed):
        expected = {name: value for name, value in expected.items() if not name.startswith(NOT_NEEDED)}
    check_weights(renamed, expected, place)
    vae.save_config(target / "vae")
    write_tensors(target / "vae" / f"{STEM}.safetensors", renamed)


def write_prompt(tensors: Mapping[str, StoredTensor], wan: Wan, target: Path) -> None:
    """The embedded prompt; raises ValueError unless it is one matrix, as wide as the transformer's text."""
    if len(tensors) != 1:
        raise ValueError(f"{wan.name}: {PROMPT_PICKLE} holds {len(tensors)} tensors, but a prompt is one.")
    (stored,) = tensors.values()
    prompt = stored.read()
    check_prompt(prompt, wan.transformer["text_dim"])
    write_tensors(target / PROMPT_FILE, {"prompt_embeds": prompt})


def write_text_encoder(tensors: Mapping[str, StoredTensor], wan: Wan, target: Path) -> None:
    """Wan's UMT5 encoder, whose sizes are those of its weights; raises ValueError for another model."""
    place = f"The text encoder of {wan.name}"
    names = ("token_embedding", "blocks.0.pos_embedding.embedding", "blocks.0.attn.q", "blocks.0.ffn.fc1")
    sizes = [tensors[f"{name}.weight"].shape for name in names if f"{name}.weight" in tensors]
    if len(sizes) != len(names) or any(len(size) != 2 for size in sizes):
        raise ValueError(f"{place} is no UMT5 encoder of the original code. {WHOLE_AGAIN}")
    (vocabulary, width), (buckets, heads), (inner, _), (hidden, _) = sizes
    config = UMT5Config(
        vocab_size=vocabulary,
        d_model=width,
        d_kv=inner // heads,
        d_ff=hidden,
        num_layers=depths(tensors)["blocks"],
        num_heads=heads,
        relative_attention_num_buckets=buckets,
        feed_forward_proj="gated-gelu",
        eos_token_id=1,
        pad_token_id=0,
    )
    with torch.device("meta"):
        expected = UMT5EncoderModel(config).state_dict()
    expected.pop("encoder.embed_tokens.weight", None)  # `shared` by another name
    renamed = rename(tensors, WAN_TEXT_ENCODER)
    check_weights(renamed, expected, place)
    config.save_pretrained(target / TEXT_ENCODER)
    write_tensors(target / TEXT_ENCODER / "model.safetensors", renamed)


WRITERS: dict[str, Callable[[Mapping[str, StoredTensor], Wan, Path], None]] = {
    "vae": write_vae,
    "prompt": write_prompt,
    TEXT_ENCODER: write_text_encoder,
}
