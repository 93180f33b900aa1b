"""`vega3d ground`: the shipped clip, what is printed, views that a viewer opens, files of others that stay."""

import json
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from analysis.posed_clips import room_clip, write_scannet
from command_line import run
from tiny_checkpoints import FROZEN
from vega3d.analysis.layouts import read_posed_video
from vega3d.features.cache import FeatureCache
from vega3d.geometry import Box, box_corners, box_iou, look_at, project
from vega3d.hub.assemble import add_grounding
from vega3d.inference.box_views import GREEN, MARK, clipped, drawn, frames_showing, thinned
from vega3d.processing.clip_geometry_vega3d import ClipGeometry
from vega3d.processing.video_vega3d import VideoClip
from vega3d.shipped import posed_clip

EXPRESSION = "the chair closest to the door"
LARGEST = 400_000  # bytes of the shipped clip


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    """With weights whose box of `kitchen` is 0.4 m away from the closest token: rounding puts none into it."""
    return add_grounding(FROZEN, tmp_path_factory.mktemp("grounding") / "model", seed=5, position_code="sin3d")


def found(*arguments: str | Path) -> dict:
    done = run("ground", *arguments, "--json", "--device", "cpu")
    assert done.exit_code == 0, done.stderr
    return json.loads(done.stdout)


def read_glb(path: Path) -> dict[str, tuple[int, np.ndarray, np.ndarray]]:
    """By name: the kind of primitive, points and colours, as a viewer reads them."""
    content = path.read_bytes()
    magic, version, length = struct.unpack("<4sII", content[:12])
    size, kind = struct.unpack("<I4s", content[12:20])
    document = json.loads(content[20 : 20 + size])
    binary_size, binary_kind = struct.unpack("<I4s", content[20 + size : 28 + size])
    binary = content[28 + size :]
    assert (magic, version, kind, binary_kind) == (b"glTF", 2, b"JSON", b"BIN\0")
    assert length == len(content) and binary_size == len(binary) == document["buffers"][0]["byteLength"]
    assert size % 4 == binary_size % 4 == 0

    def values(number: int) -> np.ndarray:
        accessor = document["accessors"][number]
        view = document["bufferViews"][accessor["bufferView"]]
        array = np.frombuffer(binary[view["byteOffset"] :][: view["byteLength"]], "<f4").reshape(-1, 3)
        assert len(array) == accessor["count"]
        np.testing.assert_allclose([array.min(0), array.max(0)], [accessor["min"], accessor["max"]])
        return array

    meshes = {}
    for mesh in document["meshes"]:
        [primitive] = mesh["primitives"]
        places = primitive["attributes"]
        meshes[mesh["name"]] = primitive["mode"], values(places["POSITION"]), values(places["COLOR_0"])
    return meshes


def test_the_shipped_clip_is_small_and_has_true_boxes():
    folder = posed_clip("kitchen")
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= LARGEST
    clip = read_posed_video(folder)
    [boxes] = json.loads((folder / "proposals.json").read_text()).values()
    rows = {row["expression"]: row["targets"] for row in json.loads((folder / "expressions.json").read_text())}
    [target] = rows[EXPRESSION]
    assert box_iou(np.array(boxes), np.array(target)).max() == pytest.approx(1, abs=1e-3)
    assert frames_showing(clip, target)[-1] > len(clip) // 2  # it comes into view late


