"""Training of a world simulator: a video VAE and a diffusion transformer of Wan's architecture, on rooms."""

from research.tiny.simulator.config import GeneratorConfig, make_generator_config, read_generator_config
from research.tiny.simulator.run import Watch, train_dit, train_vae
from research.tiny.simulator.sampling import sample_videos

__all__ = [
    "GeneratorConfig",
    "Watch",
    "make_generator_config",
    "read_generator_config",
    "sample_videos",
    "train_dit",
    "train_vae",
]
