"""Converting official checkpoints and original Wan layouts to ours; their tensors keep their bytes and get our names.

All names and shapes are compared with those of the model that the config describes, from the headers of the files,
before anything large is read. Then one tensor at a time is read and written.
"""

import json
import re
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn
from transformers import GenerationConfig, Qwen2_5_VLConfig, UMT5Config, UMT5EncoderModel
from transformers.dynamic_module_utils import custom_object_save

from vega3d import VegaConfig, VegaForSpatialReasoning
from vega3d.files import check_new_folder, whole_folder
from vega3d.hub.assemble import make_processor
from vega3d.hub.load import check_vlm_processor
from vega3d.hub.official_configs import (
    Settings,
    scene_settings,
    spatial_settings,
    wan_transformer_config,
)
from vega3d.hub.official_names import (
    FUSION,
    GROUNDING_HEAD,
    PROJECTOR,
    QWEN_VLM,
    SCENE_VLM,
    TOWER,
    WAN_TEXT_ENCODER,
    WAN_TRANSFORMER,
    rename,
    rename_vae,
)
from vega3d.hub.tensor_files import StoredTensor, Tensors, stored_tensors, unpickled, write_shards, write_tensors
from vega3d.modeling.alignment_vega3d import PROJECTORS
from vega3d.modeling.backbones_vega3d import TEXT_ENCODER, check_prompt, embed_empty_prompt, read_generator
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
from vega3d.modeling.layouts_vega3d import check_generator, is_official

Stored = dict[str, StoredTensor]
Report = Callable[[str], object]
SMALL_FILES = ("*.json", "*/config.json", "*/*.index.json", "*.txt", "*.jinja")
DIFFUSION = "diffusion_pytorch_model"
WAN_VAE, WAN_TEXT = r"Wan2\.1_VAE\.(pth|safetensors)", r"models_t5_umt5.*\.(pth|safetensors)"
WAN_PROMPT = "wan_prompt_embedding.pt"  # of the official VEGA-3D code
LATENTS = 16  # channels whose mean and spread are those of Wan2.1, which diffusers fills in
NOT_IN_VAE = ("decoder.", "post_quant_conv.")  # what features do not need, and files may lack
NEEDS_WAN = (
    "holds neither the VAE nor the prompt of its generator. Give --generator "
    "Wan-AI/Wan2.1-T2V-1.3B-Diffusers, or a folder with the Wan that it was trained with."
)
WHOLE_AGAIN = "Copy or download it again, whole."


def convert(
    source: str | Path,
    output: str | Path,
    generator: str | Path | None = None,
    restore: bool = False,
    report: Report | None = None,
) -> Path:
    """Writes an official checkpoint, or an original Wan, in our layout; `output` appears only when it is whole.

    Args:
        source: Hub id or folder of an official spatial-reasoning checkpoint, of one for 3D scenes, whose generative
            parts and grounding head are taken, or of a Wan2.1-T2V in the layout of the original code.
        output: folder, not there yet or empty.
        generator: Hub id or folder of Wan2.1-T2V, in diffusers' layout or the original one.
        restore: take the transformer of `generator` in place of the checkpoint's own.
        report: called with each line on what was found.

    Raises:
        ValueError: if `output` is in use; for another kind of model, keys that are not known, weights that are missing,
            left over or of other shapes, pickles of more than tensors, or files that are cut short.
    """
    output = check_new_folder(output)
    report = report or (lambda line: None)
    checkpoint = open_repository(source, "an official checkpoint or an original Wan", SMALL_FILES)
    kind = kind_of(checkpoint)
    if restore and kind != "spatial":
        raise ValueError(
            f"{source} has no transformer to restore: only a spatial-reasoning one has. Leave out --restore."
        )
    if kind == "wan" and generator is not None:
        raise ValueError(f"{source} is a generator itself. Leave out --generator.")
    if kind == "spatial" and generator is None:
        raise ValueError(f"{source} {NEEDS_WAN}")
    wan = None if generator is None else find_wan(open_repository(generator, "a generator", SMALL_FILES))
    with whole_folder(output) as partial:
        if kind == "wan":
            write_wan(find_wan(checkpoint), partial, report)
        elif kind == "scene":
            write_scene_parts(checkpoint, wan, partial, report)
        elif wan is not None:
            write_spatial(checkpoint, wan, partial, restore, report)
    return output


