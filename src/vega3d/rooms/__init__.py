"""Procedural furnished rooms with exact geometry: scenes, renderings, questions, and data sets of them.

Names are loaded when they are first used, so that what needs only some of them starts quickly.
"""

from importlib import import_module
from typing import Any

_MODULES = {
    "CLASSES": "classes",
    "KINDS": "layout",
    "SPLITS": "splits",
    "TRAJECTORY_KINDS": "trajectory",
    "Furniture": "furniture",
    "Scene": "scene",
    "SceneObject": "scene",
    "Trajectory": "trajectory",
    "furniture_for": "furniture",
    "load_furniture": "furniture",
    "sample_scene": "scene",
    "sample_trajectory": "trajectory",
    "scene_seed": "splits",
    "split_of_seed": "splits",
}
__all__ = list(_MODULES)


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"vega3d.rooms.scene.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
