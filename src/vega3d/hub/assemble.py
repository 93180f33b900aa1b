"""Assembling a checkpoint from two pretrained repositories, and describing one."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import AutoProcessor, ProcessorMixin

from vega3d import VegaConfig, VegaForSpatialReasoning, VegaForVisualGrounding, VegaGeneratorConfig, VegaProcessor
from vega3d.files import check_new_folder, whole_folder
from vega3d.hub.load import check_dtype_name, check_vlm_processor, load_vega, task_class
from vega3d.modeling.backbones_vega3d import check_seed, find_backbones, split_config
from vega3d.modeling.configuration_vega3d import FRAME_SETTINGS
from vega3d.modeling.files_vega3d import value_errors
from vega3d.modeling.layouts_vega3d import is_tiny
from vega3d.modeling.modeling_vega3d import VegaTaskModel
from vega3d.modeling.noise_vega3d import noise_level
from vega3d.modeling.tiny_vae_wan_vega3d import TinyFrameEncoder, TinyVAEToLatents
from vega3d.modeling.vae_wan_vega3d import FoldedWanEncoder
from vega3d.processing.processor_checks_vega3d import check_vlm_parts


def load_vlm_processor(vlm: str | Path) -> ProcessorMixin:
    """The VLM's own processor; raises ValueError if it has none, or none that reads pictures."""
    try:
        with value_errors(f"The processor of {vlm}", "Copy or download the VLM again, with its processor's files."):
            processor = AutoProcessor.from_pretrained(vlm, trust_remote_code=False)
    except OSError as error:
        first_line = str(error).strip().partition("\n")[0]
        raise ValueError(f"{vlm} has no processor: {first_line} Give the VLM with its processor's files.") from error
    if not isinstance(processor, ProcessorMixin) or not {"image_processor", "video_processor"} <= set(
        processor.get_attributes()
    ):
        raise ValueError(
            f"{vlm} has a {type(processor).__name__}, but no processor of images and videos. "
            "Give the VLM with its processor's files, such as preprocessor_config.json."
        )
    return processor


def make_processor(vlm: str | Path, config: VegaGeneratorConfig, **settings) -> VegaProcessor:
    """The VLM's processor with the generative stream of this generator beside its own.

    `settings` are other arguments of `VegaProcessor`, such as `num_frames` and `generator_max_area`.
    """
    own = load_vlm_processor(vlm)
    return VegaProcessor.from_vlm_processor(own, generator_patch_size=config.patch_size, **settings)


def split_settings(options: dict) -> tuple[dict, dict]:
    """Sorts options of `assemble` into those of the two configs, and the frame settings, as named by the processor."""
    frames = {f"generator_{name}": value for name, value in options.items() if name in FRAME_SETTINGS}
    config = {name: value for name, value in options.items() if name not in FRAME_SETTINGS}
    split_config(config)
    return config, frames


def assemble(
    vlm: str | Path,
    generator: str | Path,
    output: str | Path,
    report: Callable[[str], object] | None = None,
    prompt_embeds: torch.Tensor | None = None,
    dtype: torch.dtype | str = "auto",
    seed: int = 0,
    grounding: bool = False,
    **config,
) -> Path:
    """Writes a new checkpoint, model and processor; `output` appears only when it is whole.

    Args:
        vlm: Hub id or folder of the vision-language model.
        generator: Hub id or folder of the generator.
        output: folder, not there yet or empty.
        report: called with a line on the sizes, before anything large is downloaded or read.
        prompt_embeds: as in `VegaForSpatialReasoning.from_backbones`, as are the next three.
        dtype: that of the weights; "auto" keeps that of the VLM's files.
        seed: decides the new weights, those of projector and fusion.
        grounding: make a `VegaForVisualGrounding`, with the tokens `<ground>` and `<coord>`.
        config: fields of the two configs; and `max_area`, `frame_fit`, `frame_size`, which go to the processor.

    Raises:
        ValueError: if `output` is in use, or for a bad option, missing files or models of another layout.
    """
    output = check_new_folder(output)
    check_seed(seed)
    check_dtype_name(dtype)
    check_grounding_settings(grounding, config)
    config, frames = split_settings(config)
    backbones = find_backbones(vlm, generator, prompt_embeds, **config)
    processor = make_processor(vlm, backbones.config.generator_config, **frames)
    check_vlm_parts(processor)
    check_vlm_processor(processor, backbones.config)
    if report is not None:
        wanted = backbones.download_bytes()
        download = f"{size_text(wanted)} to download" if wanted else "nothing to download"
        written = size_text(backbones.output_bytes())
        report(f"{download}; {output} will take about {written} in the VLM's own dtype")
    model: VegaTaskModel = VegaForSpatialReasoning.from_backbones(vlm, generator, prompt_embeds, dtype, seed, **config)
    if grounding:
        model = VegaForVisualGrounding.from_reasoning(model, processor.tokenizer, seed)
    with whole_folder(output) as partial:
        model.save_pretrained(partial)
        processor.save_pretrained(partial)
    return output


