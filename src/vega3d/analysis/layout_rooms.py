"""Data sets of `vega3d synthesize`: `rooms/NAME.mp4` and `arrays/NAME.npz`."""

import sys
import zipfile
from pathlib import Path

import numpy as np

from vega3d.analysis.clips import ClipSource, PosedClip, ReadOptions, evenly
from vega3d.analysis.layout_files import same_size
from vega3d.processing.video_vega3d import read_video

FILES = "rooms/*.mp4 and arrays/*.npz"


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
    path = folder / "arrays" / f"{source.name}.npz"
    try:
        with np.load(path) as arrays:
            depth = arrays["depth_mm"] / np.float32(1000)
            poses, intrinsics = arrays["world_from_camera"].astype(float), arrays["intrinsics"].astype(float)
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise ValueError(
            f"{path} cannot be read: {error}. Make the data set again with `vega3d synthesize`."
        ) from error
    video = folder / "rooms" / f"{source.name}.mp4"
    frames = read_video(video, sys.maxsize).frames
    if len(frames) != len(depth):
        raise ValueError(f"{video} has {len(frames)} frames, but {path} has {len(depth)}. Make the data set again.")
    same_size(frames, depth, str(path))
    chosen = evenly(len(frames), options.views)
    return PosedClip(source.name, source.scene, frames[chosen], depth[chosen], intrinsics, intrinsics, poses[chosen])
