"""Procedural furnished rooms with exact geometry.

    scene        a furnished room from a seed, and a camera's trajectory through it
    render       its frames, depth and instances, by rays on the CPU or by OpenGL on a graphics card
    questions    what can be asked about a walkthrough, and the answers
    dataset      walkthroughs of many rooms with their questions: files, a store, or a stream

The names here are loaded when they are first used, so that what needs few of them starts quickly.
"""

from importlib import import_module
from typing import Any

_MODULES = {
    "CLASSES": "scene.classes",
    "KINDS": "scene.layout",
    "SPLITS": "scene",
    "TRAJECTORY_KINDS": "scene.trajectory",
    "Furniture": "scene.furniture",
    "Scene": "scene.scene",
    "SceneObject": "scene.scene",
    "Trajectory": "scene.trajectory",
    "furniture_for": "scene.furniture",
    "load_furniture": "scene.furniture",
    "sample_scene": "scene.scene",
    "sample_trajectory": "scene.trajectory",
    "scene_seed": "scene",
    "split_of_seed": "scene",
}
__all__ = list(_MODULES)


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"vega3d.rooms.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