def check_grounding_settings(grounding: bool, settings: Mapping[str, Any]) -> None:
    """Raises ValueError for settings of grounding that would have no effect."""
    made = [name for name in ("ground_token_id", "coord_token_id") if name in settings]
    if "ground_token_id" in settings or (grounding and made):
        raise ValueError(f"{made[0]} is the number of a token that grounding adds. Leave it out.")
    unused = [name for name in settings if name.startswith("grounding_")]
    if unused and not grounding:
        raise ValueError(f"{unused[0]} would have no effect on a model that finds no boxes. Make one: grounding.")


def add_grounding(name_or_path: str | Path, output: str | Path, seed: int = 0, **options) -> Path:
    """Writes a checkpoint for grounding around the weights of another one; `output` appears only when it is whole.

    `seed` and `options` are those of `VegaForVisualGrounding.from_reasoning`. Raises ValueError as it does, or if
    there is no such model, or `output` is in use.
    """
    output = check_new_folder(output)
    check_seed(seed)
    model, processor = load_vega(name_or_path, device="cpu")
    grounding = VegaForVisualGrounding.from_reasoning(model, processor.tokenizer, seed, **options)
    with whole_folder(output) as partial:
        grounding.save_pretrained(partial)
        processor.save_pretrained(partial)
    return output


def size_text(count: int) -> str:
    """`16.6 GB` for a number of bytes, in decimal units as on the Hub."""
    for unit, size in (("GB", 1e9), ("MB", 1e6)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count / 1e3:.1f} kB"


def count(module: torch.nn.Module | None) -> int:
    return sum(parameter.numel() for parameter in module.parameters()) if module is not None else 0


def describe(folder: Path) -> dict:
    """Parts, parameters, memory, block, step and fusion of a checkpoint, from its configs alone.

    Raises:
        ValueError: if no model can be built from them.
    """
    from diffusers import AutoencoderKLWan, WanTransformer3DModel  # later than our modules, which silence a hint of it

    config = VegaConfig.from_pretrained(folder)
    generator = config.generator_config
    with value_errors(f"The config of {folder} describes no model that can be built: it"), torch.device("meta"):
        whole_model = task_class(folder)(config)
        model = whole_model.model
        used = WanTransformer3DModel.from_config({**generator.transformer, "num_layers": generator.num_blocks_read})
        whole = WanTransformer3DModel.from_config(generator.transformer)
        vae: Any
        encoder: torch.nn.Module
        if is_tiny(generator.vae):
            vae = TinyVAEToLatents.from_config(generator.vae)
            encoder = TinyFrameEncoder(vae)
        else:
            vae = AutoencoderKLWan.from_config(generator.vae)
            encoder = FoldedWanEncoder(vae) if generator.clip_mode != "clip" else vae.encoder
    step, sigma = noise_level(generator.family, generator.timestep, generator.shift)
    parameters = {
        "vlm": count(model.vlm),
        "generator transformer, blocks used": count(used) if generator.family != "vae" else 0,
        "generator VAE encoder": count(encoder),
        "projector": count(model.projector),
        "fusion": count(model.fusion),
    }
    parameters |= {name.replace("_", " "): count(whole_model.get_submodule(name)) for name in whole_model.own_parts}
    dtype = config.dtype or torch.float32
    return {
        "parameters": parameters,
        "parameters_in_use": sum(parameters.values()),
        "generator_parameters_stored": count(whole) + count(vae),
        "dtype": str(dtype).removeprefix("torch."),
        "memory_gib": round(sum(parameters.values()) * dtype.itemsize / 2**30, 3),
        "disk_gib": round(sum(file.stat().st_size for file in folder.rglob("*.safetensors")) / 2**30, 3),
        "quantised": config.to_dict().get("quantization_config") is not None,
        "family": generator.family,
        "block": f"{generator.block_index} of {generator.num_layers}",
        "step": step,
        "sigma": round(sigma, 6),
        "clip_mode": generator.clip_mode,
        "frame_stride": generator.frame_stride,
        "fusion": config.fusion,
        "projector": config.projector,
        "vlm": config.vlm_config.model_type,
        "notice": config.notice,
    }