def kind_of(checkpoint: Repository) -> str:
    """`spatial`, `scene` or `wan`; raises ValueError for a folder that is none of them."""
    config = read_json(checkpoint.folder / "config.json") if "config.json" in checkpoint.names_in("") else {}
    if "_class_name" in config:
        return "wan"
    if is_official(config):
        return "scene" if str(config.get("model_type")).startswith("llava") else "spatial"
    raise ValueError(
        f"{checkpoint.name} is neither an official VEGA-3D checkpoint (its config.json would have keys that begin with "
        "generative_) nor a Wan in the layout of the original code. A plain VLM is given to `vega3d assemble`."
    )


# --- Names and shapes ------------------------------------------------------------------------------------------------


def check_weights(found: Mapping[str, StoredTensor], expected: Mapping[str, torch.Tensor], place: str) -> None:
    """Raises ValueError unless names and shapes are those of a model that the config describes."""
    for part, count in depths(expected).items():
        if depths(found).get(part, 0) != count:
            raise ValueError(
                f"{place} has {depths(found).get(part, 0)} {part}, but its config says {count}. {WHOLE_AGAIN}"
            )
    missing, unknown = sorted(expected.keys() - found.keys()), sorted(found.keys() - expected.keys())
    if missing:
        raise ValueError(f"{place} lacks {len(missing)} weights, the first is {missing[0]}. {WHOLE_AGAIN}")
    if unknown:
        raise ValueError(
            f"{place} has {len(unknown)} weights that its config does not tell of, the first is {unknown[0]}. "
            "They would be lost; give the checkpoint with its own config.json."
        )
    for name, tensor in found.items():
        if tensor.shape != tuple(expected[name].shape):
            raise ValueError(
                f"{place}: {name} is {list(tensor.shape)}, but the config asks for {list(expected[name].shape)}. "
                "Give the checkpoint with its own config.json."
            )


def depths(names: Mapping[str, Any]) -> dict[str, int]:
    """Number of blocks of each list of them, by the path of the list."""
    counts: dict[str, int] = {}
    for name in names:
        match = re.match(r"(.*?\b(?:blocks|layers|block))\.(\d+)\.", name)
        if match:
            counts[match[1]] = max(counts.get(match[1], 0), int(match[2]) + 1)
    return counts


def under(tensors: Mapping[str, StoredTensor], prefix: str) -> Stored:
    return {key.removeprefix(prefix): tensor for key, tensor in tensors.items() if key.startswith(prefix)}


def prefixed(tensors: Mapping[str, StoredTensor], prefix: str) -> Stored:
    return {f"{prefix}{key}": tensor for key, tensor in tensors.items()}


def part_weights(folder: Path, stem: str, place: str) -> tuple[list[Path], Stored]:
    """The weight files of a local folder, and all tensors in them."""
    names = [file.name for file in folder.iterdir() if file.is_file()]
    files = [folder / name for name in weight_files(folder, stem, names, place)]
    return files, stored_tensors(files)


def on_meta(make: Callable[[], Any]) -> Any:
    with torch.device("meta"):
        return make()


# --- Wan -------------------------------------------------------------------------------------------------------------


class Wan(NamedTuple):
    """A Wan2.1 text-to-video, of which only small files were read so far."""

    repository: Repository
    is_original: bool
    transformer: dict[str, Any]  # diffusers config
    prompt_length: int


def find_wan(repository: Repository) -> Wan:
    """Finds out which layout it has; raises ValueError for another model, or if parts are missing."""
    names = repository.names_in("")
    config = read_json(repository.folder / "config.json") if "config.json" in names else {}
    if "_class_name" not in config:
        parts, _ = read_generator(repository, with_text_encoder=PROMPT_FILE not in names)
        return Wan(repository, False, parts["transformer"], 512)
    transformer = wan_transformer_config(config, f"The config of {repository.name}")
    weight_files(repository.folder, DIFFUSION, names, repository.name)
    wan_file(repository, WAN_VAE)
    if WAN_PROMPT not in names:
        wan_file(repository, WAN_TEXT)
    return Wan(repository, True, transformer, config.get("text_len", 512))


