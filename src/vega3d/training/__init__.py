"""Training: data, collator, what is trained, the trainer, and runs from a config.

A name is imported when it is first asked for, so that a config is read and checked without torch.
"""

from importlib import import_module
from typing import Any

MODULES = {  # of each public name
    "PARTS": "parts",
    "ActionCollator": "actions",
    "ActionOptions": "config",
    "DataSource": "config",
    "GroundingCollator": "grounding",
    "GroundingExample": "grounding",
    "TrainingConfig": "config",
    "TrainingExample": "data",
    "VegaCollator": "collator",
    "VegaTrainer": "trainer",
    "choose_parts": "parts",
    "load_examples": "data",
    "make_config": "config",
    "read_config": "config",
    "stream_examples": "data",
    "train": "run",
}
__all__ = list(MODULES)


def __getattr__(name: str) -> Any:
    if name not in MODULES:
        raise AttributeError(f"The module {__name__} has no {name!r}; it has {', '.join(MODULES)}.")
    return getattr(import_module(f"{__name__}.{MODULES[name]}"), name)


def __dir__() -> list[str]:
    return [*globals(), *MODULES]
