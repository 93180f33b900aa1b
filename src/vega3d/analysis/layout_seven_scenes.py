"""Microsoft 7-Scenes: `frame-XXXXXX.{color.png,depth.png,pose.txt}` in folders `seq-XX`; colour may be JPEG.

Depth in mm, 65535 where there is none; poses are camera-to-world. The published calibration is a focal length of 585
px and the principal point (320, 240), the middle of the image, for both cameras; these are not registered. Copies such
as the sample of tsdf-fusion-python have `camera-intrinsics.txt` beside the frames, which takes its place.
"""

from pathlib import Path

import numpy as np

from vega3d.analysis.clips import ClipSource, PosedClip, ReadOptions, checked_intrinsics, evenly
from vega3d.analysis.layout_files import (
    COLOUR_SUFFIXES,
    DEPTH_SUFFIXES,
    clip_folders,
    files_by_stem,
    files_of,
    read_depth,
    read_matrix,
    read_rgb,
    same_size,
    sources,
    stacked,
    usable_poses,
)

FILES = "frame-*.color.png (or .jpg, .jpeg), frame-*.depth.png (or .pgm) and frame-*.pose.txt"
CALIBRATION = "camera-intrinsics.txt"
MILLIMETRES = 1000.0
NO_DEPTH = 65.535  # [m]
INTRINSICS = (585.0, 585.0, 320.0, 240.0)
SIZE = (480, 640)  # of the images that the calibration is for


def is_clip(folder: Path) -> bool:
    return any(is_colour(path.name.lower()) for path in folder.glob("frame-*"))


def is_colour(name: str) -> bool:
    return any(name.endswith(f".color{suffix}") for suffix in COLOUR_SUFFIXES)


def find(folder: Path) -> list[ClipSource]:
    """Sequences `chess/seq-01`, `chess/seq-02` are of one scene."""
    return sources("7scenes", folder, clip_folders(folder, is_clip), lambda path: path.resolve().parent.name)


def read(source: ClipSource, options: ReadOptions) -> PosedClip:
    folder = source.path
    colours = files_by_stem(folder, ".color", COLOUR_SUFFIXES)
    depths = files_by_stem(folder, ".depth", DEPTH_SUFFIXES)
    stems = sorted(stem for stem in colours if stem.startswith("frame-"))
    poses = np.stack([read_matrix(folder / f"{stem}.pose.txt") for stem in stems])
    usable, lost = usable_poses(stems, poses, options, str(folder))
    chosen = usable[evenly(len(usable), options.views)]
    seen = [stems[frame] for frame in chosen]
    colour_paths = [colours[stem] for stem in seen]
    depth_paths = files_of(seen, depths, lambda stem: folder / f"{stem}.depth.png")
    frames = stacked([read_rgb(path) for path in colour_paths], colour_paths)
    depth = stacked([read_depth(path, MILLIMETRES) for path in depth_paths], depth_paths)
    same_size(frames, depth, str(folder))
    intrinsics = intrinsics_of(folder, frames, options)
    depth[depth >= np.float32(NO_DEPTH)] = 0
    return PosedClip(source.name, source.scene, frames, depth, intrinsics, intrinsics, poses[chosen], lost)


def intrinsics_of(folder: Path, frames: np.ndarray, options: ReadOptions) -> np.ndarray:
    """float[3, 3] [px]: those given, those of the folder, or the published ones; raises ValueError if none are."""
    if options.intrinsics is not None:
        return checked_intrinsics(options.intrinsics)
    if (folder / CALIBRATION).exists():
        matrix = read_matrix(folder / CALIBRATION)
        return checked_intrinsics((matrix[0, 0], matrix[1, 1], matrix[0, 2], matrix[1, 2]))
    if frames.shape[1:3] != SIZE:
        raise ValueError(
            f"{folder}: frames have {frames.shape[2]} x {frames.shape[1]} px, but the layout's calibration is for "
            f"{SIZE[1]} x {SIZE[0]}. Give --intrinsics fx,fy,cx,cy."
        )
    return checked_intrinsics(INTRINSICS)
