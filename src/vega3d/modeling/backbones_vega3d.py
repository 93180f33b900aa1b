"""The two pretrained models that a fused one is assembled from: found, checked by their small files, then loaded."""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from transformers import (
    CONFIG_MAPPING,
    AutoConfig,
    AutoModelForImageTextToText,
    PreTrainedConfig,
    PreTrainedModel,
    UMT5EncoderModel,
)

from .configuration_vega3d import VegaConfig, VegaGeneratorConfig, refuse_frame_settings
from .files_vega3d import (
    INDEX,
    PARTS,
    Repository,
    check_complete,
    open_repository,
    read_index,
    read_json,
    read_part_config,
    value_errors,
    weight_files,
)
from .layouts_vega3d import (
    GIVE_WAN,
    check_own_code,
    check_part_class,
    check_vlm,
    check_vlm_file,
    official_words,
    require,
)

PROCESSOR_FILES = ("tokenizer_config.json", "processor_config.json", "preprocessor_config.json")
VLM_FILES = ("config.json", "adapter_config.json", f"model{INDEX}", *PROCESSOR_FILES)
GENERATOR_FILES = ("model_index.json", "config.json", "*/config.json", f"*/*{INDEX}")
TEXT_ENCODER = "text_encoder"
STEMS = {"transformer": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model", TEXT_ENCODER: "model"}
KINDS = ("json", "safetensors")
BLOCKS_ON_DISK = {  # of the text encoder, which is used for one token
    "shared": "cpu",
    "encoder.embed_tokens": "cpu",
    "encoder.block": "disk",
    "encoder.final_layer_norm": "cpu",
}
DOWNLOAD_AGAIN = "Copy or download it again."


@dataclass(frozen=True)
class Backbones:
    """A VLM and a generator that fit each other; of those on the Hub nothing large is here yet."""

    vlm: Repository
    generator: Repository
    config: VegaConfig  # of the fused model
    vlm_weights: list[str]  # files of weights
    generator_weights: dict[str, list[str]]  # of each part, the text encoder with them if it is needed

    def download_bytes(self) -> int:
        """What is still to be downloaded."""
        parts = [path for paths in self.generator_weights.values() for path in paths]
        return self.vlm.bytes_of(self.vlm_weights, missing=True) + self.generator.bytes_of(parts, missing=True)

    def output_bytes(self) -> int:
        """What the checkpoint takes, in the VLM's own dtype."""
        copied = [path for part in PARTS for path in self.generator_weights[part]]
        beside = self.generator.bytes_of(copied) if self.config.generator_config.is_relative else 0
        return self.vlm.bytes_of(self.vlm_weights) + beside

    def fetch_generator(self) -> Path:
        """Its local folder, once its files are there."""
        return self.generator.fetch([f"{part}/*.{kind}" for part in self.generator_weights for kind in KINDS])


def find_backbones(
    vlm: str | Path, generator: str | Path, prompt_embeds: torch.Tensor | None = None, **config
) -> Backbones:
    """Finds the two models and checks by their small files that they can be fused.

    Args:
        vlm: Hub id or folder.
        generator: Hub id or folder.
        prompt_embeds: as in `from_backbones`; with it no text encoder is needed.
        config: fields of the two configs.

    Raises:
        ValueError: for an unknown or bad option, or if one of the models is of another layout.
    """
    vlm_fields, generator_fields = split_config(config)
    vlm_found = open_repository(vlm, "a vision-language model", VLM_FILES)
    vlm_config, vlm_weights = read_vlm(vlm_found)
    generator_found = open_repository(generator, "a generator", GENERATOR_FILES)
    parts, weights = read_generator(generator_found, with_text_encoder=prompt_embeds is None)
    if prompt_embeds is not None:
        check_prompt(prompt_embeds, parts["transformer"].get("text_dim", 4096))
    generator_config = VegaGeneratorConfig(
        transformer=parts["transformer"],
        vae=parts["vae"],
        prompt_tokens=1 if prompt_embeds is None else prompt_embeds.shape[0],
        **generator_fields,
    )
    fused = VegaConfig(vlm_config=vlm_config, generator_config=generator_config, **vlm_fields)
    return Backbones(vlm_found, generator_found, fused, vlm_weights, weights)


def split_config(options: dict) -> tuple[dict, dict]:
    """Sorts options into those of `VegaConfig` and those of `VegaGeneratorConfig`."""
    inherited = {field.name for field in fields(PreTrainedConfig)}
    derived = {"vlm_config", "generator_config", "transformer", "vae", "prompt_tokens", "files_hash"}
    names = [
        {field.name for field in fields(config_class)} - inherited - derived
        for config_class in (VegaConfig, VegaGeneratorConfig)
    ]
    refuse_frame_settings(options)
    unknown = [name for name in options if name not in names[0] | names[1]]
    if unknown:
        raise ValueError(f"Unknown options {unknown}. Known are {sorted(names[0] | names[1])}.")
    model, generator = ({name: options[name] for name in options if name in known} for known in names)
    return model, generator


def check_seed(seed: int) -> None:
    is_seed = isinstance(seed, int) and not isinstance(seed, bool) and 0 <= seed < 2**63
    require(is_seed, "seed", seed, "a whole number in [0, 2**63)", "Use 0 if in doubt.")


def check_prompt(prompt_embeds: torch.Tensor, text_dim: int) -> None:
    shape = tuple(prompt_embeds.shape)
    if len(shape) != 2 or not shape[0] or shape[1] != text_dim or not prompt_embeds.is_floating_point():
        raise ValueError(
            f"prompt_embeds must be float[P, {text_dim}], but is {prompt_embeds.dtype} of shape {shape}. "
            "Embed the prompt with the generator's own text encoder."
        )
    if not torch.isfinite(prompt_embeds).all():
        raise ValueError("prompt_embeds holds NaN or infinity. Embed the prompt again, in float32 or bfloat16.")


# --- The vision-language model ---------------------------------------------------------------------------------------


def read_vlm(vlm: Repository) -> tuple[PreTrainedConfig, list[str]]:
    """The config of a supported VLM, and its files of weights; raises ValueError for any other model."""
    config, names = read_vlm_config(vlm), vlm.names_in("")
    files = weight_files(vlm.folder, "model", names, vlm.name)
    if f"model{INDEX}" in names:
        check_vlm_keys(read_index(vlm.folder / f"model{INDEX}"), vlm.name)
    return config, files


def read_vlm_config(vlm: Repository) -> PreTrainedConfig:
    """The config of a supported VLM; raises ValueError for any other model."""
    names = vlm.names_in("")
    if "adapter_config.json" in names:
        base = read_json(vlm.folder / "adapter_config.json").get("base_model_name_or_path")
        raise ValueError(
            f"{vlm.name} is an adapter of {base}, and no whole model. Merge it into that one first "
            "(`merge_and_unload` of peft), save the result, and give its folder."
        )
    if "config.json" not in names:
        gguf = " It holds GGUF files, which are not read." if any(name.endswith(".gguf") for name in names) else ""
        raise ValueError(
            f"{vlm.name} is neither a folder nor a Hub id of a vision-language model: it has no config.json.{gguf}"
        )
    stored = read_json(vlm.folder / "config.json")
    check_vlm_file(stored, vlm.name)
    for name in PROCESSOR_FILES:
        if name in names:
            check_own_code(read_json(vlm.folder / name), name, vlm.name)
    if str(stored.get("model_type")) in CONFIG_MAPPING:
        check_vlm(stored["model_type"])
    try:
        with value_errors(f"The config of {vlm.name}", DOWNLOAD_AGAIN):
            config = AutoConfig.from_pretrained(vlm.folder, trust_remote_code=False)
    except (OSError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(
            f"{vlm.name} is neither a folder nor a Hub id of a vision-language model: {reason}"
        ) from error
    check_vlm(config.model_type)
    return config


def check_vlm_keys(keys: Mapping[str, Any] | set[str], vlm: str) -> None:
    """Raises ValueError for weights of the official fused model."""
    if any(key.startswith("generative_") for key in keys):
        raise ValueError(official_words(vlm))


def load_vlm(vlm: str | Path, dtype: torch.dtype | str) -> PreTrainedModel:
    """The VLM with all its weights and no others.

    Raises ValueError if weights are missing, truncated, of other shapes, or unknown.
    """
    with value_errors(f"The VLM {vlm}", DOWNLOAD_AGAIN):
        model, info = AutoModelForImageTextToText.from_pretrained(
            vlm, dtype=dtype, use_safetensors=True, trust_remote_code=False, output_loading_info=True
        )
    check_complete(f"The VLM {vlm}", info["missing_keys"], DOWNLOAD_AGAIN)
    check_vlm_keys(info["unexpected_keys"], str(vlm))
    if info["unexpected_keys"]:
        raise ValueError(
            f"The VLM {vlm} has {len(info['unexpected_keys'])} weights that a {model.config.model_type} has not, the "
            f"first is {min(info['unexpected_keys'])}: they would be lost. Give the plain model, or merge adapters "
            "into it first."
        )
    return model


# --- The generator ---------------------------------------------------------------------------------------------------


def read_generator(generator: Repository, with_text_encoder: bool) -> tuple[dict[str, dict], dict[str, list[str]]]:
    """Configs of the parts of a generator, and the paths of their weights; raises ValueError for another layout."""
    parts = [*PARTS, TEXT_ENCODER] if with_text_encoder else list(PARTS)
    missing = [part for part in parts if f"{part}/config.json" not in generator.sizes]
    if missing:
        raise ValueError(words_for_missing(generator, missing, parts))
    check_experts(generator)
    stored = {part: read_json(generator.folder / part / "config.json") for part in parts}
    for part in PARTS:
        check_part_class(part, stored[part], generator.name)
    if with_text_encoder:
        check_text_encoder(stored[TEXT_ENCODER], stored["transformer"], generator.name)
    weights = {}
    for part in parts:
        place = f"{generator.name}/{part}"
        files = weight_files(generator.folder / part, STEMS[part], generator.names_in(part), place)
        weights[part] = [f"{part}/{file}" for file in files]
    return {part: read_part_config(generator.folder, part) for part in PARTS}, weights


def words_for_missing(generator: Repository, missing: list[str], parts: list[str]) -> str:
    """What to do about a generator without some of its parts."""
    words = f"{generator.name} has no {', '.join(missing)}: it must hold {', '.join(parts)}."
    if missing == [TEXT_ENCODER]:
        return f"{words} Give prompt_embeds to do without a text encoder."
    names = generator.names_in("")
    for index in ("model_index.json", "config.json"):
        if index in names:
            found = read_json(generator.folder / index).get("_class_name")
            words += f" Its {index} says {found!r}." if found else ""
    if any(name.startswith(("Wan2.", "models_t5")) and name.endswith(".pth") for name in names):
        return (
            f"{words} It is in the layout of the original code: use the repository whose name ends in -Diffusers, or "
            "`vega3d convert` it first."
        )
    if any(name.endswith(".gguf") for name in names):
        words += " GGUF files are not read."
    return f"{words} {GIVE_WAN} Its name ends in -Diffusers."


def check_experts(generator: Repository) -> None:
    """Raises ValueError for Wan2.2-A14B, whose transformers each know a part of the noise levels."""
    index = read_json(generator.folder / "model_index.json") if "model_index.json" in generator.sizes else {}
    second = index.get("transformer_2")
    named = isinstance(second, list) and any(second)
    if not (named or index.get("boundary_ratio") is not None or "transformer_2/config.json" in generator.sizes):
        return
    raise ValueError(
        f"{generator.name} has two experts: transformer for steps of noise from {boundary(index)} on, transformer_2 "
        "below (the paper's step is 300). Only a generator with one transformer for all steps is supported: features "
        f"of the wrong expert would mean nothing. {GIVE_WAN}"
    )


def boundary(index: dict) -> str:
    ratio = index.get("boundary_ratio")
    return f"{1000 * ratio:g} of 1000" if isinstance(ratio, (int, float)) else "its boundary_ratio"


def check_text_encoder(config: dict, transformer: dict, place: str) -> None:
    """Raises ValueError unless it is Wan's own, as wide as the transformer's prompt."""
    kind, width, wanted = config.get("model_type"), config.get("d_model"), transformer.get("text_dim", 4096)
    encoder = f"The text_encoder in {place}"
    if kind != "umt5":
        raise ValueError(f"{encoder} is of model_type {kind!r}, but must be 'umt5'. {GIVE_WAN}")
    if config.get("quantization_config") is not None:
        raise ValueError(f"{encoder} is quantised. Give the one that is not, or prompt_embeds.")
    if width != wanted:
        raise ValueError(f"{encoder} has d_model={width!r}, but the transformer has text_dim={wanted!r}. {GIVE_WAN}")


@torch.no_grad()
def embed_empty_prompt(folder: Path) -> torch.Tensor:
    """float[1, text_dim]: the empty prompt is the end-of-sequence token alone; Wan pads with zeros after it.

    The encoder's embeddings and one of its blocks at a time are in memory.

    Raises ValueError if the text encoder cannot be loaded, or lacks weights.
    """
    place = folder / TEXT_ENCODER
    with value_errors(f"The text encoder in {place}", DOWNLOAD_AGAIN), tempfile.TemporaryDirectory() as scratch:
        encoder, info = UMT5EncoderModel.from_pretrained(
            place,
            dtype="auto",
            use_safetensors=True,
            output_loading_info=True,
            device_map=BLOCKS_ON_DISK,
            offload_folder=scratch,
        )
        check_complete(f"The text encoder in {place}", info["missing_keys"], DOWNLOAD_AGAIN)
        tokens = torch.tensor([[encoder.config.eos_token_id]])
        embeds = encoder(tokens).last_hidden_state[0]
    check_prompt(embeds, encoder.config.d_model)
    return embeds