def wan_file(repository: Repository, pattern: str) -> str:
    """Name of a file of the original layout; raises ValueError if it is not there."""
    names = [name for name in repository.names_in("") if re.fullmatch(pattern, name)]
    if not names:
        example = pattern.replace("\\", "").replace("(pth|safetensors)", "pth").replace(".*", "-xxl-enc-bf16")
        raise ValueError(f"{repository.name} has no {example}. {WHOLE_AGAIN}")
    return names[0]


def fetch_wan(wan: Wan, scratch: Path, report: Report) -> Path:
    """A local folder with this Wan in diffusers' layout, with its text encoder, or its prompt in `prompt.safetensors`."""
    if wan.is_original:
        write_wan(wan, scratch, report)
        return scratch
    parts = (
        ("transformer", "vae", TEXT_ENCODER)
        if PROMPT_FILE not in wan.repository.names_in("")
        else ("transformer", "vae")
    )
    return wan.repository.fetch(
        [PROMPT_FILE, *(f"{part}/*.{kind}" for part in parts for kind in ("json", "safetensors"))]
    )


def write_wan(wan: Wan, target: Path, report: Report) -> None:
    """Writes an original Wan in diffusers' layout; in place of the text encoder the prompt, if that is there.

    Raises ValueError if it is in diffusers' layout already.
    """
    if not wan.is_original:
        raise ValueError(f"{wan.repository.name} is in diffusers' layout already. Give it to `vega3d assemble`.")
    from diffusers import WanTransformer3DModel

    names = wan.repository.names_in("")
    has_prompt = WAN_PROMPT in names
    vae = wan_file(wan.repository, WAN_VAE)
    others = [vae, WAN_PROMPT if has_prompt else wan_file(wan.repository, WAN_TEXT)]
    weights = weight_files(wan.repository.folder, DIFFUSION, names, wan.repository.name)
    folder = wan.repository.fetch([*weights, *others])
    transformer = on_meta(lambda: WanTransformer3DModel.from_config(wan.transformer))
    files, tensors = part_weights(folder, DIFFUSION, wan.repository.name)
    renamed = rename_wan(tensors, wan.repository.name)
    check_weights(renamed, transformer.state_dict(), f"The transformer in {wan.repository.name}")
    with tempfile.TemporaryDirectory(dir=target) as scratch:
        write_vae(tensors_of(folder / vae, Path(scratch)), wan, target / "vae")
        if has_prompt:
            write_prompt(tensors_of(folder / WAN_PROMPT, Path(scratch)), wan, target)
        else:
            write_text_encoder(tensors_of(folder / others[1], Path(scratch)), wan, target / TEXT_ENCODER)
    transformer.save_config(target / "transformer")
    write_shards(target / "transformer", DIFFUSION, by_file(renamed, files))
    report(f"{wan.repository.name}: {len(renamed)} weights of a transformer of {wan.transformer['num_layers']} blocks")


def tensors_of(file: Path, scratch: Path) -> Stored:
    return stored_tensors([file]) if file.suffix == ".safetensors" else unpickled(file, scratch)


def rename_wan(tensors: Mapping[str, StoredTensor], place: str) -> Stored:
    """A transformer under diffusers' names; raises ValueError for one that takes images or controls."""
    other = next((key for key in tensors if key.startswith(("vace_", "img_emb."))), None)
    if other is not None:
        raise ValueError(f"The transformer in {place} has {other}: it is no Wan2.1 text-to-video. Give one that is.")
    return rename(tensors, WAN_TRANSFORMER)


def write_vae(tensors: Mapping[str, StoredTensor], wan: Wan, target: Path) -> None:
    """The VAE, whose sizes are those of its weights; raises ValueError for another than Wan2.1's."""
    from diffusers import AutoencoderKLWan

    place = f"The VAE of {wan.repository.name}"
    flat = [int(match[1]) for key in tensors if (match := re.match(r"encoder\.downsamples\.(\d+)\.", key))]
    blocks, left_over = divmod(max(flat, default=0) + 1 - 3, 4)  # four levels, with three down-samplers between them
    first, latents = tensors.get("encoder.conv1.weight"), tensors.get("conv1.weight")
    if first is None or latents is None or left_over or blocks < 1 or latents.shape[0] != 2 * LATENTS:
        raise ValueError(f"{place} is none of Wan2.1: it must have latents of {LATENTS} channels at four levels.")
    vae = on_meta(lambda: AutoencoderKLWan(base_dim=first.shape[0], num_res_blocks=blocks))
    check_generator(wan.transformer, dict(vae.config))
    renamed, expected = rename_vae(tensors, blocks), vae.state_dict()
    if not any(name.startswith(NOT_IN_VAE) for name in renamed):
        expected = {name: value for name, value in expected.items() if not name.startswith(NOT_IN_VAE)}
    check_weights(renamed, expected, place)
    vae.save_config(target)
    write_tensors(target / f"{DIFFUSION}.safetensors", renamed)


