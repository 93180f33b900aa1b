"""Generators by name: a folder of one alone, or the one inside a model."""

from pathlib import Path
from typing import Any, NamedTuple


class LoadedGenerator(NamedTuple):
    """A generator, and the notice of the model that it is part of, if there is one."""

    notice: str | None
    generator: Any


def load_generator(model: str, device: str | None) -> LoadedGenerator:
    """The generator of a model, or one alone, without a VLM."""
    from vega3d.modeling.files_vega3d import is_generator

    if is_generator(Path(model)):
        import torch

        from vega3d import VegaGenerator

        chosen = device or ("cuda" if torch.cuda.is_available() else "cpu")
        return LoadedGenerator(None, VegaGenerator.from_folder(model, device=chosen))
    from vega3d.hub.load import load_vega

    checkpoint, _ = load_vega(model, device=device)
    return LoadedGenerator(checkpoint.config.notice, checkpoint.generator_module)


def trained_clips(generator) -> dict[str, int]:
    """Frames and their size [px] that a generator was trained on, where its folder says so."""
    from vega3d.modeling.files_vega3d import is_generator, read_generator_info

    if is_generator(generator.files):
        info = read_generator_info(generator.files)
        return {"num_frames": info["num_frames"], "size": info["size"]}
    return {"num_frames": 17, "size": 192}
