"""Converting official checkpoints and the original Wan to our layout: tensors keep their bytes and get our names.

All names and shapes are compared with those of the model that the config describes, from the headers of the files,
before anything large is read. Then one tensor at a time is read and written.
"""

import json
import re
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import GenerationConfig, Qwen2_5_VLConfig
from transformers.dynamic_module_utils import custom_object_save

from vega3d import VegaConfig, VegaForSpatialReasoning, VegaGeneratorConfig
from vega3d.files import check_new_folder, whole_folder
from vega3d.hub.assemble import make_processor
from vega3d.hub.load import check_vlm_processor
from vega3d.hub.official_configs import Settings, scene_settings, spatial_settings
from vega3d.hub.official_names import FUSION, GROUNDING_HEAD, PROJECTOR, QWEN_VLM, SCENE_VLM, TOWER, rename
from vega3d.hub.original_wan import STEM, Report, Wan, fetch_wan, find_wan, rename_transformer, write_wan
from vega3d.hub.tensor_files import Stored, StoredTensor, Tensors, by_file, stored_tensors, write_shards, write_tensors
from vega3d.hub.tiny_vae import SUFFIXES, write_with_tiny_vae
from vega3d.hub.weight_checks import WHOLE_AGAIN, check_weights, compare
from vega3d.modeling.alignment_vega3d import PROJECTORS
from vega3d.modeling.backbones_vega3d import embed_empty_prompt
from vega3d.modeling.checkpoint_vega3d import AUTO_MAP
from vega3d.modeling.files_vega3d import (
    PROMPT_FILE,
    Repository,
    copy_files,
    hash_files,
    open_repository,
    read_json,
    read_part_config,
    read_prompt,
    value_errors,
    weight_files,
)
from vega3d.modeling.fusion_vega3d import FUSIONS
from vega3d.modeling.grounding_head_vega3d import HEADS
from vega3d.modeling.layouts_vega3d import is_official
from vega3d.processing.processor_checks_vega3d import check_vlm_parts

SMALL_FILES = ("*.json", "*/config.json", "*/*.index.json", "*.txt", "*.jinja")
SPATIAL, SCENE, WAN, TINY_VAE = "spatial", "scene", "wan", "tiny VAE"
HEAD = "grounding_head.ranking."
OTHER_WAN = "Give the Wan that it was trained with, or copy both again, whole."
PARTS_FILE, FIELDS_FILE = "parts.safetensors", "parts.json"


def convert(
    source: str | Path,
    output: str | Path,
    generator: str | Path | None = None,
    restore: bool = False,
    report: Report | None = None,
) -> Path:
    """Writes an official checkpoint, an original Wan, or a Wan with a tiny VAE in our layout.

    `output` appears only when it is whole.

    Args:
        source: Hub id or folder of an official spatial-reasoning checkpoint, of one for 3D scenes, whose generative
            parts and grounding head are taken, or of a Wan2.1-T2V in the layout of the original code; or a file with
            the weights of TAEHV, a tiny VAE.
        output: folder, not there yet or empty.
        generator: Hub id or folder of the Wan2.1-T2V of the checkpoint, or of the one whose VAE the tiny one replaces,
            in diffusers' layout or the original one.
        restore: take the transformer of `generator` in place of the checkpoint's own.
        report: called with each line on what was found.

    Raises:
        ValueError: if `output` is in use; for another kind of model, keys of a config that are not known, weights that
            are missing, left over or of other shapes, pickles of more than tensors, or files that are cut short.
    """
    output = check_new_folder(output)
    report = report or (lambda line: None)
    file, checkpoint, wan = Path(source), None, None
    if file.suffix in SUFFIXES and file.is_file():
        kind = TINY_VAE
    else:
        checkpoint = open_repository(source, "an official checkpoint or an original Wan", SMALL_FILES)
        kind = kind_of(checkpoint)
    check_options(source, kind, generator, restore)
    if checkpoint is not None and kind == WAN:
        wan = find_wan(checkpoint)
    elif generator is not None:
        wan = find_wan(open_repository(generator, "a generator", SMALL_FILES))
    with whole_folder(output) as partial:
        if checkpoint is not None and kind == SCENE:
            write_scene_parts(checkpoint, wan, partial, report)
        elif checkpoint is not None and wan is not None and kind == SPATIAL:
            write_spatial(checkpoint, wan, partial, restore, report)
        elif wan is not None and kind == TINY_VAE:
            write_with_tiny_vae(file, wan, partial, report)
        elif wan is not None:
            write_wan(wan, partial, report)
    return output