def write_prompt(tensors: Mapping[str, StoredTensor], wan: Wan, target: Path) -> None:
    if len(tensors) != 1:
        raise ValueError(f"{wan.repository.name}: {WAN_PROMPT} holds {len(tensors)} tensors, but a prompt is one.")
    (stored,) = tensors.values()
    prompt = stored.read()
    check_prompt(prompt, wan.transformer["text_dim"])
    write_tensors(target / PROMPT_FILE, {"prompt_embeds": prompt})


def write_text_encoder(tensors: Mapping[str, StoredTensor], wan: Wan, target: Path) -> None:
    """Wan's UMT5 encoder, whose sizes are those of its weights; raises ValueError for another model."""
    place = f"The text encoder of {wan.repository.name}"
    try:
        vocabulary, width = tensors["token_embedding.weight"].shape
        buckets, heads = tensors["blocks.0.pos_embedding.embedding.weight"].shape
        inner, hidden = tensors["blocks.0.attn.q.weight"].shape[0], tensors["blocks.0.ffn.fc1.weight"].shape[0]
    except (KeyError, ValueError) as error:
        raise ValueError(f"{place} is no UMT5 of the original code: {error} is missing. {WHOLE_AGAIN}") from error
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
    renamed, expected = rename(tensors, WAN_TEXT_ENCODER), on_meta(lambda: UMT5EncoderModel(config)).state_dict()
    expected.pop("encoder.embed_tokens.weight", None)  # the same weight as `shared`
    check_weights(renamed, expected, place)
    config.save_pretrained(target)
    write_tensors(target / "model.safetensors", renamed)


def by_file(tensors: Mapping[str, StoredTensor], files: list[Path]) -> list[Tensors]:
    """Tensors as they were spread over files."""
    groups = [{name: tensor for name, tensor in tensors.items() if tensor.file == file} for file in files]
    return [group for group in groups if group]


# --- The spatial-reasoning checkpoint --------------------------------------------------------------------------------


def write_spatial(checkpoint: Repository, wan: Wan, target: Path, restore: bool, report: Report) -> None:
    from diffusers import WanTransformer3DModel

    place = checkpoint.name
    settings, vlm = spatial_settings(read_json(checkpoint.folder / "config.json"), f"The config of {place}")
    names = weight_files(checkpoint.folder, "model", checkpoint.names_in(""), place)
    folder = checkpoint.fetch([*names, *SMALL_FILES])
    files = [folder / name for name in names]
    tensors = stored_tensors(files)
    tower = rename_wan(under(tensors, TOWER), place)
    transformer = on_meta(lambda: WanTransformer3DModel.from_config(wan.transformer))
    check_weights(tower, transformer.state_dict(), f"The transformer in {place}")
    weights = fused_weights(tensors, settings.model["fusion"])
    config = fused_config(settings, vlm, wan, {})
    check_fused(weights, config, place)
    processor = make_processor(folder, config.generator_config, **settings.processor)
    check_vlm_processor(processor, config)
    with tempfile.TemporaryDirectory(dir=target) as scratch:
        source = fetch_wan(wan, Path(scratch), report)
        prompt = read_prompt(source) if (source / PROMPT_FILE).is_file() else embed_empty_prompt(source)
        _, own = part_weights(source / "transformer", DIFFUSION, str(source))
        comparison = compare(tower, own)
        report(comparison.words(wan.repository.name, restore))
        generator = target / "generator"
        if restore:
            copy_files(source, generator)
        else:
            shutil.copytree(source / "vae", generator / "vae")
            transformer.save_config(generator / "transformer")
            write_shards(generator / "transformer", DIFFUSION, [tower])
        vae = read_part_config(source, "vae")
    config = fused_config(settings, vlm, wan, vae, prompt_tokens=len(prompt), files_hash=hash_files(generator))
    write_fused(config, weights, files, prompt, target)
    processor.save_pretrained(target)
    if (folder / "generation_config.json").is_file():
        with value_errors(f"{folder / 'generation_config.json'}"):
            GenerationConfig.from_pretrained(folder).save_pretrained(target)


