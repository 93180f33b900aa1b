"""Assembling a checkpoint from two pretrained repositories, and describing one."""

import os
import tempfile
from pathlib import Path

import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from transformers import AutoProcessor

from vega3d import VegaConfig, VegaForSpatialReasoning, VegaGeneratorConfig, VegaProcessor
from vega3d.modeling.noise_vega3d import noise_level
from vega3d.modeling.vae_wan_vega3d import FoldedWanEncoder


def make_processor(vlm: str | Path, config: VegaGeneratorConfig, **settings) -> VegaProcessor:
    """The VLM's processor with the generative stream of this generator beside its own."""
    return VegaProcessor.from_vlm_processor(
        AutoProcessor.from_pretrained(vlm),
        generator_cell=config.cell,
        generator_max_area=config.max_area,
        generator_frame_fit=config.frame_fit,
        generator_frame_size=config.frame_size,
        **settings,
    )


def assemble(vlm: str | Path, generator: str | Path, output: str | Path, **options) -> Path:
    """Writes a new checkpoint, model and processor; `output` appears only when it is whole.

    Args:
        vlm: Hub id or folder of the vision-language model.
        generator: Hub id or folder of the generator.
        output: folder, not there yet or empty.
        options: of `VegaForSpatialReasoning.from_backbones`.

    Raises:
        ValueError: if `output` is in use, or for a bad option or missing files.
    """
    output = Path(output)
    if output.is_file() or (output.is_dir() and any(output.iterdir())):
        raise ValueError(f"{output} is already there. Give a new folder, or empty it first.")
    model = VegaForSpatialReasoning.from_backbones(vlm, generator, **options)
    processor = make_processor(vlm, model.config.generator_config)
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=f".{output.name}-") as partial:
        model.save_pretrained(partial)
        processor.save_pretrained(partial)
        whole = Path(partial)
        os.chmod(whole, 0o755)
        if output.is_dir():
            output.rmdir()
        whole.rename(output)
        whole.mkdir()  # the context manager removes the folder that it made
    return output


def count(module: torch.nn.Module | None) -> int:
    return sum(parameter.numel() for parameter in module.parameters()) if module is not None else 0


def describe(folder: Path) -> dict:
    """Parts, parameters, memory, block, step and fusion of a checkpoint, from its configs alone."""
    config = VegaConfig.from_pretrained(folder)
    generator = config.generator_config
    with torch.device("meta"):
        model = VegaForSpatialReasoning(config).model
        used = WanTransformer3DModel.from_config({**generator.transformer, "num_layers": generator.num_blocks_read})
        whole = WanTransformer3DModel.from_config(generator.transformer)
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
        "fusion": config.fusion,
        "projector": config.projector,
        "vlm": config.vlm_config.model_type,
        "notice": config.notice,
    }
