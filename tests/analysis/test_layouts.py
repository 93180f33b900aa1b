"""Posed clips read from the layouts of public data sets, and what is refused."""

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from posed_clips import fit_of, room_clip, write_scannet, write_seven_scenes, write_tum

from vega3d.analysis.clips import PosedClip, ReadOptions, evenly
from vega3d.analysis.layouts import find_clips, read_clip
from vega3d.analysis.tokens import token_points
from vega3d.rooms.dataset import DatasetSettings
from vega3d.rooms.dataset.dataset import synthesize

CLIP = room_clip()
INTRINSICS = tuple(CLIP.intrinsics[[0, 1, 0, 1], [0, 1, 2, 2]])


@pytest.fixture(scope="module")
def rooms(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("rooms")
    synthesize(folder, DatasetSettings("test", size=128, num_frames=4, questions_per_type=1), 1)
    return folder


def in_room(points: np.ndarray) -> float:
    """Largest distance of points to the nearest wall of the room by hand [m]."""
    size = np.array([5.0, 4.0, 2.6])
    return float(np.minimum(np.abs(points), np.abs(points - size)).min(axis=-1).max())


def points_of(clip: PosedClip) -> np.ndarray:
    points, valid = token_points(clip, fit_of(clip))
    return points[valid]


def test_scannet_with_depth_of_another_size(tmp_path):
    write_scannet(tmp_path / "scene0001_00", CLIP)
    write_scannet(tmp_path / "scene0001_01", CLIP)

    first, second = find_clips(tmp_path)

    assert (first.layout, first.name, first.scene, second.scene) == (
        "scannet",
        "scene0001_00",
        "scene0001",
        "scene0001",
    )

    clip = read_clip(first)
    assert clip.depth.shape == (6, 48, 64)

    ours, valid = token_points(clip, fit_of(clip))
    theirs, _ = token_points(CLIP, fit_of(CLIP))
    assert valid.all()
    assert np.abs(ours - theirs).max() < 0.01  # each a mean over pixels of another size

    likeness = [
        np.corrcoef(frame.ravel(), other.ravel())[0, 1] for frame, other in zip(clip.frames, CLIP.frames, strict=True)
    ]
    assert min(likeness) > 0.5  # JPEG of noise


def test_scannet_in_the_aligned_world(tmp_path):
    folder = write_scannet(tmp_path / "scene0001_00", CLIP)
    alignment = np.eye(4)
    alignment[:3] = [[0.0, -1.0, 0.0, 2.0], [1.0, 0.0, 0.0, -1.0], [0.0, 0.0, 1.0, 0.5]]
    text = " ".join(map(str, alignment.ravel()))
    (folder / "scene0001_00.txt").write_text(f"numDepthFrames = 6\naxisAlignment = {text} \nsceneType = Office\n")
    (source,) = find_clips(folder)
    np.testing.assert_allclose(read_clip(source).world_from_camera, alignment @ CLIP.world_from_camera, atol=1e-9)
    for wrong, message in (("1 0 0", "has no 16 numbers"), (text.replace("2.0", "nan"), "NaN or infinite")):
        (folder / "scene0001_00.txt").write_text(f"axisAlignment = {wrong}\n")
        with pytest.raises(ValueError, match=f"axisAlignment.*{message}"):
            read_clip(source)


def test_seven_scenes(tmp_path):
    write_seven_scenes(tmp_path / "chess" / "seq-01", CLIP)
    (source,) = find_clips(tmp_path)
    assert (source.layout, source.name, source.scene) == ("7scenes", "chess_seq-01", "chess")
    clip = read_clip(source, ReadOptions(intrinsics=INTRINSICS))
    assert np.array_equal(clip.frames, CLIP.frames)
    assert clip.depth[0, 0, 0] == 0
    assert np.abs(points_of(clip) - points_of(CLIP)).max() < 0.02
    with pytest.raises(ValueError, match=r"128 x 96 px, but the layout's calibration is for 640 x 480.*--intrinsics"):
        read_clip(source)


def test_tum_associates_by_time(tmp_path):
    write_tum(tmp_path / "rgbd_dataset_freiburg3_room", CLIP)
    (source,) = find_clips(tmp_path)
    assert (source.layout, source.scene) == ("tum", "rgbd_dataset_freiburg3_room")
    clip = read_clip(source, ReadOptions(intrinsics=INTRINSICS))
    assert np.array_equal(clip.frames, CLIP.frames)
    assert np.allclose(clip.world_from_camera, CLIP.world_from_camera, atol=1e-6)
    assert np.abs(points_of(clip) - points_of(CLIP)).max() < 0.001
    assert clip.left_out == ("rgb/late.png",)


def test_tum_depth_that_is_too_late_is_not_taken(tmp_path):
    folder = write_tum(tmp_path / "freiburg1", CLIP)
    rows = (folder / "depth.txt").read_text().splitlines()
    late = [row if row.startswith("#") else f"{float(row.split()[0]) + 50:.6f} {row.split()[1]}" for row in rows]
    (folder / "depth.txt").write_text("\n".join(late))
    with pytest.raises(ValueError, match=r"0 of 7 colour images have depth and a pose within 0.02 s"):
        read_clip(find_clips(tmp_path)[0])


def test_tum_camera_unknown(tmp_path):
    write_tum(tmp_path / "office", CLIP)
    with pytest.raises(ValueError, match=r"does not tell its camera.*--intrinsics"):
        read_clip(find_clips(tmp_path)[0])


def test_rooms(rooms):
    (source,) = find_clips(rooms, split="test")
    assert (source.layout, source.name, source.scene) == ("rooms", "test_000000_00", "test_000000")
    clip = read_clip(source, ReadOptions(views=3))
    arrays = np.load(rooms / "arrays" / "test_000000_00.npz")
    assert np.allclose(clip.depth, arrays["depth_mm"][[0, 2, 3]] / 1000)
    assert np.allclose(clip.world_from_camera, arrays["world_from_camera"][[0, 2, 3]])
    assert clip.frames.shape == (3, 128, 128, 3)
    assert np.array_equal(clip.instances, arrays["instance"][[0, 2, 3]]) and clip.instances.max() > 0
    with pytest.raises(ValueError, match="no rooms of split 'train', only of test"):
        find_clips(rooms, split="train")


def test_rooms_are_made_from_any_number_on(rooms, tmp_path):
    from vega3d.analysis.layouts import make_rooms

    done: list[int] = []
    settings = {"size": 128, "num_frames": 2, "trajectories": 2, "videos": False}
    sources = make_rooms(1, "validation", cache=tmp_path, on_progress=done.append, first=400, **settings)
    assert [source.name for source in sources] == ["validation_000400_00", "validation_000400_01"]
    assert {source.scene for source in sources} == {"validation_000400"} and done == [1]
    with pytest.raises(ValueError, match="A split has scenes"):
        make_rooms(1, "validation", cache=tmp_path, first=1 << 30, **settings)


def test_lost_poses_are_left_out_only_on_request(tmp_path):
    folder = write_scannet(tmp_path / "scene0000_00", CLIP)
    (folder / "pose" / "2.txt").write_text("\n".join(["-inf -inf -inf -inf"] * 4))
    (source,) = find_clips(tmp_path)
    with pytest.raises(ValueError, match=r"1 of 6 frames are NaN or infinite \(tracking was lost\), the first is 2"):
        read_clip(source)
    clip = read_clip(source, ReadOptions(skip_lost=True))
    assert clip.left_out == ("2",)
    assert np.allclose(clip.world_from_camera, CLIP.world_from_camera[[0, 1, 3, 4, 5]])


def test_a_missing_depth_image_is_named(tmp_path):
    folder = write_scannet(tmp_path / "scene0000_00", CLIP)
    (folder / "depth" / "3.png").unlink()
    with pytest.raises(ValueError, match=r"depth/3\.png is missing"):
        read_clip(find_clips(tmp_path)[0])


def test_depth_of_another_size_without_intrinsics(tmp_path):
    halves = dataclasses.replace(
        CLIP, depth=CLIP.depth[:, ::2, ::2], depth_intrinsics=np.diag([0.5, 0.5, 1]) @ CLIP.intrinsics
    )
    write_seven_scenes(tmp_path / "seq-01", halves)
    with pytest.raises(ValueError, match=r"frames have 128 x 96 px and depth 64 x 48.*Register depth to colour"):
        read_clip(find_clips(tmp_path)[0], ReadOptions(intrinsics=INTRINSICS))


def test_intrinsics_of_another_image_size_are_noticed(tmp_path):
    folder = write_scannet(tmp_path / "scene0000_00", CLIP)
    matrix = np.loadtxt(folder / "intrinsic" / "intrinsic_color.txt")
    np.savetxt(folder / "intrinsic" / "intrinsic_color.txt", np.diag([2, 2, 1, 1]) @ matrix)
    with pytest.raises(ValueError, match=r"must cover all of it up to 10%.*intrinsics of its own size"):
        read_clip(find_clips(tmp_path)[0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda poses: np.where(np.arange(6)[:, None, None] == 4, np.nan, poses), "1 of 6 views are NaN.*view 4"),
        (lambda poses: poses * [[1.1], [1.1], [1.1], [1]], "pose of view 0 is not rigid"),
        (lambda poses: poses @ np.diag([1, 1, -1, 1]), "pose of view 0 is not rigid"),
        (lambda poses: poses[:5], r"poses must be \[6, 4, 4\]"),
    ],
)
def test_bad_poses_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(CLIP, world_from_camera=change(CLIP.world_from_camera))


