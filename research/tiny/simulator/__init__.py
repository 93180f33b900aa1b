"""Training of a world simulator: a video VAE and a diffusion transformer of Wan's architecture, on rooms."""

from research.tiny.simulator.config import GeneratorConfig, make_generator_config, read_generator_config
from research.tiny.simulator.run import Watch, train_dit, train_vae
from research.tiny.simulator.sampling import sample_videos
from vega3d.hub.generators import generator_options, open_generator, read_prompt

__all__ = [
    "GeneratorConfig",
    "Watch",
    "generator_options",
    "make_generator_config",
    "open_generator",
    "read_generator_config",
    "read_prompt",
    "sample_videos",
    "train_dit",
    "train_vae",
]
