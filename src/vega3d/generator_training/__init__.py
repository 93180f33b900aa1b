"""Training of a world simulator: a video VAE and a diffusion transformer of Wan's architecture, on rooms."""

from vega3d.generator_training.config import GeneratorConfig, make_generator_config, read_generator_config
from vega3d.generator_training.export import generator_options, open_generator, read_prompt
from vega3d.generator_training.run import Watch, train_dit, train_vae
from vega3d.generator_training.sampling import sample_videos

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