def test_layouts_that_cannot_be_told(tmp_path):
    with pytest.raises(ValueError, match=r"has no clips\. Looked for rooms: "):
        find_clips(tmp_path)
    write_scannet(tmp_path / "a", CLIP)
    write_seven_scenes(tmp_path / "b", CLIP)
    with pytest.raises(ValueError, match=r"layouts scannet and 7scenes\. Say which with --layout"):
        find_clips(tmp_path)
    assert [source.name for source in find_clips(tmp_path, "scannet")] == ["a"]
    with pytest.raises(ValueError, match="has no splits"):
        find_clips(tmp_path, "scannet", split="test")


def test_even_views():
    assert evenly(5, 3).tolist() == [0, 2, 4]
    assert evenly(3, 32).tolist() == [0, 1, 2]
    with pytest.raises(ValueError, match="at least 2"):
        evenly(5, 1)


def test_points_lie_on_the_walls():
    assert in_room(points_of(room_clip(turn=0.0, frames=2))) < 0.4  # tokens in corners are means of two walls
    fine = dataclasses.replace(CLIP, frames=CLIP.frames)
    points, valid = token_points(fine, fit_of(fine))
    assert valid.all()
    assert np.median(np.minimum(np.abs(points), np.abs(points - [5.0, 4.0, 2.6])).min(axis=-1)) < 1e-6