def kind_of(checkpoint: Repository) -> str:
    """Which of the three kinds a folder is; raises ValueError for any other."""
    config = read_json(checkpoint.folder / "config.json") if "config.json" in checkpoint.sizes else {}
    if "_class_name" in config:
        return WAN
    if is_official(config):
        return SCENE if str(config.get("model_type")).startswith("llava") else SPATIAL
    raise ValueError(
        f"{checkpoint.name} is neither an official VEGA-3D checkpoint (no key of its config.json begins with "
        "generative_) nor a Wan in the layout of the original code. A plain VLM is given to `vega3d assemble`."
    )


def check_options(source: str | Path, kind: str, generator: str | Path | None, restore: bool) -> None:
    """Raises ValueError for options that this kind of checkpoint cannot follow, or lacks."""
    if kind == WAN and generator is not None:
        raise ValueError(f"{source} is a generator itself. Leave out --generator.")
    if kind != SPATIAL and restore:
        raise ValueError(
            f"{source} holds no transformer beside a VLM, so there is none to restore. Leave out --restore."
        )
    if kind == TINY_VAE and generator is None:
        raise ValueError(f"{source} holds a VAE alone. Give --generator, the Wan2.1-T2V whose VAE it replaces.")
    if kind == SPATIAL and generator is None:
        raise ValueError(
            f"{source} holds neither the VAE nor the prompt of its generator. Give --generator "
            "Wan-AI/Wan2.1-T2V-1.3B-Diffusers, or the folder of the Wan that it was trained with."
        )


# --- The spatial-reasoning checkpoint --------------------------------------------------------------------------------


def write_spatial(checkpoint: Repository, wan: Wan, target: Path, restore: bool, report: Report) -> None:
    """The fused model with its generator; whatever can be refused by names and sizes is refused first."""
    from diffusers import WanTransformer3DModel

    settings, vlm = spatial_settings(read_json(checkpoint.folder / "config.json"), f"The config of {checkpoint.name}")
    names = weight_files(checkpoint.folder, "model", checkpoint.names_in(""), checkpoint.name)
    folder = checkpoint.fetch([*names, *SMALL_FILES])
    tensors = stored_tensors(folder / name for name in names)
    tower = rename_transformer(under(tensors, TOWER), checkpoint.name)
    with torch.device("meta"):
        transformer = WanTransformer3DModel.from_config(wan.transformer)
    place = f"The transformer of {checkpoint.name}"
    check_weights(tower, transformer.state_dict(), place, f"the config of {wan.name}", OTHER_WAN)
    weights = fused_weights(tensors, settings.model["fusion"])
    config = fused_config(settings, vlm, wan)
    check_fused(weights, config, checkpoint.name)
    processor = make_processor(folder, config.generator_config, **settings.processor)
    check_vlm_parts(processor)
    check_vlm_processor(processor, config)
    with tempfile.TemporaryDirectory(dir=target) as scratch:
        source = fetch_wan(wan, Path(scratch), report)
        prompt = read_prompt(source) if (source / PROMPT_FILE).is_file() else embed_empty_prompt(source)
        own = own_transformer(source)
        check_weights(own, transformer.state_dict(), f"The transformer of {wan.name}")
        report(compare(tower, own).words(wan.name, restore))
        generator = target / config.generator_config.source
        if restore:
            copy_files(source, generator)
        else:
            shutil.copytree(source / "vae", generator / "vae")
            transformer.save_config(generator / "transformer")
            write_shards(generator / "transformer", STEM, [tower])
    more = {
        "vae": read_part_config(generator, "vae"),
        "prompt_tokens": len(prompt),
        "files_hash": hash_files(generator),
    }
    write_fused(fused_config(settings, vlm, wan, **more), weights, prompt, target)
    processor.save_pretrained(target)
    if (folder / "generation_config.json").is_file():
        with value_errors(f"{folder / 'generation_config.json'}"):
            GenerationConfig.from_pretrained(folder).save_pretrained(target)


