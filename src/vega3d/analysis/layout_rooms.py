"""Data sets of `vega3d synthesize`: `rooms/NAME.mp4` and `arrays/NAME.npz`."""

import sys
from pathlib import Path

import numpy as np

from vega3d.analysis.clips import ClipSource, PosedClip, ReadOptions, evenly
from vega3d.processing.video_vega3d import read_video
from vega3d.rooms.archives import LARGEST, read_archive

FILES = "rooms/*.mp4 and arrays/*.npz"
REMEDY = "Make the data set again with `vega3d synthesize`."


def find(folder: Path) -> list[ClipSource]:
    return [source(folder, path.stem) for path in sorted((folder / "arrays").glob("*.npz"))]


def source(folder: Path, name: str) -> ClipSource:
    """Walks through one room are one scene: `test_000012_03` is of room 12."""
    return ClipSource("rooms", folder, name, name.rpartition("_")[0])


def split_of(name: str) -> str:
    return name.rsplit("_", 2)[0]


def read(source: ClipSource, options: ReadOptions) -> PosedClip:
    if options.intrinsics is not None:
        raise ValueError("Rooms store their intrinsics. Leave out --intrinsics.")
    folder = source.path
    frames = read_video(folder / "rooms" / f"{source.name}.mp4", sys.maxsize).frames
    count, height, width = frames.shape[:3]
    arrays = read_archive(
        folder / "arrays" / f"{source.name}.npz",
        ("depth_mm", "world_from_camera", "intrinsics"),
        {"depth_mm": (count, height, width), "world_from_camera": (count, 4, 4), "intrinsics": (3, 3)},
        largest=LARGEST,
        remedy=REMEDY,
    )
    depth = arrays["depth_mm"].astype(np.float32) / np.float32(1000)
    poses, intrinsics = arrays["world_from_camera"].astype(float), arrays["intrinsics"].astype(float)
    chosen = evenly(len(frames), options.views)
    return PosedClip(source.name, source.scene, frames[chosen], depth[chosen], intrinsics, intrinsics, poses[chosen])