def as_jpeg(folder: Path, suffix: str, depth_suffix: str = ".depth.png") -> None:
    """A copy as others publish it: colour as JPEG, names in other cases."""
    for path in folder.glob("*.color.png"):
        Image.open(path).save(path.with_name(path.name.removesuffix(".png") + suffix), "JPEG", quality=95)
        path.unlink()
    for path in folder.glob("*.depth.png"):
        path.rename(path.with_name(path.name.removesuffix(".depth.png") + depth_suffix))


@pytest.mark.parametrize(
    ("suffix", "depth_suffix"), [(".jpg", ".depth.png"), (".jpeg", ".depth.png"), (".JPG", ".depth.PNG")]
)
def test_seven_scenes_with_jpeg_colour(tmp_path, suffix, depth_suffix):
    as_jpeg(write_seven_scenes(tmp_path / "chess" / "seq-01", CLIP), suffix, depth_suffix)

    (source,) = find_clips(tmp_path)
    clip = read_clip(source, ReadOptions(intrinsics=INTRINSICS))

    assert (source.layout, source.scene) == ("7scenes", "chess")
    assert np.allclose(clip.depth[:, 1:], np.round(CLIP.depth * 1000)[:, 1:] / 1000, atol=1e-6)
    assert np.allclose(clip.world_from_camera, CLIP.world_from_camera)


def test_seven_scenes_with_the_calibration_of_its_copy(tmp_path):
    folder = write_seven_scenes(tmp_path / "seq-01", CLIP)
    np.savetxt(folder / "camera-intrinsics.txt", CLIP.intrinsics)

    clip = read_clip(find_clips(tmp_path)[0])

    assert np.allclose(clip.intrinsics, CLIP.intrinsics)


