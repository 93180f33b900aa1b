"""Rooms, trajectories and frames: exact geometry, nothing interpenetrates, everything follows from the seed."""

import itertools
import json
import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip("embreex")

from vega3d.geometry import box_contains, penetration, project, rotation_about_z, unproject
from vega3d.rooms import (
    CLASSES,
    KINDS,
    SPLITS,
    TRAJECTORY_KINDS,
    load_furniture,
    sample_scene,
    sample_trajectory,
    scene_seed,
)
from vega3d.rooms.archives import read_archive
from vega3d.rooms.render.embree import EmbreeRenderer
from vega3d.rooms.scene import split_of_seed
from vega3d.rooms.scene.furniture import LARGEST_PACK, PACK
from vega3d.rooms.scene.room import largest_region, sample_room, shell, standing_room
from vega3d.rooms.scene.trajectory import BODY, LENGTHS

SEEDS = range(9)


@pytest.fixture(scope="module")
def furniture():
    return load_furniture()


@pytest.fixture(scope="module")
def scenes(furniture):
    return [sample_scene(seed, furniture, kind) for seed, kind in zip(SEEDS, KINDS, strict=True)]


@pytest.fixture(scope="module")
def renderer(scenes):
    return EmbreeRenderer(scenes[0])


@pytest.fixture(scope="module")
def clip(renderer, scenes):
    return renderer.render(sample_trajectory(scenes[0], 0, 4), 96, 64)


def vertices_of(scene, number):
    return scene.mesh.vertices[np.unique(scene.mesh.faces[scene.instance == number])].astype(float)


def objects_of(scenes):
    return [(scene, item) for scene in scenes for item in scene.objects]


def test_the_pack_is_vetted(furniture):
    assert 30 <= len(CLASSES) <= 60
    assert PACK.stat().st_size < 3e6
    for piece in furniture:
        assert (piece.size > 0.02).all() and (piece.size < 3).all(), piece.source
        low, high = piece.model.mesh.vertices.min(axis=0), piece.model.mesh.vertices.max(axis=0)
        np.testing.assert_allclose(low[:2] + high[:2], 0, atol=1e-5)
        assert low[2] == 0


def test_one_seed_gives_one_scene_and_one_clip(furniture, scenes, clip):
    again = sample_scene(0, load_furniture(), next(iter(KINDS)))
    trajectory = sample_trajectory(again, 0, 4)

    for first, second in zip(
        [*scenes[0].mesh, scenes[0].instance, *scenes[0].textures],
        [*again.mesh, again.instance, *again.textures],
        strict=True,
    ):
        np.testing.assert_array_equal(first, second)
    for first, second in zip(clip, EmbreeRenderer(again).render(trajectory, 96, 64), strict=True):
        np.testing.assert_array_equal(first, second)
    assert len(sample_scene(1, furniture).mesh.vertices) != len(again.mesh.vertices)


def test_boxes_are_the_boxes_of_the_meshes(scenes):
    for scene, item in objects_of(scenes):
        local = (vertices_of(scene, item.instance) - item.box.center) @ rotation_about_z(item.box.yaw)
        np.testing.assert_allclose(local.max(axis=0), item.box.size / 2, atol=2e-4, err_msg=item.name)
        np.testing.assert_allclose(local.min(axis=0), -item.box.size / 2, atol=2e-4, err_msg=item.name)


def test_everything_is_inside_the_room(scenes):
    for scene, item in objects_of(scenes):
        vertices = vertices_of(scene, item.instance)
        assert scene.room.contains(vertices[:, :2], -1e-4).all(), item.name
        assert vertices[:, 2].min() > -1e-4 and vertices[:, 2].max() < scene.room.size[2] + 1e-4


def test_nothing_interpenetrates(scenes):
    for scene in scenes:
        for first, second in itertools.combinations(scene.objects, 2):
            if first.instance != second.on:
                assert penetration(first.box, second.box) <= 0, (scene.seed, first.name, second.name)
            else:
                inner = second.box._replace(size=second.box.size - 0.004)
                assert not box_contains(inner, vertices_of(scene, first.instance)).any(), (first.name, second.name)