def fused_weights(tensors: Mapping[str, StoredTensor], fusion: str) -> Stored:
    """All but the tower under our names; raises ValueError for a name that no table has."""
    parts = {
        "generative_merger.": ("model.projector.", PROJECTOR),
        "generative_fusion.": ("model.fusion.", FUSION[fusion]),
    }
    vlm = {key: tensor for key, tensor in tensors.items() if not key.startswith((TOWER, *parts))}
    weights = prefixed(rename(vlm, QWEN_VLM), "model.vlm.")
    for official, (ours, table) in parts.items():
        weights |= prefixed(rename(under(tensors, official), table), ours)
    return weights


def fused_config(settings: Settings, vlm: dict[str, Any], wan: Wan, vae: dict[str, Any], **generator) -> VegaConfig:
    with value_errors("The config of the checkpoint"):
        config = VegaConfig(
            vlm_config=Qwen2_5_VLConfig.from_dict(vlm).to_dict(),
            generator_config={
                "transformer": {name: value for name, value in wan.transformer.items() if not name.startswith("_")},
                "vae": vae,
                "prompt_length": wan.prompt_length,
                **settings.generator,
                **generator,
            },
            **settings.model,
        )
    config.architectures = ["VegaForSpatialReasoning"]
    return config


def check_fused(weights: Mapping[str, StoredTensor], config: VegaConfig, place: str) -> None:
    model = on_meta(lambda: VegaForSpatialReasoning(config))
    expected = model.state_dict()
    del expected["model.generator.prompt_embeds"]
    for tied in model.all_tied_weights_keys.keys() - weights.keys():
        expected.pop(tied, None)
    check_weights(weights, expected, place)


def write_fused(
    config: VegaConfig, weights: Mapping[str, StoredTensor], files: list[Path], prompt: torch.Tensor, target: Path
) -> None:
    """Config, code and weights of the fused model, in as many files as the official ones."""
    dtype = weights["model.vlm.model.language_model.embed_tokens.weight"].dtype
    config.dtype = dtype
    model = on_meta(lambda: VegaForSpatialReasoning(config))
    config.save_pretrained(target)
    custom_object_save(model, target)
    config.auto_map = dict(AUTO_MAP)
    config.to_json_file(target / "config.json")
    shards = [dict(shard) for shard in by_file(weights, files)]
    shards[-1]["model.generator.prompt_embeds"] = prompt.to(dtype)
    write_shards(target, "model", shards)


# --- Are they the pretrained ones? -----------------------------------------------------------------------------------


class Comparison(NamedTuple):
    """The transformer of a checkpoint beside Wan's own."""

    total: int  # weights
    different: list[str]  # those that differ, in the type of fewer digits of the two
    dtypes: tuple[str, str]  # of the checkpoint, and of Wan
    is_new: bool  # the others are as new weights are: normal with the usual spread, biases zero

    def words(self, wan: str, restored: bool) -> str:
        if not self.different:
            ours, theirs = self.dtypes
            rounded = "" if ours == theirs else f" (as {ours}; there {theirs})"
            return f"the transformer's {self.total} weights are those of {wan}{rounded}: they are the pretrained ones"
        said = (
            f"{len(self.different)} of the transformer's {self.total} weights differ from those of {wan}, the first is "
            f"{self.different[0]}: they are not the pretrained ones"
        )
        if self.is_new:
            said += ", but as new weights begin, normal with a standard deviation of 0.02 and biases of zero"
        end = "taken from there, as --restore says" if restored else "kept, as it was trained; --restore takes Wan's"
        return f"{said}; {end}"


def compare(tower: Mapping[str, StoredTensor], own: Mapping[str, StoredTensor]) -> Comparison:
    """Compares all weights, one by one; both have the same names."""
    different, is_new = [], True
    for name, stored in tower.items():
        ours, theirs = stored.read(), own[name].read()
        narrow = min(ours.dtype, theirs.dtype, key=lambda dtype: dtype.itemsize)
        if not torch.equal(ours.to(narrow), theirs.to(narrow)):
            different.append(name)
            is_new = is_new and looks_new(name, ours)
    dtypes = [str(next(iter(part.values())).dtype).removeprefix("torch.") for part in (tower, own)]
    return Comparison(len(tower), different, (dtypes[0], dtypes[1]), bool(different) and is_new)