def test_two_colour_images_of_one_frame_are_refused(tmp_path):
    folder = write_seven_scenes(tmp_path / "seq-01", CLIP)
    Image.open(folder / "frame-000002.color.png").save(folder / "frame-000002.color.jpg")

    with pytest.raises(ValueError, match=r"frame-000002\.color\.png are of one frame"):
        read_clip(find_clips(tmp_path)[0], ReadOptions(intrinsics=INTRINSICS))


@pytest.mark.parametrize(("suffix", "depth_suffix"), [(".jpeg", ".png"), (".JPG", ".PNG")])
def test_scannet_with_other_suffixes(tmp_path, suffix, depth_suffix):
    folder = write_scannet(tmp_path / "scene0000_00", CLIP)
    for path in list(folder.glob("color/*.jpg")):
        path.rename(path.with_suffix(suffix))
    for path in list(folder.glob("depth/*.png")):
        path.rename(path.with_suffix(depth_suffix))

    assert len(read_clip(find_clips(tmp_path)[0])) == len(CLIP)


def test_colour_of_more_than_8_bits_is_refused(tmp_path):
    folder = write_seven_scenes(tmp_path / "seq-01", CLIP)
    Image.open(folder / "frame-000002.depth.png").save(folder / "frame-000002.color.png")

    with pytest.raises(ValueError, match=r"frame-000002\.color\.png has pixels of the kind I"):
        read_clip(find_clips(tmp_path)[0], ReadOptions(intrinsics=INTRINSICS))


@pytest.mark.parametrize("listed", ["rgb.txt", "depth.txt"])
@pytest.mark.parametrize("name", ["../outside.png", "/etc/hostname", "rgb/../../outside.png"])
def test_a_list_names_no_image_outside_its_clip(tmp_path, listed, name):
    folder = write_tum(tmp_path / "rgbd_freiburg1_desk", CLIP)
    Image.fromarray(CLIP.frames[0]).save(tmp_path / "outside.png")
    lines = (folder / listed).read_text().splitlines()
    lines[1] = f"{lines[1].split()[0]} {name}"
    (folder / listed).write_text("\n".join(lines))

    with pytest.raises(ValueError, match="names no file in"):
        read_clip(find_clips(tmp_path)[0], ReadOptions(intrinsics=INTRINSICS))


DAMAGED = {
    "another depth": lambda arrays: {**arrays, "depth_mm": arrays["depth_mm"][:, ::2]},
    "flat depth": lambda arrays: {**arrays, "depth_mm": arrays["depth_mm"].ravel()},
    "few poses": lambda arrays: {**arrays, "world_from_camera": arrays["world_from_camera"][:2]},
    "no intrinsics": lambda arrays: {name: array for name, array in arrays.items() if name != "intrinsics"},
    "text": lambda arrays: {**arrays, "depth_mm": arrays["depth_mm"].astype(str)},
    "objects": lambda arrays: {**arrays, "intrinsics": np.array([[{}] * 3] * 3, object)},
    "lost": lambda arrays: {**arrays, "world_from_camera": np.full_like(arrays["world_from_camera"], np.nan)},
}


@pytest.mark.parametrize("damage", DAMAGED.values(), ids=DAMAGED)
def test_arrays_of_a_room_that_do_not_fit_are_named(rooms, tmp_path, damage):
    shutil.copytree(rooms, tmp_path / "copy")
    path = tmp_path / "copy" / "arrays" / "test_000000_00.npz"
    np.savez_compressed(path, **damage(dict(np.load(rooms / "arrays" / "test_000000_00.npz"))))

    with pytest.raises(ValueError, match="test_000000_00"):
        read_clip(find_clips(tmp_path / "copy")[0])


def test_an_archive_of_no_bytes_is_named(rooms, tmp_path):
    shutil.copytree(rooms, tmp_path / "copy")
    (tmp_path / "copy" / "arrays" / "test_000000_00.npz").write_bytes(b"")

    with pytest.raises(ValueError, match=r"test_000000_00\.npz cannot be read"):
        read_clip(find_clips(tmp_path / "copy")[0])