def test_things_on_top_touch_what_carries_them(scenes):
    carried = [(scene, item) for scene, item in objects_of(scenes) if item.on]
    assert len(carried) >= 10
    for scene, item in carried:
        support = vertices_of(scene, item.on)
        bottom = item.box.center[2] - item.box.size[2] / 2
        assert item.box.center[2] > 0.2
        assert np.abs(support[:, 2] - bottom).min() < 0.03, item.name


def test_rooms_can_be_walked(scenes):
    for scene in scenes:
        x, y = (np.arange(0.05, edge, 0.1) for edge in scene.room.size[:2])
        free = standing_room(
            scene.room, [item.box for item in scene.objects], np.stack(np.meshgrid(x, y, indexing="ij"), axis=-1), 0.22
        )
        assert largest_region(free).sum() >= 0.9 * free.sum() > 0


def test_shells_close():
    random = np.random.default_rng(0)
    rooms = [sample_room(random, (16, 40)) for _ in range(30)]

    assert any(room.notch is not None for room in rooms) and any(room.notch is None for room in rooms)
    for room in rooms:
        x, y = room.polygon.T
        assert (x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2 == pytest.approx(room.area)
        floor = [mesh for mesh in shell(room, (1, 1, 1)) if mesh.texture[0] == 0]
        corners = np.concatenate([mesh.vertices[mesh.faces] for mesh in floor])
        area = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])[:, 2].sum() / 2
        assert area == pytest.approx(room.area, rel=1e-4)
        for wall in room.walls:
            assert room.contains(wall.at(wall.length / 2, 0.05))


@pytest.mark.parametrize("kind", list(TRAJECTORY_KINDS))
def test_cameras_stay_in_free_space(scenes, kind):
    for scene, number in itertools.product(scenes, range(2)):
        trajectory = sample_trajectory(scene, number, 9, kind)
        places = trajectory.world_from_camera[:, :3, 3]

        assert standing_room(scene.room, [item.box for item in scene.objects], places[:, :2], BODY - 0.03).all()
        assert (places[:, 2] > 1.1).all() and (places[:, 2] < 1.8).all()
        assert 50 <= trajectory.field_of_view <= 90
        length = np.linalg.norm(np.diff(places[:, :2], axis=0), axis=1).sum()
        assert length < 1e-9 or LENGTHS[0] * 0.85 <= length <= LENGTHS[1] + 0.5


def test_depth_is_where_embree_says_the_surface_is(scenes, clip):
    """Unprojected pixels of an object lie in its box; floor pixels lie on the floor."""
    y, x = np.indices(clip.depth.shape[1:]) + 0.5

    for depth, instance, pose in zip(clip.depth, clip.instance, clip.world_from_camera, strict=True):
        points = unproject(np.stack([x, y], axis=-1), depth, clip.intrinsics, pose)
        for item in scenes[0].objects:
            assert box_contains(item.box, points[instance == item.instance], 0.001).all(), item.name
        shell_points = points[instance == 0]
        height = scenes[0].room.size[2]
        planes = np.minimum(np.abs(shell_points[:, 2]), np.abs(shell_points[:, 2] - height))
        for wall in scenes[0].room.walls:
            planes = np.minimum(planes, np.abs((shell_points[:, :2] - wall.start) @ wall.inward))
        assert (planes < 0.016).all()


def test_depth_of_known_points(renderer, scenes):
    """Points of the floor, away from walls and things, have the depth that `project` gives."""
    scene, clip = scenes[0], renderer.render(sample_trajectory(scenes[0], 1, 5), 512, 512, antialias=False)
    points = np.random.default_rng(0).uniform(0, scene.room.size[:2], (4000, 2))
    points = points[standing_room(scene.room, [item.box for item in scene.objects], points, 0.1)]
    checked = 0

    for depth, instance, pose in zip(clip.depth, clip.instance, clip.world_from_camera, strict=True):
        pixels, expected = project(np.column_stack([points, np.zeros(len(points))]), clip.intrinsics, pose)
        inside = (expected > 0) & ((pixels > 0) & (pixels < 512)).all(axis=1)
        column, row = np.floor(pixels[inside]).astype(int).T
        error = depth[row, column] - expected[inside]
        centred = (np.abs(pixels[inside] % 1 - 0.5) < 0.2).all(axis=1)
        seen = (instance[row, column] == 0) & centred & (np.abs(error) < 0.1)
        assert (np.abs(error[seen]) < 0.01).all()
        checked += seen.sum()

    assert checked > 50


