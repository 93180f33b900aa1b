"""Exported ScanNet scans: `color/N.jpg`, `depth/N.png` [mm], `pose/N.txt`, `intrinsic/intrinsic_{color,depth}.txt`.

Colour and depth differ in size and intrinsics; their cameras are taken to be one, as ScanNet's own tools do (the
exported extrinsics are the identity). Poses are camera-to-world; of frames where tracking was lost they are infinite.
"""

from pathlib import Path

import numpy as np

from vega3d.analysis.clips import ClipSource, PosedClip, ReadOptions, evenly
from vega3d.analysis.layout_files import (
    COLOUR_SUFFIXES,
    DEPTH_SUFFIXES,
    clip_folders,
    files_by_stem,
    files_of,
    pixel_centres_at_half,
    read_depth,
    read_matrix,
    read_rgb,
    sources,
    stacked,
    usable_poses,
)

FILES = "color/*.jpg (or .jpeg, .png), depth/*.png (or .pgm), pose/*.txt and intrinsic/intrinsic_{color,depth}.txt"
MILLIMETRES = 1000.0


def is_clip(folder: Path) -> bool:
    return all((folder / part).is_dir() for part in ("color", "depth", "pose"))


def find(folder: Path) -> list[ClipSource]:
    """Scans of one place are one scene: `scene0012_01` is of `scene0012`."""
    return sources("scannet", folder, clip_folders(folder, is_clip), lambda path: path.resolve().name.split("_")[0])


def read(source: ClipSource, options: ReadOptions) -> PosedClip:
    if options.intrinsics is not None:
        raise ValueError("ScanNet's layout stores intrinsics in intrinsic/. Leave out --intrinsics.")
    folder = source.path
    colours = files_by_stem(folder / "color", "", COLOUR_SUFFIXES)
    if not colours:
        raise ValueError(f"{folder / 'color'} has no frames. Export the scan again.")
    strange = [path for stem, path in colours.items() if not (stem.isascii() and stem.isdigit())]
    if strange:
        raise ValueError(f"{strange[0]} is not named by the number of its frame, such as 12.jpg.")
    stems = sorted(colours, key=int)
    poses = np.stack([read_matrix(folder / "pose" / f"{stem}.txt") for stem in stems])
    usable, lost = usable_poses(stems, poses, options, str(folder / "pose"))
    chosen = usable[evenly(len(usable), options.views)]
    seen = [stems[frame] for frame in chosen]
    colour_paths = [colours[stem] for stem in seen]
    depths = files_by_stem(folder / "depth", "", DEPTH_SUFFIXES)
    depth_paths = files_of(seen, depths, lambda stem: folder / "depth" / f"{stem}.png")
    return PosedClip(
        source.name,
        source.scene,
        stacked([read_rgb(path) for path in colour_paths], colour_paths),
        stacked([read_depth(path, MILLIMETRES) for path in depth_paths], depth_paths),
        pixel_centres_at_half(read_matrix(folder / "intrinsic" / "intrinsic_color.txt")),
        pixel_centres_at_half(read_matrix(folder / "intrinsic" / "intrinsic_depth.txt")),
        poses[chosen],
        lost,
    )
