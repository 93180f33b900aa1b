"""Microsoft 7-Scenes: `frame-XXXXXX.{color.png,depth.png,pose.txt}` in folders `seq-XX`.

Depth in mm, 65535 where there is none; poses are camera-to-world. The published calibration is a focal length of 585
px and the principal point (320, 240), the middle of the image, for both cameras; these are not registered.
"""

from pathlib import Path

import numpy as np

from vega3d.analysis.clips import ClipSource, PosedClip, ReadOptions, checked_intrinsics, evenly
from vega3d.analysis.layout_files import (
    clip_folders,
    read_depth,
    read_matrix,
    read_rgb,
    same_size,
    sources,
    stacked,
    usable_poses,
)

FILES = "frame-*.color.png, frame-*.depth.png and frame-*.pose.txt"
MILLIMETRES = 1000.0
NO_DEPTH = 65.535  # [m]
INTRINSICS = (585.0, 585.0, 320.0, 240.0)
SIZE = (480, 640)  # of the images that the calibration is for


def is_clip(folder: Path) -> bool:
    return next(folder.glob("frame-*.color.png"), None) is not None


def find(folder: Path) -> list[ClipSource]:
    """Sequences `chess/seq-01`, `chess/seq-02` are of one scene."""
    return sources("7scenes", folder, clip_folders(folder, is_clip), lambda path: path.resolve().parent.name)


def read(source: ClipSource, options: ReadOptions) -> PosedClip:
    folder = source.path
    stems = sorted(path.name.removesuffix(".color.png") for path in folder.glob("frame-*.color.png"))
    poses = np.stack([read_matrix(folder / f"{stem}.pose.txt") for stem in stems])
    usable, lost = usable_poses(stems, poses, options, str(folder))
    chosen = usable[evenly(len(usable), options.views)]
    colour_paths = [folder / f"{stems[frame]}.color.png" for frame in chosen]
    depth_paths = [folder / f"{stems[frame]}.depth.png" for frame in chosen]
    frames = stacked([read_rgb(path) for path in colour_paths], colour_paths)
    depth = stacked([read_depth(path, MILLIMETRES) for path in depth_paths], depth_paths)
    same_size(frames, depth, str(folder))
    if options.intrinsics is None and frames.shape[1:3] != SIZE:
        raise ValueError(
            f"{folder}: frames have {frames.shape[2]} x {frames.shape[1]} px, but the layout's calibration is for "
            f"{SIZE[1]} x {SIZE[0]}. Give --intrinsics fx,fy,cx,cy."
        )
    depth[depth >= np.float32(NO_DEPTH)] = 0
    intrinsics = checked_intrinsics(options.intrinsics or INTRINSICS)
    return PosedClip(source.name, source.scene, frames, depth, intrinsics, intrinsics, poses[chosen], lost)
