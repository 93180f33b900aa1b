"""Rays through a room by embree, and the soft light that they bake once a room.

Light comes from area lights with soft shadows, and then from diffuse bounces between all surfaces. It is computed at
sparse points, each vertex of the shell and one point for a patch of furniture, and for both sides of a surface,
because furniture meshes are sheets without an inside. All bounces reuse one set of rays.
"""

import os
from typing import Literal, NamedTuple

import numpy as np

from vega3d.extras import optional_module
from vega3d.geometry import rotation_about_z
from vega3d.rooms.scene.meshes import Mesh, dot, face_normals, length
from vega3d.rooms.scene.scene import Scene

PATCH = 0.09  # [m], edge of the cubes that share one light point on furniture
Quality = Literal["full", "fast"]
# Shadow rays a point and light (a multiple of 4); bounce rays a point and side.
RAYS: dict[Quality, tuple[int, int]] = {"full": (8, 24), "fast": (4, 10)}
BOUNCES = 3
SIGNS = (1, -1)  # of the sides of a surface, the front first
OFFSET = 5e-3  # [m], of a ray's start from its surface: more than the gap between doubled sheets of meshes
INSET = 0.12  # of the way to the middle of a triangle, because corners touch other things
BRIGHTNESS = {"window": 4.5, "ceiling light": 16.0, "chandelier": 2.2}  # radiance; exposure sets the scale of all
TINTS = {"window": (0.92, 0.98, 1.08), "ceiling light": (1.05, 1.0, 0.9), "chandelier": (1.1, 1.0, 0.82)}


def use_one_thread() -> None:
    """For a process that is one of many: embree would build each mesh by a thread for each processor, in all of them.

    It takes no number, but counts the processors that the process may use when it builds for the first time. Where a
    process cannot be kept to one, nothing is changed.
    """
    if not hasattr(os, "sched_setaffinity"):
        return
    allowed = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(allowed)})
    except OSError:
        return
    try:
        mesh_construction = optional_module("embreex.mesh_construction")
        scene = optional_module("embreex.rtcore_scene").EmbreeScene()
        mesh_construction.TriangleMesh(scene, np.eye(3, dtype=np.float32), np.arange(3, dtype=np.int32)[None])
        scene.run(np.zeros((1, 3), np.float32), np.ones((1, 3), np.float32))
    finally:
        os.sched_setaffinity(0, allowed)


