"""Training: data, collator, what is trained, the trainer, and runs from a config."""

from vega3d.training.collator import VegaCollator
from vega3d.training.config import TrainingConfig, make_config, read_config
from vega3d.training.data import DataSource, load_examples, stream_examples
from vega3d.training.examples import TrainingExample
from vega3d.training.parts import PARTS, choose_parts
from vega3d.training.run import train
from vega3d.training.trainer import VegaTrainer

__all__ = [
    "PARTS",
    "DataSource",
    "TrainingConfig",
    "TrainingExample",
    "VegaCollator",
    "VegaTrainer",
    "choose_parts",
    "load_examples",
    "make_config",
    "read_config",
    "stream_examples",
    "train",
]