def under(tensors: Mapping[str, StoredTensor], prefix: str) -> Stored:
    """Those whose names begin with a prefix, without it."""
    return {key.removeprefix(prefix): tensor for key, tensor in tensors.items() if key.startswith(prefix)}


def own_transformer(generator: Path) -> Stored:
    """All weights of the transformer of a Wan in diffusers' layout, but for a norm that has no place in it."""
    folder = generator / "transformer"
    names = [file.name for file in folder.iterdir() if file.is_file()]
    stored = stored_tensors(folder / name for name in weight_files(folder, STEM, names, folder))
    return {name: tensor for name, tensor in stored.items() if "norm_added_q" not in name}


def fused_weights(tensors: Mapping[str, StoredTensor], fusion: str) -> Stored:
    """All but the tower under our names; raises ValueError for a name that no table has."""
    tables = {
        "generative_merger.": ("model.projector.", PROJECTOR),
        "generative_fusion.": ("model.fusion.", FUSION[fusion]),
    }
    vlm = {key: tensor for key, tensor in tensors.items() if not key.startswith((TOWER, *tables))}
    parts = {"model.vlm.": rename(vlm, QWEN_VLM)}
    parts |= {ours: rename(under(tensors, theirs), table) for theirs, (ours, table) in tables.items()}
    return {f"{prefix}{name}": tensor for prefix, part in parts.items() for name, tensor in part.items()}


def fused_config(settings: Settings, vlm: dict[str, Any], wan: Wan, **generator) -> VegaConfig:
    """The config of the fused model; `generator` are more fields of its generator's."""
    wan_fields = {"transformer": wan.transformer, "prompt_length": wan.prompt_length}
    with value_errors("The config of the checkpoint"):
        config = VegaConfig(
            vlm_config=Qwen2_5_VLConfig.from_dict(vlm).to_dict(),
            generator_config={**wan_fields, **settings.generator, **generator},
            **settings.model,
        )
    config.architectures = [VegaForSpatialReasoning.__name__]
    return config


def check_fused(weights: Mapping[str, StoredTensor], config: VegaConfig, place: str) -> None:
    """Raises ValueError unless weights are those of the fused model; one that is tied to another may be left out."""
    with torch.device("meta"):
        model = VegaForSpatialReasoning(config)
    expected = model.state_dict()
    for name in ("model.generator.prompt_embeds", *(model.all_tied_weights_keys.keys() - weights.keys())):
        expected.pop(name, None)
    check_weights(weights, expected, place)


def write_fused(config: VegaConfig, weights: Mapping[str, StoredTensor], prompt: torch.Tensor, target: Path) -> None:
    """Config, code and weights of the fused model, in as many files as the official ones."""
    config.dtype = dtype = weights["model.vlm.model.language_model.embed_tokens.weight"].dtype
    with torch.device("meta"):
        model = VegaForSpatialReasoning(config)
    config.save_pretrained(target)
    custom_object_save(model, target)
    config.auto_map = dict(AUTO_MAP)
    config.to_json_file(target / "config.json")
    shards: list[Tensors] = [*by_file(weights, dict.fromkeys(tensor.file for tensor in weights.values()))]
    write_shards(target, "model", [*shards[:-1], {**shards[-1], "model.generator.prompt_embeds": prompt.to(dtype)}])


# --- The 3D-scene checkpoint -----------------------------------------------------------------------------------------


