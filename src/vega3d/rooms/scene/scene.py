"""A furnished room as one set of arrays, from a seed."""

from typing import NamedTuple

import numpy as np

from vega3d.geometry import Box, rotation_about_z
from vega3d.rooms.scene import split_of_seed
from vega3d.rooms.scene.furniture import Furniture
from vega3d.rooms.scene.layout import KINDS, Layout, Placed, finishing, kinds_for, lighting, openings
from vega3d.rooms.scene.meshes import Mesh, Textures, join, moved, pack_textures, refined
from vega3d.rooms.scene.room import Room, sample_room, shell
from vega3d.rooms.scene.styles import STYLES

LONGEST_EDGE = 0.22  # [m], of furniture, so that shadows show on it
GLOWS = {("window", 1): 1.0, ("ceiling light", 1): 1.0}  # textures that send out light, by class and number


class SceneObject(NamedTuple):
    """A thing in a room."""

    name: str  # its class, one of `CLASSES`
    source: str  # where its model comes from in the pack, or "built"
    instance: int  # its number in `Scene.instance` and in rendered ids; counts from 1, 0 is the room itself
    box: Box  # the tight upright box of its mesh, turned with it [m]
    on: int  # instance that it stands on, or 0 for the floor, a wall or the ceiling


class Scene(NamedTuple):
    """A furnished room as one set of arrays."""

    seed: int  # what it was sampled from; also names its split
    kind: str  # what the room is for, one of `KINDS`
    room: Room  # size and outline of the shell
    mesh: Mesh  # all surfaces, in world coordinates [m]; `mesh.texture` numbers `textures`
    instance: np.ndarray  # int32[F], of each face; 0 for floor, walls and ceiling
    textures: Textures  # those of all surfaces in one table
    objects: tuple[SceneObject, ...]  # in the order of their instances


def sample_scene(seed: int, furniture: list[Furniture], kind: str | None = None) -> Scene:
    """The room of a seed; the same arrays for the same seed and pack.

    Args:
        seed: decides everything in the room; its split has a style (`STYLES`).
        furniture: objects of a pack (`furniture_for`). A class that it lacks is left out.
        kind: one of `KINDS`; drawn from the seed if None, among those that the pack can furnish.

    Raises:
        ValueError: if the seed is in no split, the kind is unknown, or the furniture lacks its main thing.
    """
    style = STYLES[split_of_seed(seed)]
    if kind is not None and kind not in KINDS:
        raise ValueError(f"There is no kind of room {kind!r}. Choose one of {list(KINDS)}.")
    kinds = kinds_for(furniture)
    random = np.random.default_rng(np.random.SeedSequence([seed, 0]))
    drawn = str(random.choice(kinds))
    kind = kind or drawn
    if kind not in kinds:
        raise ValueError(f"The furniture has no {KINDS[kind].main_thing!r} for a {kind}. It furnishes {kinds}.")
    layout = Layout(sample_room(random, KINDS[kind].area, style.ratios), furniture, random, style)
    for step in (lighting, openings, *KINDS[kind].steps, finishing):
        step(layout)
    return _assemble(seed, kind, layout)


def _assemble(seed: int, kind: str, layout: Layout) -> Scene:
    random, style = layout.random, layout.style
    floor = style.floors[random.integers(len(style.floors))](random)
    wall = style.wallpapers[random.integers(len(style.wallpapers))](random)
    ceiling = style.ceiling(random)
    meshes = shell(layout.room, (floor.edge, wall.edge, ceiling.edge))
    images = [floor.image, wall.image, ceiling.image, style.skirting]
    glow, instance = [0.0] * 4, [np.zeros(sum(len(mesh.faces) for mesh in meshes), np.int32)]
    objects = []
    for number, item in enumerate(layout.placed, start=1):
        mesh = _world_mesh(item)
        meshes.append(mesh._replace(texture=mesh.texture + len(images)))
        glow += [GLOWS.get((item.piece.name, texture), 0.0) for texture in range(len(item.piece.model.images))]
        images += item.piece.model.images
        instance.append(np.full(len(mesh.faces), number, np.int32))
        objects.append(SceneObject(item.piece.name, item.piece.source, number, item.box, item.on + 1))
    textures = pack_textures(images, glow)
    return Scene(seed, kind, layout.room, join(meshes), np.concatenate(instance), textures, tuple(objects))


def _world_mesh(item: Placed) -> Mesh:
    mesh, scale = item.piece.model.mesh, item.piece.scale
    normals = mesh.normals / scale
    normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-9)
    mesh = mesh._replace(vertices=mesh.vertices * scale, normals=normals)
    bottom = item.box.center - (0, 0, item.box.size[2] / 2)
    return moved(refined(mesh, LONGEST_EDGE), rotation_about_z(item.box.yaw), bottom)