def test_the_room_closes_around_the_camera(clip):
    assert np.isfinite(clip.depth).all() and clip.depth.max() < 15 and clip.depth.min() > 0.05
    assert 40 < clip.rgb.mean() < 235 and clip.rgb.std() > 15


def test_antialiasing_changes_colours_only(renderer, scenes, clip):
    plain = renderer.render(sample_trajectory(scenes[0], 0, 4), 96, 64, antialias=False)

    np.testing.assert_array_equal(plain.depth, clip.depth)
    np.testing.assert_array_equal(plain.instance, clip.instance)
    assert 0.01 < (plain.rgb != clip.rgb).any(axis=-1).mean() < 0.6


def test_splits_share_no_seed():
    seeds = [scene_seed(split, number) for split in SPLITS for number in (0, 1, 2**30 - 1)]

    assert len(set(seeds)) == len(seeds)
    assert [split_of_seed(seed) for seed in seeds] == [split for split in SPLITS for _ in range(3)]


@pytest.mark.parametrize("damage", ["truncate", "text", "class", "face", "missing"])
def test_a_damaged_pack_is_refused(tmp_path, damage):
    path = tmp_path / ("pack.npz.xz" if damage == "truncate" else "pack.npz")
    if damage in ("truncate", "text"):
        path.write_bytes(PACK.read_bytes()[:100_000] if damage == "truncate" else b"no pack")
    else:
        archive = read_archive(PACK, largest=LARGEST_PACK, remedy="")
        table = json.loads(archive["meta"].tobytes())[:1]
        arrays = {key: array for key, array in archive.items() if key.startswith("0_")}
        if damage == "class":
            table[0]["class"] = "unicorn"
        if damage == "face":
            arrays["0_0_f"] = arrays["0_0_f"] + 60_000
        if damage == "missing":
            del arrays["0_0_v"]
        np.savez(path, meta=np.frombuffer(json.dumps(table).encode(), np.uint8), **arrays)

    with pytest.raises(ValueError, match=r"pack\.npz"):
        load_furniture(path)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda scene, renderer: scene_seed("dev", 0), "'dev'"),
        (lambda scene, renderer: scene_seed("train", -1), "-1"),
        (lambda scene, renderer: split_of_seed(2**40), str(2**40)),
        (lambda scene, renderer: sample_scene(0, [], "garage"), "'garage'"),
        (lambda scene, renderer: sample_scene(0, [], "bedroom"), "has no"),
        (lambda scene, renderer: sample_trajectory(scene, 0, 0), "got 0"),
        (lambda scene, renderer: sample_trajectory(scene, 0, 4, "fly"), "'fly'"),
        (lambda scene, renderer: renderer.render(sample_trajectory(scene, 0, 1), 8, 64), "8 x 64"),
    ],
)
def test_bad_input_is_refused(scenes, renderer, call, message):
    with pytest.raises(ValueError, match=message):
        call(scenes[0], renderer)


WITHOUT_EXTRAS = """
import sys
import vega3d.rooms.dataset
assert "vega3d.rooms.scene.scene" not in sys.modules, "settings are light"
for name in ("embreex", "matplotlib", "moderngl", "pyarrow", "scipy"):
    sys.modules[name] = None
from vega3d.rooms import *
import vega3d.rooms.dataset.dataset, vega3d.rooms.dataset.dataset, vega3d.rooms.dataset.stream
from vega3d.rooms.render.light import Caster
from vega3d.rooms.scene.builders import block
try:
    Caster(block([0, 0, 0], [1, 1, 1], 0))
except ImportError as error:
    print(error)
"""


def test_packages_of_extras_are_needed_at_use_alone():
    run = subprocess.run([sys.executable, "-c", WITHOUT_EXTRAS], capture_output=True, text=True)

    assert run.returncode == 0, run.stderr
    assert "pip install 'vega3d[rooms]'" in run.stdout
