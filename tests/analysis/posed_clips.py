"""Posed clips made by hand, and written in the layouts of public data sets."""

from pathlib import Path

import numpy as np
from PIL import Image
from scipy.spatial.transform import Rotation

from vega3d.analysis.clips import PosedClip
from vega3d.analysis.tokens import FrameFit, frame_fit
from vega3d.geometry import intrinsics_from_field_of_view, look_at
from vega3d.processing.generator_frames_vega3d import FrameSettings

SETTINGS = FrameSettings(16)  # tokens of 16 px
ROOM = np.array([5.0, 4.0, 2.6])  # [m]


def plane_clip(offsets: tuple[float, ...] = (0.0, 0.5), size: int = 64, depth: float = 2.0) -> PosedClip:
    """Cameras side by side, looking along +x at a wall; a token covers 0.5 m of it, so 0.5 m are one token."""
    intrinsics = np.array([[size, 0, size / 2], [0, size, size / 2], [0, 0, 1.0]])
    poses = np.stack([look_at((0, offset, 0), (1, offset, 0)) for offset in offsets])
    count = len(offsets)
    frames = np.zeros((count, size, size, 3), np.uint8)
    return PosedClip(
        "wall", "wall", frames, np.full((count, size, size), depth, np.float32), intrinsics, intrinsics, poses
    )


def room_clip(
    frames: int = 6, width: int = 128, height: int = 96, turn: float = 90.0, name: str = "room"
) -> PosedClip:
    """A camera that turns in the middle of an empty room; depth is exact, frames are noise of its own."""
    intrinsics = intrinsics_from_field_of_view(width, height, 70.0)
    angles = np.radians(np.linspace(20, 20 + turn, frames))
    ahead = np.stack([np.cos(angles), np.sin(angles), np.full(frames, -0.2)], axis=1)
    poses = np.stack([look_at(ROOM / 2 + 0.2 * step, ROOM / 2 + 1.2 * step) for step in ahead])
    depth = np.stack([room_depth(pose, intrinsics, width, height) for pose in poses])
    random = np.random.default_rng(frames)
    images = random.integers(0, 256, (frames, height, width, 3), dtype=np.uint8)
    return PosedClip(name, name, images, depth, intrinsics, intrinsics, poses)


def room_depth(pose: np.ndarray, intrinsics: np.ndarray, width: int, height: int) -> np.ndarray:
    """float32[height, width]: distance along the optical axis to the room's walls [m]."""
    rows, columns = np.mgrid[:height, :width]
    pixels = np.stack([columns + 0.5, rows + 0.5, np.ones((height, width))], axis=-1)
    rays = pixels @ np.linalg.inv(intrinsics).T @ pose[:3, :3].T
    return np.where(rays > 0, (ROOM - pose[:3, 3]) / rays, -pose[:3, 3] / rays).min(axis=-1).astype(np.float32)


def fit_of(clip: PosedClip) -> FrameFit:
    return frame_fit(clip.frames.shape[1], clip.frames.shape[2], SETTINGS)


def integer_centres(intrinsics: np.ndarray) -> np.ndarray:
    """float[4, 4], with the first pixel's centre at (0, 0), as calibration files have it."""
    matrix = np.eye(4)
    matrix[:3, :3] = intrinsics
    matrix[:2, 2] -= 0.5
    return matrix


def write_scannet(folder: Path, clip: PosedClip, depth_size: tuple[int, int] = (64, 48)) -> Path:
    """Depth in another size than colour, with intrinsics of its own."""
    width, height = depth_size
    scale = np.diag([width / clip.frames.shape[2], height / clip.frames.shape[1], 1.0])
    for part in ("color", "depth", "pose", "intrinsic"):
        (folder / part).mkdir(parents=True)
    np.savetxt(folder / "intrinsic" / "intrinsic_color.txt", integer_centres(clip.intrinsics))
    np.savetxt(folder / "intrinsic" / "intrinsic_depth.txt", integer_centres(scale @ clip.intrinsics))
    for number, pose in enumerate(clip.world_from_camera):
        depth = room_depth(pose, scale @ clip.intrinsics, width, height)
        Image.fromarray(clip.frames[number]).save(folder / "color" / f"{number}.jpg", quality=95)
        Image.fromarray(np.round(depth * 1000).astype(np.uint16)).save(folder / "depth" / f"{number}.png")
        np.savetxt(folder / "pose" / f"{number}.txt", pose)
    return folder


def write_seven_scenes(folder: Path, clip: PosedClip) -> Path:
    folder.mkdir(parents=True)
    for number, pose in enumerate(clip.world_from_camera):
        stem = folder / f"frame-{number:06d}"
        depth = np.round(clip.depth[number] * 1000).astype(np.uint16)
        depth[0, 0] = 65535
        Image.fromarray(clip.frames[number]).save(f"{stem}.color.png")
        Image.fromarray(depth).save(f"{stem}.depth.png")
        np.savetxt(f"{stem}.pose.txt", pose)
    return folder


def write_tum(folder: Path, clip: PosedClip) -> Path:
    """Depth 5 ms and poses 10 ms after the colour images, and one colour image more without either."""
    for part in ("rgb", "depth"):
        (folder / part).mkdir(parents=True)
    lines: dict[str, list[str]] = {"rgb": ["# colour"], "depth": ["# depth"], "groundtruth": ["# poses"]}
    for number, pose in enumerate(clip.world_from_camera):
        time = 1000 + number / 30
        Image.fromarray(clip.frames[number]).save(folder / "rgb" / f"{number}.png")
        depth = np.round(clip.depth[number] * 5000).astype(np.uint16)
        Image.fromarray(depth).save(folder / "depth" / f"{number}.png")
        values = [*pose[:3, 3], *Rotation.from_matrix(pose[:3, :3]).as_quat()]
        lines["rgb"].append(f"{time:.6f} rgb/{number}.png")
        lines["depth"].append(f"{time + 0.005:.6f} depth/{number}.png")
        lines["groundtruth"].append(f"{time + 0.010:.6f} " + " ".join(f"{value:.9f}" for value in values))
    Image.fromarray(clip.frames[0]).save(folder / "rgb" / "late.png")
    lines["rgb"].append("1100.0 rgb/late.png")
    for name, text in lines.items():
        (folder / f"{name}.txt").write_text("\n".join(text) + "\n")
    return folder
