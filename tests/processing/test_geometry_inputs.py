"""Depth, intrinsics and poses beside the frames: where each visual token is, in every form in which they come."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from analysis.posed_clips import plane_clip, room_clip, write_scannet, write_seven_scenes, write_tum
from processing.builders import build_processor
from processing.video_files import write_video
from tiny_checkpoints import VLM_PROCESSORS
from vega3d.analysis.clips import PosedClip
from vega3d.analysis.layouts import read_posed_video
from vega3d.geometry import invert_pose, look_at, unproject
from vega3d.processing.clip_geometry_vega3d import agreement
from vega3d.processing.processing_vega3d import VegaProcessor

VIDEO = "<|vision_start|><|video_pad|><|vision_end|>"
IMAGE = "<|vision_start|><|image_pad|><|vision_end|>"
CLIP = room_clip(5, 128, 96)


@pytest.fixture(scope="module", params=VLM_PROCESSORS.values())
def processor(request) -> VegaProcessor:
    return build_processor(request.param)


def arrays(clip: PosedClip) -> dict[str, np.ndarray]:
    return {"depth": clip.depth, "intrinsics": clip.intrinsics, "world_from_camera": clip.world_from_camera}


def positions(processor: VegaProcessor, videos, **given) -> tuple[torch.Tensor, torch.Tensor]:
    """float[t, rows, columns, 3] and bool[t, rows, columns] of one video."""
    inputs = processor(text=VIDEO, videos=videos, **given)
    t, h, w = inputs["video_grid_thw"][0].tolist()
    return (inputs[name].unflatten(0, (t, h // 2, w // 2)) for name in ("visual_positions", "visual_positions_mask"))


def pixel_points(clip: PosedClip) -> np.ndarray:
    """float[T, H, W, 3]: the world point of each pixel, one by one."""
    height, width = clip.depth.shape[1:]
    y, x = np.mgrid[:height, :width] + 0.5
    pixels = np.stack([x, y], axis=-1)
    views = zip(clip.depth, clip.world_from_camera, strict=True)
    return np.stack([unproject(pixels, depth, clip.intrinsics, pose) for depth, pose in views])


def test_a_token_is_at_the_mean_of_its_pixels_in_both_of_its_frames(processor):
    depth = CLIP.depth.copy()
    depth[0, :16, :16] = 0  # the first token sees its place in the second frame alone
    depth[:2, :16, 16:32] = np.nan  # the second nowhere
    depth[4, 90:] = np.inf
    points, mask = positions(processor, CLIP.frames, **{**arrays(CLIP), "depth": depth})

    every = pixel_points(CLIP)
    every[~(np.isfinite(depth) & (depth > 0))] = np.nan
    t, rows, columns = mask.shape
    cells = every.reshape(5, rows, 96 // rows, columns, 128 // columns, 3)
    for patch in range(t):
        frames = cells[2 * patch : 2 * patch + 2].transpose(1, 3, 0, 2, 4, 5).reshape(rows, columns, -1, 3)
        known = np.isfinite(frames[..., 0]).any(-1)
        assert (mask[patch].numpy() == known).all()
        np.testing.assert_allclose(points[patch][known], np.nanmean(frames[known], axis=1), atol=2e-6)
        assert (points[patch][~known] == 0).all()
    assert not mask[0, 0, 1]


def test_frames_without_any_depth_leave_their_tokens_without_a_position(processor):
    depth = CLIP.depth.copy()
    depth[:2] = 0
    points, mask = positions(processor, CLIP.frames, **{**arrays(CLIP), "depth": depth})
    whole, _ = positions(processor, CLIP.frames, **arrays(CLIP))
    assert not mask[0].any()
    assert mask[1:].all()
    assert torch.equal(points[1:], whole[1:])


@pytest.mark.parametrize("size", [(96, 128), (101, 77), (240, 90), (30, 50)])  # these are resized, the last enlarged
def test_a_marked_patch_arrives_with_its_point(processor, size):
    """A bright square on a wall: the brightest token is the one whose position is nearest to it."""
    height, width = size
    intrinsics = np.array([[60.0, 0, width / 2], [0, 60.0, height / 2], [0, 0, 1]])
    poses = np.stack([look_at((0, side, 0), (2, side, 0)) for side in (0.0, 0.1, 0.2)])
    depth = np.full((3, height, width), 2.0, np.float32)
    for frame, row, column in ((0, 0.1, 0.2), (1, 0.6, 0.9), (2, 0.95, 0.05)):
        frames = np.zeros((3, height, width, 3), np.uint8)
        y, x = int(row * height), int(column * width)
        frames[frame, max(0, y - 4) : y + 5, max(0, x - 4) : x + 5] = 255
        inputs = processor(text=VIDEO, videos=frames, depth=depth, intrinsics=intrinsics, world_from_camera=poses)
        t, h, w = inputs["video_grid_thw"][0].tolist()
        brightness = inputs["pixel_values_videos"].mean(-1).reshape(t, -1, 4).mean(-1)
        token = int(brightness.argmax())
        assert token // brightness.shape[1] == frame // 2
        seen = unproject((x + 0.5, y + 0.5), 2.0, intrinsics, poses[frame])
        point = inputs["visual_positions"][token].numpy()
        cell = 2.0 / 60.0 * np.array([width / (w // 2), height / (h // 2)])  # [m] on the wall
        assert np.abs(point - seen)[1] < cell[0] + 0.11  # two views, 10 cm apart, share a token
        assert np.abs(point - seen)[2] < cell[1]


def test_every_form_gives_the_same(processor, tmp_path):
    frames = np.repeat(CLIP.frames[:, :1, :1], 96, axis=1).repeat(128, axis=2)  # plain: the file is not lossless
    clip = replace(CLIP, frames=frames)
    sampled = [0, 2, 4]
    some = {name: value[sampled] if len(value) == 5 else value for name, value in arrays(clip).items()}
    wanted = processor(text=VIDEO, videos=clip.frames[sampled], **some)

    path = write_video(tmp_path / "clip.mp4", list(clip.frames))
    folder = tmp_path / "frames"
    folder.mkdir()
    for number, frame in enumerate(clip.frames):
        Image.fromarray(frame).save(folder / f"{number}.png")
    each = np.repeat(clip.intrinsics[None], 5, axis=0)
    tensors = {name: torch.from_numpy(value) for name, value in arrays(clip).items()}
    for video, given in (
        (clip.frames, arrays(clip)),
        (clip.frames, tensors),
        (clip.frames, {**arrays(clip), "intrinsics": each}),
        (clip.frames, {name: [value.tolist()] for name, value in arrays(clip).items()}),
        (path, arrays(clip)),
        (folder, arrays(clip)),
        (clip.video(), {}),
    ):
        found = processor(text=VIDEO, videos=video, num_frames=3, **given)
        for name in ("visual_positions", "visual_positions_mask"):
            assert torch.equal(found[name], wanted[name]), (type(video), name)
    messages = [{"role": "user", "content": [{"type": "video", "video": clip.frames}]}]
    found = processor.apply_chat_template(messages, tokenize=True, return_dict=True, num_frames=3, **arrays(clip))
    assert torch.equal(found["visual_positions"], wanted["visual_positions"])


def test_depth_of_an_image_as_lists_and_in_sixteen_bits(processor):
    depth, pose = CLIP.depth[1], CLIP.world_from_camera[1]
    cameras = {"intrinsics": [CLIP.intrinsics], "world_from_camera": [pose]}
    wanted = processor(text=IMAGE, images=CLIP.frames[1], depth=depth, **{k: v[0] for k, v in cameras.items()})
    listed = {name: [value[0].tolist()] for name, value in cameras.items()}
    found = processor(text=IMAGE, images=CLIP.frames[1], depth=[depth.tolist()], **listed)
    assert torch.equal(found["visual_positions"], wanted["visual_positions"])
    short = torch.from_numpy(depth).bfloat16().requires_grad_()
    found = processor(text=IMAGE, images=CLIP.frames[1], depth=[short], **cameras)
    torch.testing.assert_close(found["visual_positions"], wanted["visual_positions"], atol=0.02, rtol=0)


def test_a_batch_of_images_and_videos_with_and_without_depth(processor):
    other = room_clip(2, 64, 48)
    text = [f"{VIDEO}{IMAGE}", f"{IMAGE}{VIDEO}{VIDEO}"]
    picture = CLIP.frames[1]
    inputs = processor(
        text=text,
        images=[[picture], [picture]],
        videos=[[CLIP.frames], [other.frames, other.frames]],
        padding=True,
        depth=[None, CLIP.depth[1], CLIP.depth, None, other.depth],
        intrinsics=[None, CLIP.intrinsics, CLIP.intrinsics, None, other.intrinsics],
        world_from_camera=[None, CLIP.world_from_camera[1], CLIP.world_from_camera, None, other.world_from_camera],
    )
    counts = [int(grid.prod()) // 4 for name in ("image", "video") for grid in inputs[f"{name}_grid_thw"]]
    points, masks = inputs["visual_positions"].split(counts), inputs["visual_positions_mask"].split(counts)

    assert [bool(mask.any()) for mask in masks] == [False, True, True, False, True]
    for number, clip in ((2, CLIP), (4, other)):
        alone = processor(text=VIDEO, videos=clip.video())["visual_positions"]
        assert torch.equal(points[number], alone)
    assert "visual_positions" not in processor(text=VIDEO, videos=CLIP.frames)


def test_holes_average_as_in_the_official_code_if_asked(tmp_path):
    depth = CLIP.depth.copy()
    depth[:, :8, :16] = 0  # half of the first token
    given = {**arrays(CLIP), "depth": depth}
    settings = build_processor(depth_holes="average")
    settings.save_pretrained(tmp_path)
    official = VegaProcessor.from_pretrained(tmp_path)
    points = pixel_points(replace(CLIP, depth=depth))[4, :16, :16].reshape(-1, 3)

    found, mask = positions(official, CLIP.frames, **given)
    np.testing.assert_allclose(found[2, 0, 0], points.mean(0), atol=2e-6)
    assert mask.all()
    masked, _ = positions(build_processor(), CLIP.frames, **given)
    assert (masked[2, 0, 0] - found[2, 0, 0]).norm() > 0.5
    assert torch.equal(masked[:, 1:], found[:, 1:])
    with pytest.raises(ValueError, match="`depth_holes` must be one of"):
        build_processor(depth_holes="skip")


@pytest.mark.parametrize("write", [write_scannet, write_seven_scenes, write_tum])
def test_posed_folders(write, tmp_path):
    """Depth of another size than the frames in ScanNet's layout; the room's walls are where they are."""
    clip = room_clip(6, 128, 96)
    folder = write(tmp_path / "freiburg1_room", clip)
    intrinsics = None if write is write_scannet else [clip.intrinsics[k] for k in ((0, 0), (1, 1), (0, 2), (1, 2))]
    video = read_posed_video(folder, views=6, intrinsics=intrinsics)
    points, mask = positions(build_processor(), video)
    wanted, _ = positions(build_processor(), clip.video())

    assert mask.all()
    assert (points - wanted).norm(dim=-1).max() < 0.06  # [m]; a coarser image has other pixels at the edges
    assert video.timed == (write is write_tum)


@pytest.mark.parametrize("turn", [30.0, 90.0, 180.0])
def test_poses_that_are_the_wrong_way_round_are_refused(turn):
    clip = room_clip(8, 128, 96, turn)
    assert agreement(clip.video().geometry, clip.world_from_camera, 1) > 0.95
    given = {**arrays(clip), "world_from_camera": invert_pose(clip.world_from_camera)}
    with pytest.raises(ValueError, match="seem to be camera_from_world"):
        build_processor()(text=VIDEO, videos=clip.frames, **given)


def changed(**changes):
    return {**arrays(CLIP), **changes}


HALF = np.diag([0.5, 0.5, 1.0])
MIRROR, LAST = np.diag([1.0, 1.0, -1.0, 1.0]), np.diag([0.0, 0.0, 0.0, 999.0])
SHORT = {"depth": CLIP.depth[:4], "world_from_camera": CLIP.world_from_camera[:4]}
BAD = {
    "size": (changed(depth=CLIP.depth[:, :48, :64], intrinsics=HALF @ CLIP.intrinsics), "depth of 64 x 48 px"),
    "intrinsics": (changed(intrinsics=HALF @ CLIP.intrinsics), "principal point .* not in the middle"),
    "focal": (changed(intrinsics=np.diag([-1, 1, 1]) @ CLIP.intrinsics), "focal lengths above 0"),
    "matrix": (changed(intrinsics=np.ones(4)), r"intrinsics must be \[3, 3\]"),
    "lost": (changed(world_from_camera=CLIP.world_from_camera * math.nan), "NaN or infinite, the first is view 0"),
    "rigid": (changed(world_from_camera=2 * CLIP.world_from_camera), "not rigid .* by 3, at most"),
    "mirrored": (changed(world_from_camera=CLIP.world_from_camera @ MIRROR), "view 0 is not rigid .it mirrors"),
    "last row": (changed(world_from_camera=CLIP.world_from_camera + LAST), "last row 0 0 0 1000, but must have 0 0 0"),
    "ragged": (changed(depth=[[[[1.0], [1.0, 2.0]]]]), "video 0: depth is no array: .* rows of one length"),
    "count": (
        changed(depth=CLIP.depth[:4], world_from_camera=CLIP.world_from_camera[:4]),
        "5 frames, but depth .* of 4",
    ),
    "poses": (changed(world_from_camera=CLIP.world_from_camera[:4]), r"poses must be \[5, 4, 4\]"),
    "millimetres": (changed(depth=1000 * CLIP.depth), "Divide millimetres by 1000"),
    "integers": (changed(depth=(1000 * CLIP.depth).astype(np.uint16)), "must be floating point"),
    "negative": (changed(depth=-CLIP.depth), "must be at least 0"),
    "nowhere": (changed(depth=0 * CLIP.depth), "no frame has any depth"),
    "alone": ({"depth": CLIP.depth}, "intrinsics and world_from_camera missing"),
    "entries": (changed(depth=[CLIP.depth, None]), "`depth` is a list of 2, but there are 1"),
    "some": (changed(depth=[None]), "lacks depth, intrinsics or poses"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_geometry_is_refused(case):
    given, message = BAD[case]
    with pytest.raises(ValueError, match=message):
        build_processor()(text=VIDEO, videos=CLIP.frames, **given)


def test_a_clip_has_one_geometry():
    with pytest.raises(ValueError, match="has depth and cameras of its own"):
        build_processor()(text=VIDEO, videos=CLIP.video(), **arrays(CLIP))
    with pytest.raises(ValueError, match="has 2 frames, but depth and poses of 5"):
        replace(plane_clip().video(), geometry=CLIP.video().geometry)