class Caster:
    """A mesh that rays can be cast at, by embreex."""

    def __init__(self, mesh: Mesh):
        self.face_normals = face_normals(mesh)
        self._scene = optional_module("embreex.rtcore_scene").EmbreeScene()
        optional_module("embreex.mesh_construction").TriangleMesh(self._scene, mesh.vertices, mesh.faces)

    def hits(self, origins: np.ndarray, directions: np.ndarray) -> dict[str, np.ndarray]:
        """Where rays float[n, 3] from origins float[n, 3] [m] first hit the mesh.

        `primID` int[n]: the face or -1; `tfar` float[n]: the distance in lengths of the direction; `u`, `v` float[n]:
        weights of the second and third corner.
        """
        return self._scene.run(np.float32(origins), np.float32(directions), output=1)

    def first_face(self, origins: np.ndarray, directions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """int[n] faces that rays hit first, or -1; and bool[n], whether on the back."""
        face = self._scene.run(np.float32(origins), np.float32(directions))
        return face, dot(self.face_normals[face], directions) > 0

    def blocked(self, origins: np.ndarray, directions: np.ndarray) -> np.ndarray:
        """bool[n]: whether something is between the origin and origin + direction."""
        reach = np.ones(len(origins), np.float32)
        return self._scene.run(np.float32(origins), np.float32(directions), reach, query="OCCLUDED") >= 0


class Lamp(NamedTuple):
    """A rectangle that sends out light."""

    center: np.ndarray  # float[3] [m]
    sides: np.ndarray  # float[2, 3], from the centre to the edges [m]
    normal: np.ndarray  # float[3], unit, towards the lit side; zero for a lamp that shines everywhere
    power: np.ndarray  # float[3], radiance times area


class LightPoints(NamedTuple):
    """The points of a room at which light is computed."""

    places: np.ndarray  # float32[P, 3], world [m]
    normals: np.ndarray  # float32[P, 3], unit
    vertex_points: np.ndarray  # int[V], the point of each vertex
    links: np.ndarray  # int[2, L], points that share an edge of a triangle, once in each direction


def linear(colours: np.ndarray) -> np.ndarray:
    """float32: light of sRGB colours of uint8."""
    scaled = np.asarray(colours, np.float32) / 255
    return np.where(scaled <= 0.04045, scaled / 12.92, ((scaled + 0.055) / 1.055) ** 2.4).astype(np.float32)


def lamps(scene: Scene) -> list[Lamp]:
    """The lights of a scene: windows, ceiling lights and chandeliers."""
    found = []
    for item in scene.objects:
        if item.name not in BRIGHTNESS:
            continue
        width, depth, height = item.box.size
        turn = rotation_about_z(item.box.yaw)
        if item.name == "window":
            place, normal = (0.0, -depth / 2 - 0.01, 0.0), (0.0, -1.0, 0.0)
            sides = ((width / 2, 0.0, 0.0), (0.0, 0.0, height / 2))
        else:
            place, normal = (0.0, 0.0, -height / 2 - 0.02), (0.0, 0.0, -1.0 * (item.name == "ceiling light"))
            sides = ((width / 2, 0.0, 0.0), (0.0, depth / 2, 0.0))
        area = 4 * np.linalg.norm(sides, axis=1).prod()
        power = np.array(TINTS[item.name]) * BRIGHTNESS[item.name] * area
        found.append(Lamp(item.box.center + turn @ place, np.array(sides) @ turn.T, turn @ normal, power))
    return found


def light_points(scene: Scene) -> LightPoints:
    """Every vertex of the shell, and for furniture one vertex of each small cube and direction."""
    mesh = scene.mesh
    owner = np.zeros(len(mesh.vertices), np.int64)
    owner[mesh.faces.reshape(-1)] = np.repeat(scene.instance, 3)
    cube = np.floor((mesh.vertices + 1) / PATCH).astype(np.int64) @ (1, 1 << 9, 1 << 18)
    facing = np.round((mesh.normals + 1) * 1.5).astype(np.int64) @ (1, 4, 16)
    key = (owner << 34) | (cube << 7) | facing
    shell = owner == 0
    key[shell] = -1 - np.arange(shell.sum())
    _, first, vertex_points = np.unique(key, return_index=True, return_inverse=True)
    a, b, c = (vertex_points.take(column) for column in mesh.faces.T)
    start, end = np.concatenate([a, b, c]), np.concatenate([b, c, a])
    apart = start != end
    start, end = start[apart], end[apart]
    edges = np.sort(np.minimum(start, end) * len(first) + np.maximum(start, end))
    edges = edges[np.diff(edges, prepend=-1) > 0]
    pairs = np.stack(np.divmod(edges, len(first)))
    a, b, c = (mesh.vertices.take(column, axis=0) for column in mesh.faces.T)
    middles = np.empty_like(mesh.vertices)
    middles[mesh.faces.reshape(-1)] = np.repeat((a + b + c) / 3, 3, axis=0)
    places = mesh.vertices[first] + INSET * (middles[first] - mesh.vertices[first])
    return LightPoints(places, mesh.normals[first], vertex_points, np.concatenate([pairs, pairs[::-1]], axis=1))


def smoothed(values: np.ndarray, links: np.ndarray, times: int) -> np.ndarray:
    """float[P, ...]: each point moved half-way to the mean of its neighbours, `times` times over."""
    flat = values.reshape(len(values), -1)
    count = np.maximum(np.bincount(links[0], minlength=len(values)), 1)[:, None]
    lonely = np.bincount(links[0], minlength=len(values))[:, None] == 0
    for _ in range(times):
        around = np.stack([np.bincount(links[0], column[links[1]], len(values)) for column in flat.T], axis=1) / count
        flat = np.where(lonely, flat, (flat + around) / 2)
    return flat.reshape(values.shape)


def direct_light(
    points: LightPoints, sources: list[Lamp], caster: Caster, random: np.random.Generator, rays: int
) -> np.ndarray:
    """float[P, 2, 3]: irradiance from the lamps on the front and the back of each point, by `rays` rays to a lamp."""
    light = np.zeros((len(points.places), 2, 3))
    strata = np.stack(np.divmod(np.arange(rays), 4), axis=1)
    for lamp in sources:
        for stratum in strata:
            spot = (stratum + random.random((len(light), 2))) / (rays / 4, 4) * 2 - 1
            way = (lamp.center + spot @ lamp.sides - points.places).astype(np.float32)
            distance = length(way)
            cosine = dot(way, points.normals) / distance
            spread = np.where(lamp.normal.any(), np.clip(-(way @ lamp.normal) / distance, 0, None), 1.0)
            strength = np.abs(cosine) * spread / np.maximum(distance, 0.15) ** 2 / rays
            lit = np.flatnonzero(strength > 1e-6)
            offset = (np.sign(cosine.take(lit)) * OFFSET)[:, None].astype(np.float32)
            start = points.places.take(lit, axis=0) + points.normals.take(lit, axis=0) * offset
            lit = lit[~caster.blocked(start, way.take(lit, axis=0) * np.float32(0.99))]
            light[lit, (cosine[lit] < 0).astype(int)] += strength[lit, None] * lamp.power
    return light


class Bounce(NamedTuple):
    """Rays from one side of some points to what they hit; the same for every bounce."""

    points: np.ndarray  # int[N], where the rays start
    target: np.ndarray  # int32[R, N]: 2 * point + side of what a ray hits; any where it hits nothing
    albedo: np.ndarray  # float32[R, N, 3], of what it hits; 0 where it hits nothing

    def gather(self, light: np.ndarray) -> np.ndarray:
        """float32[N, 3]: irradiance that comes back of light float32[2 P, 3] on all surfaces."""
        arriving = np.zeros(self.albedo.shape[1:], np.float32)
        for target, albedo in zip(self.target, self.albedo, strict=True):
            arriving += light.take(target, axis=0) * albedo
        return arriving / np.float32(len(self.target))


def bounce_rays(
    scene: Scene, points: LightPoints, caster: Caster, random: np.random.Generator, rays: int
) -> tuple[Bounce, Bounce]:
    """Casts cosine-weighted rays, `rays` each, from the front of all points and the back of furniture's."""
    number = len(points.places)
    tangent = np.cross(points.normals, np.where(np.abs(points.normals[:, 2:]) < 0.9, (0, 0, 1.0), (1.0, 0, 0)))
    tangent /= np.maximum(length(tangent), 1e-9)[:, None]
    other = np.cross(points.normals, tangent)
    on_furniture = np.zeros(number, bool)
    on_furniture[points.vertex_points[scene.mesh.faces[scene.instance > 0].reshape(-1)]] = True
    chosen_points = (np.arange(number), np.flatnonzero(on_furniture))
    sides = [
        Bounce(chosen, np.zeros((rays, len(chosen)), np.int32), np.zeros((rays, len(chosen), 3), np.float32))
        for chosen in chosen_points
    ]
    starts = [
        (points.places + sign * OFFSET * points.normals).take(chosen, axis=0).astype(np.float32)
        for chosen, sign in zip(chosen_points, SIGNS, strict=True)
    ]
    place_of_face = 2 * points.vertex_points[scene.mesh.faces[:, 0]]
    albedo_of_face = _mean_colours(scene)[scene.mesh.texture]
    shift = random.random((number, 2))
    for ray in range(rays):
        first, turn = (np.array([(ray + 0.5) / rays, ray * 0.6180339887]) + shift).T % 1
        radius, angle = np.sqrt(first)[:, None], 2 * np.pi * turn[:, None]
        flat = radius * (np.cos(angle) * tangent + np.sin(angle) * other)
        upward = np.sqrt(1 - first)[:, None] * points.normals
        for bounce, start, sign in zip(sides, starts, SIGNS, strict=True):
            way = flat.take(bounce.points, axis=0) + sign * upward.take(bounce.points, axis=0)
            face, back = caster.first_face(start, way)
            bounce.target[ray] = place_of_face[face] + back
            bounce.albedo[ray] = albedo_of_face.take(face, axis=0)
            bounce.albedo[ray, face < 0] = 0
    return sides[0], sides[1]


def _indirect(direct: np.ndarray, bounces: tuple[Bounce, Bounce], links: np.ndarray) -> np.ndarray:
    """float[P, 2, 3]: irradiance that comes back of the lamps' float[P, 2, 3]."""
    indirect = np.zeros_like(direct)
    for _ in range(BOUNCES):
        light = (direct + indirect).reshape(-1, 3).astype(np.float32)
        gathered = np.zeros(direct.shape, np.float32)
        for side, bounce in enumerate(bounces):
            gathered[bounce.points, side] = bounce.gather(light)
        indirect = smoothed(gathered, links, 3)
    return indirect


def _mean_colours(scene: Scene) -> np.ndarray:
    """float32[K, 3]: mean reflected light of each texture; none from those that glow."""
    smallest = scene.textures.texels[scene.textures.levels[:, -1, 0]]
    return linear(smallest) * 0.9 * (scene.textures.glow[:, None] == 0)


def check_quality(quality: str) -> None:
    """Raises ValueError if there is no such quality."""
    if quality not in RAYS:
        raise ValueError(f"There is no quality of light {quality!r}. Choose one of {list(RAYS)}.")


def bake_light(scene: Scene, caster: Caster, quality: Quality = "full") -> np.ndarray:
    """The light that falls on a room, from its lamps and from its surfaces.

    Args:
        scene: the room whose vertices are lit.
        caster: rays through the same room.
        quality: "full", or "fast" with fewer rays, in about half the time. Colours of 10 rooms differ by 1.9 of 255 in
            the mean, and by 7 in the 95th percentile; depth and ids are the same. Full is for data to keep and to look
            at, fast for streams to train on.

    Returns:
        float32[V, 2, 3]: irradiance on the front (where the normal points) and the back of each vertex, scaled so that
        an average surface of the shell receives 1.

    Raises:
        ValueError: if there is no such quality.
    """
    check_quality(quality)
    shadow_rays, rays = RAYS[quality]
    random = np.random.default_rng(np.random.SeedSequence([scene.seed, 1]))
    points = light_points(scene)
    direct = smoothed(direct_light(points, lamps(scene), caster, random, shadow_rays), points.links, 1)
    light = direct + _indirect(direct, bounce_rays(scene, points, caster, random, rays), points.links)
    shell = points.vertex_points[scene.mesh.faces[scene.instance == 0].reshape(-1)]
    return (light / max(float(light[shell, 0].mean()), 1e-6)).astype(np.float32)[points.vertex_points]
