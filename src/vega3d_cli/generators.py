"""Generators by name: a folder of one alone, or the one inside a model."""

from pathlib import Path
from typing import Any, NamedTuple


class LoadedGenerator(NamedTuple):
    """A generator, how frames are prepared for it, and the notice of the model that it is part of, if there is one."""

    notice: str | None
    generator: Any
    frames: Any


def load_generator(model: str, device: str | None) -> LoadedGenerator:
    """The generator of a model, or one alone, without a VLM."""
    from vega3d.hub.generators import frame_settings, is_generator, open_generator

    if is_generator(Path(model)):
        import torch

        chosen = device or ("cuda" if torch.cuda.is_available() else "cpu")
        generator = open_generator(Path(model)).to(chosen)
        return LoadedGenerator(None, generator, frame_settings(Path(model), generator.config))
    from vega3d.hub.load import load_vega

    checkpoint, processor = load_vega(model, device=device)
    return LoadedGenerator(checkpoint.config.notice, checkpoint.generator_module, processor.frame_settings)


def trained_clips(generator) -> dict[str, int]:
    """Frames and their size [px] that a generator was trained on, where its folder says so."""
    from vega3d.hub.generators import is_generator, read_facts

    if is_generator(generator.files):
        told = read_facts(generator.files)
        return {"num_frames": told["num_frames"], "size": told["size"]}
    return {"num_frames": 17, "size": 192}