def write_scene_parts(checkpoint: Repository, wan: Wan | None, target: Path, report: Report) -> None:
    """Projector, fusion and ranking head of a 3D-scene checkpoint (`parts.safetensors`), with their fields.

    Its VLM is a LLaVA-Video, which cannot be fused here, and is left out. A Wan that is given goes to `generator/`.
    """
    place = checkpoint.name
    settings = scene_settings(read_json(checkpoint.folder / "config.json"), f"The config of {place}")
    names = weight_files(checkpoint.folder, "model", checkpoint.names_in(""), place)
    folder = checkpoint.fetch(names)
    tensors = stored_tensors(folder / name for name in names)
    parts = scene_parts(tensors, settings.model["fusion"])
    fields = check_parts(parts, settings.model, place)
    if wan is not None:
        check_width(fields["generator_width"], wan, place)
    left_out = sum(re.match(SCENE_VLM, key) is not None for key in tensors)
    report(f"Of {place} {len(parts)} weights are taken; the {left_out} of its VLM, a LLaVA-Video, are left out.")
    if wan is not None:
        with tempfile.TemporaryDirectory(dir=target) as scratch:
            source = fetch_wan(wan, Path(scratch), report)
            copy_files(source, target / "generator")
            if (source / PROMPT_FILE).is_file():
                shutil.copyfile(source / PROMPT_FILE, target / "generator" / PROMPT_FILE)
    write_tensors(target / PARTS_FILE, parts)
    fields |= {"config": {**fields["config"], **settings.generator}, "processor": settings.processor}
    (target / FIELDS_FILE).write_text(json.dumps(fields, indent=1) + "\n", encoding="utf-8")


def check_width(channels: int, wan: Wan, place: str) -> None:
    """Raises ValueError unless features of this Wan are as wide as the projector takes them."""
    width = VegaGeneratorConfig(transformer=wan.transformer, block=-1).hidden_size
    if width != channels:
        raise ValueError(
            f"The projector of {place} takes features of {channels} channels, but those of {wan.name} have {width}. "
            "Give the Wan that it was trained with."
        )


def scene_parts(tensors: Mapping[str, StoredTensor], fusion: str) -> Stored:
    """Projector, fusion and head under our names; raises ValueError for a name that is none of theirs or the VLM's."""
    tables = [
        ("model.generative_projector.", "model.projector.", PROJECTOR),
        ("model.feature_fusion.", "model.fusion.", FUSION[fusion]),
        ("", HEAD, GROUNDING_HEAD),
    ]
    rest = {key: tensor for key, tensor in tensors.items() if not re.match(SCENE_VLM, key)}
    parts: Stored = {}
    for prefix, ours, table in tables:
        own = under(rest, prefix)
        rest = {key: tensor for key, tensor in rest.items() if not key.startswith(prefix)}
        parts |= {f"{ours}{name}": tensor for name, tensor in rename(own, table).items()}
    return parts


def check_parts(parts: Mapping[str, StoredTensor], model: Mapping[str, Any], place: str) -> dict[str, Any]:
    """Widths D and C of the parts and their fields, by their weights; raises ValueError if they do not fit."""
    layers = [parts.get(f"model.projector.mlp.{layer}.weight") for layer in (0, 2)]
    if layers[0] is None or layers[1] is None or len(layers[0].shape) != 2:
        raise ValueError(f"{place} has no generative_projector of two layers. {WHOLE_AGAIN}")
    (hidden, channels), width = layers[0].shape, layers[1].shape[0]
    text = {"hidden_size": width, "num_hidden_layers": 1, "num_attention_heads": 1, "num_key_value_heads": 1}
    transformer = {"num_attention_heads": 1, "attention_head_dim": channels}
    fields = {**model, "projector_hidden_size": hidden}
    config = VegaConfig(
        vlm_config={"model_type": "qwen2_5_vl", "text_config": text},  # of these, its width alone is read
        generator_config={"transformer": transformer},
        **fields,
    )
    modules: dict[str, Callable[[VegaConfig], nn.Module]] = {
        "model.projector.": PROJECTORS[config.projector],
        "model.fusion.": FUSIONS[config.fusion],
    }
    if "grounding_head" in model:
        modules[HEAD] = HEADS[config.grounding_head]
    with torch.device("meta"):
        made = {prefix: module(config) for prefix, module in modules.items()}
    expected = {f"{prefix}{name}": value for prefix, part in made.items() for name, value in part.state_dict().items()}
    check_weights(parts, expected, place)
    return {"hidden_size": width, "generator_width": channels, "config": fields}