def looks_new(name: str, weight: torch.Tensor) -> bool:
    """Whether a weight is as transformers begins it: a bias of zeros, or a matrix with a spread of 0.02."""
    if name.endswith("bias"):
        return not weight.any()
    return weight.ndim > 1 and abs(weight.float().std().item() / 0.02 - 1) < 0.1


# --- The 3D-scene checkpoint -----------------------------------------------------------------------------------------


def write_scene_parts(checkpoint: Repository, wan: Wan | None, target: Path, report: Report) -> None:
    """Projector, fusion and ranking head of a 3D-scene checkpoint in `parts.safetensors`, their fields in `parts.json`.

    Its VLM, a LLaVA-Video, is none that can be fused here, and is left out. With a Wan, that is put into `generator`.
    """
    place = checkpoint.name
    settings = scene_settings(read_json(checkpoint.folder / "config.json"), f"The config of {place}")
    names = weight_files(checkpoint.folder, "model", checkpoint.names_in(""), place)
    folder = checkpoint.fetch(names)
    tensors = stored_tensors(folder / name for name in names)
    left_out = [key for key in tensors if re.match(SCENE_VLM, key)]
    tables = {
        "model.generative_projector.": ("model.projector.", PROJECTOR),
        "model.feature_fusion.": ("model.fusion.", FUSION[settings.model["fusion"]]),
        "ground_head": ("grounding_head.ranking.", GROUNDING_HEAD),
    }
    unknown = sorted(key for key in tensors.keys() - set(left_out) if not key.startswith(tuple(tables)))
    if unknown:
        raise ValueError(f"No vega3d name is known for {unknown[0]!r} in {place}: the checkpoint is of another kind.")
    parts: Stored = {}
    for official, (ours, table) in tables.items():
        own = {key: tensor for key, tensor in tensors.items() if key.startswith(official)}
        names_here = own if official == "ground_head" else under(own, official)
        parts |= prefixed(rename(names_here, table), ours)
    widths = check_parts(parts, settings.model, place)
    write_tensors(target / "parts.safetensors", parts)
    fields = {**widths, "config": {**settings.model, **settings.generator}, "processor": settings.processor}
    (target / "parts.json").write_text(json.dumps(fields, indent=1) + "\n", encoding="utf-8")
    report(f"{len(parts)} weights of projector, fusion and grounding head taken; {len(left_out)} of its VLM left out")
    if wan is not None:
        with tempfile.TemporaryDirectory(dir=target) as scratch:
            source = fetch_wan(wan, Path(scratch), report)
            copy_files(source, target / "generator")
            if (source / PROMPT_FILE).is_file():
                shutil.copyfile(source / PROMPT_FILE, target / "generator" / PROMPT_FILE)


def check_parts(parts: Mapping[str, StoredTensor], model: dict[str, Any], place: str) -> dict[str, int]:
    """Widths D and C and of the projector, by its weights; raises ValueError if parts do not fit each other."""
    try:
        hidden, channels = parts["model.projector.mlp.0.weight"].shape
        width = parts["model.projector.mlp.2.weight"].shape[0]
    except (KeyError, ValueError) as error:
        raise ValueError(f"{place} has no generative_projector of two layers. {WHOLE_AGAIN}") from error
    model["projector_hidden_size"] = hidden
    text = {"hidden_size": width, "num_hidden_layers": 1, "num_attention_heads": 1, "num_key_value_heads": 1}
    transformer = {"num_attention_heads": 1, "attention_head_dim": channels}
    config = VegaConfig(
        vlm_config={"model_type": "qwen2_5_vl", "text_config": text},
        generator_config={"transformer": transformer},
        **model,
    )
    modules: dict[str, Callable[[], nn.Module]] = {
        "model.projector.": lambda: PROJECTORS[config.projector](config),
        "model.fusion.": lambda: FUSIONS[config.fusion](config),
    }
    if "grounding_head" in model:
        modules["grounding_head.ranking."] = lambda: HEADS[config.grounding_head](config)  # type: ignore[return-value]
    expected = {
        f"{prefix}{name}": value
        for prefix, make in modules.items()
        for name, value in on_meta(make).state_dict().items()
    }
    check_weights(parts, expected, place)
    return {"hidden_size": width, "generator_width": channels}