def test_a_box_of_the_shipped_clip_and_its_views(checkpoint, tmp_path):
    view, picture = tmp_path / "chair.glb", tmp_path / "chair.jpg"
    command = ["kitchen", EXPRESSION, "--model", checkpoint, "--save-view", view, "--save-picture", picture]
    values = found(*command)
    proposals = json.loads((posed_clip("kitchen") / "proposals.json").read_text())["test_002009_00"]
    box = [*values["box"]["center"], *values["box"]["size"]]
    assert values["proposals"] == len(proposals) and box == pytest.approx(proposals[values["proposal"]], abs=1e-6)
    assert values["is_found"] == (values["score"] > values["no_target_score"])
    assert values["score"] >= values["runner_up_score"]

    meshes = read_glb(view)
    assert [mode for mode, _, _ in meshes.values()] == [0, 1, 1]
    points = meshes["points"][1]
    assert len(points) > 20_000 and (points > -0.05).all() and (points.max(0) < (6, 5, 3)).all()  # [m], the room
    edges = meshes["box"][1]
    corners = box_corners(Box(np.array(box[:3]), np.array(box[3:])))
    np.testing.assert_allclose(np.unique(edges.round(3), axis=0), np.unique(corners.round(3), axis=0), atol=1e-3)
    assert (np.abs(np.diff(edges.reshape(-1, 2, 3), axis=1)) > 1e-6).sum() == 12  # along one axis each
    shown = np.array(Image.open(picture)).astype(int)
    assert shown.shape[0] % 480 == shown.shape[1] % 480 == 0
    assert (np.abs(shown - GREEN).sum(-1) < 60).sum() > 100
    assert MARK.encode() in picture.read_bytes()[:4096]

    found(*command)  # replaces its own files
    view.write_bytes(b"mine")
    done = run("ground", *command)
    assert done.exit_code == 2 and "was not made by this command" in done.stderr and view.read_bytes() == b"mine"


def test_what_is_printed(checkpoint):
    done = run("ground", "kitchen", EXPRESSION, "--model", checkpoint, "--proposals", "none", "--device", "cpu")
    lines = done.stdout.splitlines()
    assert done.exit_code == 0 and [line.split(":")[0] for line in lines] == ["box", "no target"]
    chosen = run("ground", "kitchen", EXPRESSION, "--model", checkpoint, "--device", "cpu").stdout.splitlines()
    assert [line.split(":")[0] for line in chosen] == ["box", "runner-up", "no target"]
    assert "m, size" in lines[0] and ", score" in lines[0]
    assert "means nothing" not in done.stderr and "read off the frames" in done.stderr
    assert "note: The weights are random" in done.stderr


def test_proposals_go_by_the_name_of_the_clip(checkpoint, tmp_path):
    scan = write_scannet(tmp_path / "scene0000_00", room_clip(4, 64, 64))
    boxes = [[2.0, 2, 1, 1, 1, 1], [3.0, 2, 1, 1, 1, 1]]
    (tmp_path / "boxes.json").write_text(json.dumps({"scannet/scene0000_00": boxes}))
    values = found(scan, "a lamp", "--model", checkpoint, "--proposals", tmp_path / "boxes.json", "--num-frames", "3")
    assert values["proposals"] == 2 and values["num_frames"] == 3
    free = found(scan, "a lamp", "--model", checkpoint)
    assert free["proposals"] is None
    cached = found(scan, "a lamp", "--model", checkpoint, "--cache", tmp_path / "features")
    assert FeatureCache(tmp_path / "features").stats()["entries"] == 1
    for part in ("center", "size"):
        assert cached["box"][part] == pytest.approx(free["box"][part], abs=1e-2)  # features are rounded to bf16
    other = write_scannet(tmp_path / "scene0001_00", room_clip(5, 64, 64))
    several = run("ground", tmp_path, "a lamp", "--model", checkpoint)
    assert several.exit_code == 2 and "has 2 clips: scene0000_00, scene0001_00" in several.stderr
    named = found(tmp_path, "a lamp", "--model", checkpoint, "--clip", other.name)
    assert named["box"] == found(other, "a lamp", "--model", checkpoint)["box"]
    assert "has no clip 'x'" in run("ground", tmp_path, "a lamp", "--model", checkpoint, "--clip", "x").stderr
    (tmp_path / "far.json").write_text(json.dumps({scan.name: [[99.0, 2, 1, 1, 1, 1]]}))
    far = run("ground", scan, "a lamp", "--model", checkpoint, "--proposals", tmp_path / "far.json")
    assert far.exit_code == 2 and "outside the scene" in far.stderr
    (scan / "proposals.json").write_text(json.dumps({"scene0000_01": boxes}))
    done = run("ground", scan, "a lamp", "--model", checkpoint)
    assert done.exit_code == 2 and "has no boxes of scene0000_00, but of scene0000_01" in done.stderr


