"""Procedural furnished rooms with exact geometry. Only the renderer needs `embreex`."""

from vega3d.rooms.scene.classes import CLASSES
from vega3d.rooms.scene.furniture import Furniture, furniture_for, load_furniture
from vega3d.rooms.scene.layout import KINDS
from vega3d.rooms.scene.scene import SPLITS, Scene, SceneObject, sample_scene, scene_seed, split_of_seed
from vega3d.rooms.scene.trajectory import TRAJECTORY_KINDS, Trajectory, sample_trajectory

__all__ = [
    "CLASSES",
    "KINDS",
    "SPLITS",
    "TRAJECTORY_KINDS",
    "Furniture",
    "Scene",
    "SceneObject",
    "Trajectory",
    "furniture_for",
    "load_furniture",
    "sample_scene",
    "sample_trajectory",
    "scene_seed",
    "split_of_seed",
]