def test_poses_the_wrong_way_round_are_refused_before_weights_are_read(checkpoint, tmp_path):
    model = shutil.copytree(checkpoint, tmp_path / "model")
    (model / "model.safetensors").write_bytes(b"no weights")
    clip = room_clip(6, 64, 64)
    scan = write_scannet(tmp_path / "scene0000_00", clip)
    for number, pose in enumerate(clip.world_from_camera):
        np.savetxt(scan / "pose" / f"{number}.txt", np.linalg.inv(pose))
    done = run("ground", scan, "a lamp", "--model", model)
    assert done.exit_code == 2 and "seem to be camera_from_world" in done.stderr


def test_edges_are_where_the_corners_project():
    """A box at one metre, of the field of view's half; an edge that begins behind the camera is cut before it."""
    pose, intrinsics = look_at((0, 0, 0), (1, 0, 0)), np.array([[480.0, 0, 240], [0, 480, 240], [0, 0, 1]])
    geometry = ClipGeometry(np.ones((1, 480, 480), np.float32), intrinsics, pose[None])
    clip = VideoClip(np.zeros((1, 480, 480, 3), np.uint8), np.zeros(1), geometry=geometry)
    image = np.array(drawn(clip, 0, [1.25, 0, 0, 0.5, 0.5, 0.5]))  # its front is 1 m away and 0.5 m wide
    rows, columns = np.nonzero((image == GREEN).all(-1))
    assert [rows.min(), rows.max(), columns.min(), columns.max()] == pytest.approx([120, 360, 120, 360], abs=2)
    ends = np.array([[-1.0, 0, 0], [1, 0, 0]])
    cut = clipped(ends, project(ends, intrinsics, pose)[1])
    np.testing.assert_allclose(cut, [[0.05, 0, 0], [1, 0, 0]])
    assert clipped(-np.abs(ends), np.array([-1.0, -1.0])) is None


def test_points_are_thinned_to_the_mean_of_a_voxel():
    points = np.array([[0.001, 0, 0], [0.003, 0, 0], [0.05, 0, 0]])
    colours = np.array([[0, 0, 0], [100, 0, 0], [7, 7, 7]])
    found, means = thinned(points, colours, 0.02)
    np.testing.assert_allclose(found, [[0.002, 0, 0], [0.05, 0, 0]])
    np.testing.assert_allclose(means, [[50, 0, 0], [7, 7, 7]])


@pytest.mark.parametrize("far", [1e6, 1e30])
def test_a_point_far_away_is_a_voxel_of_its_own(far):
    points = np.array([[0.1, 0.1, 0.1], [far, far, far], [0.105, 0.105, 0.105], [1.0, 0.1, 0.1]])
    means, colours = thinned(points, 10.0 * points)
    order = means[:, 0].argsort()
    np.testing.assert_allclose(means[order], [[0.1025] * 3, [1.0, 0.1, 0.1], [far] * 3])
    np.testing.assert_allclose(colours, 10 * means)


def test_a_viewer_opens_the_view(checkpoint, tmp_path):
    trimesh = pytest.importorskip("trimesh")
    view = tmp_path / "chair.glb"
    box = found("kitchen", EXPRESSION, "--model", checkpoint, "--num-frames", "4", "--save-view", view)["box"]
    scene = trimesh.load(view)
    assert set(scene.geometry) == {"points", "box", "runner-up"}
    assert len(scene.geometry["points"].vertices) > 10_000
    corners, center = scene.geometry["box"].vertices, np.array(box["center"])
    assert np.abs(corners - center).max(0) == pytest.approx(np.array(box["size"]) / 2, abs=1e-3)
    turned, _ = scene.graph["box"]
    assert turned[:3, :3] @ center == pytest.approx([center[0], center[2], -center[1]], abs=1e-5)  # glTF has y up
