"""Posed RGB-D clips on disk: data sets of rooms, and folders in the layouts of ScanNet, 7-Scenes and TUM RGB-D.

`rooms`: data sets of `vega3d synthesize`, `rooms/NAME.mp4` and `arrays/NAME.npz`.

`scannet`: exported scans, `color/N.jpg`, `depth/N.png` [mm], `pose/N.txt`, `intrinsic/intrinsic_{color,depth}.txt`.
Colour and depth differ in size and intrinsics; their cameras are taken to be one, as ScanNet's own tools do (the
exported extrinsics are the identity). Poses are camera-to-world; of frames where tracking was lost they are infinite.

`7scenes`: Microsoft 7-Scenes, `frame-XXXXXX.{color.png,depth.png,pose.txt}` in folders `seq-XX`; colour may be JPEG.
Depth in mm, 65535 where there is none; poses are camera-to-world. The published calibration is a focal length of 585
px and the principal point (320, 240), the middle of the image, for both cameras; these are not registered. Copies such
as the sample of tsdf-fusion-python have `camera-intrinsics.txt` beside the frames, which takes its place.

`tum`: TUM RGB-D, `rgb.txt`, `depth.txt` and `groundtruth.txt` with timestamps [s], 16-bit depth of 5000 units a metre.
Depth is registered to the colour images. Each colour image takes the depth and the pose nearest in time, up to 20 ms;
colour images without either are left out, and reported. Intrinsics are the published ones of freiburg1, 2 and 3, by
the name of the folder; lens distortion (freiburg1 and 2) is not undone.
"""

import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from vega3d.analysis.clips import ClipSource, PosedClip, ReadOptions, checked_intrinsics, evenly
from vega3d.analysis.layout_files import (
    COLOUR_SUFFIXES,
    DEPTH_SUFFIXES,
    chosen_files,
    clip_folders,
    files_by_stem,
    pixel_centres_at_half,
    quaternion_poses,
    read_depth,
    read_matrix,
    read_rgb,
    read_stack,
    read_timed_rows,
    same_size,
    sources,
    usable_poses,
)
from vega3d.files import inside
from vega3d.processing.video_vega3d import read_video
from vega3d.rooms.archives import LARGEST, read_archive
from vega3d.rooms.dataset.settings import DatasetSettings
from vega3d.rooms.dataset.store import stored_rooms

SEVEN_SCENES_CALIBRATION = "camera-intrinsics.txt"
SEVEN_SCENES_INTRINSICS = (585.0, 585.0, 320.0, 240.0)
SEVEN_SCENES_SIZE = (480, 640)  # of the images that the calibration is for
SEVEN_SCENES_NO_DEPTH = 65.535  # [m]
TUM_UNITS_PER_METRE = 5000.0
TUM_LIMIT = 0.02  # [s] between an image and its depth or pose
HALF = 0.5  # the published centres of TUM's cameras count from the first pixel's centre
TUM_CAMERAS = {
    "1": (517.3, 516.5, 318.6 + HALF, 255.3 + HALF),
    "2": (520.9, 521.0, 325.1 + HALF, 249.7 + HALF),
    "3": (535.4, 539.2, 320.1 + HALF, 247.6 + HALF),
}


class Layout(NamedTuple):
    """A layout of posed RGB-D clips on disk."""

    # what a message says of its files
    files: str
    # the clips of a folder, in alphabetical order; none if the folder is of another layout
    find: Callable[[Path], list[ClipSource]]
    # the views of a clip; raises ValueError as `read_clip` does
    read: Callable[[ClipSource, ReadOptions], PosedClip]


def find_rooms(folder: Path) -> list[ClipSource]:
    return [room_source(folder, path.stem) for path in sorted((folder / "arrays").glob("*.npz"))]


def room_source(folder: Path, name: str) -> ClipSource:
    """Trajectories through one room are one scene: `test_000012_03` is of room 12."""
    return ClipSource("rooms", folder, name, name.rpartition("_")[0])


def room_split(name: str) -> str:
    return name.rsplit("_", 2)[0]


def read_room(source: ClipSource, options: ReadOptions) -> PosedClip:
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
        remedy="Make the data set again with `vega3d synthesize`.",
    )
    depth = arrays["depth_mm"].astype(np.float32) / np.float32(1000)
    poses, intrinsics = arrays["world_from_camera"].astype(float), arrays["intrinsics"].astype(float)
    chosen = evenly(len(frames), options.views)
    return PosedClip(source.name, source.scene, frames[chosen], depth[chosen], intrinsics, intrinsics, poses[chosen])


def is_scan(folder: Path) -> bool:
    return all((folder / part).is_dir() for part in ("color", "depth", "pose"))


def find_scans(folder: Path) -> list[ClipSource]:
    """Scans of one place are one scene: `scene0012_01` is of `scene0012`."""
    return sources("scannet", folder, clip_folders(folder, is_scan), lambda path: path.resolve().name.split("_")[0])


def read_scan(source: ClipSource, options: ReadOptions) -> PosedClip:
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
    depths = files_by_stem(folder / "depth", "", DEPTH_SUFFIXES)
    depth_paths = chosen_files(seen, depths, lambda stem: folder / "depth" / f"{stem}.png")
    return PosedClip(
        source.name,
        source.scene,
        read_stack([colours[stem] for stem in seen], read_rgb),
        read_stack(depth_paths, read_depth),
        pixel_centres_at_half(read_matrix(folder / "intrinsic" / "intrinsic_color.txt")),
        pixel_centres_at_half(read_matrix(folder / "intrinsic" / "intrinsic_depth.txt")),
        poses[chosen],
        lost,
    )


def is_sequence(folder: Path) -> bool:
    return any(is_colour(path.name.lower()) for path in folder.glob("frame-*"))


def is_colour(name: str) -> bool:
    return any(name.endswith(f".color{suffix}") for suffix in COLOUR_SUFFIXES)


def find_sequences(folder: Path) -> list[ClipSource]:
    """Sequences `chess/seq-01`, `chess/seq-02` are of one scene."""
    return sources("7scenes", folder, clip_folders(folder, is_sequence), lambda path: path.resolve().parent.name)


def read_sequence(source: ClipSource, options: ReadOptions) -> PosedClip:
    folder = source.path
    colours = files_by_stem(folder, ".color", COLOUR_SUFFIXES)
    depths = files_by_stem(folder, ".depth", DEPTH_SUFFIXES)
    stems = sorted(stem for stem in colours if stem.startswith("frame-"))
    poses = np.stack([read_matrix(folder / f"{stem}.pose.txt") for stem in stems])
    usable, lost = usable_poses(stems, poses, options, str(folder))
    chosen = usable[evenly(len(usable), options.views)]
    seen = [stems[frame] for frame in chosen]
    depth_paths = chosen_files(seen, depths, lambda stem: folder / f"{stem}.depth.png")
    frames = read_stack([colours[stem] for stem in seen], read_rgb)
    depth = read_stack(depth_paths, read_depth)
    same_size(frames, depth, str(folder))
    intrinsics = sequence_intrinsics(folder, frames, options)
    depth[depth >= np.float32(SEVEN_SCENES_NO_DEPTH)] = 0
    return PosedClip(source.name, source.scene, frames, depth, intrinsics, intrinsics, poses[chosen], lost)


def sequence_intrinsics(folder: Path, frames: np.ndarray, options: ReadOptions) -> np.ndarray:
    """float[3, 3] [px]: those given, those of the folder, or the published ones; raises ValueError if none are."""
    if options.intrinsics is not None:
        return checked_intrinsics(options.intrinsics)
    if (folder / SEVEN_SCENES_CALIBRATION).exists():
        matrix = read_matrix(folder / SEVEN_SCENES_CALIBRATION)
        return checked_intrinsics((matrix[0, 0], matrix[1, 1], matrix[0, 2], matrix[1, 2]))
    if frames.shape[1:3] != SEVEN_SCENES_SIZE:
        raise ValueError(
            f"{folder}: frames have {frames.shape[2]} x {frames.shape[1]} px, but the layout's calibration is for "
            f"{SEVEN_SCENES_SIZE[1]} x {SEVEN_SCENES_SIZE[0]}. Give --intrinsics fx,fy,cx,cy."
        )
    return checked_intrinsics(SEVEN_SCENES_INTRINSICS)


def is_recording(folder: Path) -> bool:
    return all((folder / name).is_file() for name in ("rgb.txt", "depth.txt", "groundtruth.txt"))


def find_recordings(folder: Path) -> list[ClipSource]:
    return sources("tum", folder, clip_folders(folder, is_recording), lambda path: path.resolve().name)


def read_recording(source: ClipSource, options: ReadOptions) -> PosedClip:
    folder = source.path
    colour_times, colours = read_timed_rows(folder / "rgb.txt", 2)
    depth_times, depths = read_timed_rows(folder / "depth.txt", 2)
    pose_times, poses = read_timed_rows(folder / "groundtruth.txt", 8)
    depth_of, pose_of = nearest(colour_times, depth_times), nearest(colour_times, pose_times)
    paired = (depth_of >= 0) & (pose_of >= 0)
    if paired.sum() < 2:
        raise ValueError(
            f"{folder}: {paired.sum()} of {len(colours)} colour images have depth and a pose within {TUM_LIMIT} s, "
            "but at least 2 are needed. Check the timestamps."
        )
    usable = np.flatnonzero(paired)
    chosen = usable[evenly(len(usable), options.views)]
    colour_paths = [inside(folder, colours[frame][0]) for frame in chosen]
    depth_paths = [inside(folder, depths[frame][0]) for frame in depth_of[chosen]]
    frames = read_stack(colour_paths, read_rgb)
    depth = read_stack(depth_paths, lambda path: read_depth(path, TUM_UNITS_PER_METRE))
    same_size(frames, depth, str(folder))
    intrinsics = checked_intrinsics(options.intrinsics or published_intrinsics(folder))
    chosen_poses = quaternion_poses([poses[frame] for frame in pose_of[chosen]], folder / "groundtruth.txt")
    left_out = tuple(colours[frame][0] for frame in np.flatnonzero(~paired))
    return PosedClip(source.name, source.scene, frames, depth, intrinsics, intrinsics, chosen_poses, left_out)


def nearest(wanted: np.ndarray, times: np.ndarray) -> np.ndarray:
    """int[n]: place in `times` of the one nearest to each wanted time, or -1 if it is further than `TUM_LIMIT`."""
    after = np.clip(np.searchsorted(times, wanted), 1, max(len(times) - 1, 1))
    candidates = np.stack([after - 1, np.minimum(after, len(times) - 1)])
    apart = np.abs(times[candidates] - wanted)
    best = apart.argmin(axis=0)
    places = np.take_along_axis(candidates, best[None], 0)[0]
    return np.where(apart.min(axis=0) <= TUM_LIMIT, places, -1)


def published_intrinsics(folder: Path) -> tuple[float, ...]:
    """fx, fy, cx, cy [px] of the camera that the folder's name tells; raises ValueError if it does not."""
    match = re.search(r"freiburg([123])", folder.resolve().name)
    if match is None:
        raise ValueError(
            f"The name of {folder} does not tell its camera (freiburg1, freiburg2 or freiburg3). "
            "Give --intrinsics fx,fy,cx,cy."
        )
    return TUM_CAMERAS[match[1]]


LAYOUTS = {
    "rooms": Layout("rooms/*.mp4 and arrays/*.npz", find_rooms, read_room),
    "scannet": Layout(
        "color/*.jpg (or .jpeg, .png), depth/*.png (or .pgm), pose/*.txt and intrinsic/intrinsic_{color,depth}.txt",
        find_scans,
        read_scan,
    ),
    "7scenes": Layout(
        "frame-*.color.png (or .jpg, .jpeg), frame-*.depth.png (or .pgm) and frame-*.pose.txt",
        find_sequences,
        read_sequence,
    ),
    "tum": Layout("rgb.txt, depth.txt and groundtruth.txt", find_recordings, read_recording),
}


def find_clips(
    folder: str | Path, layout: str | None = None, split: str | None = None, limit: int | None = None
) -> list[ClipSource]:
    """The clips of a folder, in alphabetical order.

    Args:
        folder: a clip, or a folder of clips up to two levels deep.
        layout: a name of `LAYOUTS`; by default the one whose files are there.
        split: only the rooms of this split; other layouts have none.
        limit: the most clips that are taken.

    Raises:
        ValueError: if there is none, several layouts are there, or a split is asked of a layout without.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"There is no folder {folder}. Give one with posed RGB-D clips.")
    if layout is not None and layout not in LAYOUTS:
        raise ValueError(f"There is no layout {layout!r}. Choose one of {list(LAYOUTS)}.")
    if limit is not None and limit < 1:
        raise ValueError(f"The number of clips is {limit}, but must be at least 1.")
    candidates = {name: LAYOUTS[name].find(folder) for name in ([layout] if layout else LAYOUTS)}
    found = {name: clips for name, clips in candidates.items() if clips}
    if not found:
        known = "; ".join(f"{name}: {LAYOUTS[name].files}" for name in candidates)
        raise ValueError(f"{folder} has no clips. Looked for {known}.")
    if len(found) > 1:
        raise ValueError(f"{folder} has clips in the layouts {' and '.join(found)}. Say which with --layout.")
    name, clips = found.popitem()
    if split is not None:
        clips = split_clips(clips, name, split, folder)
    return clips[:limit]


def split_clips(clips: Sequence[ClipSource], layout: str, split: str, folder: Path) -> list[ClipSource]:
    if layout != "rooms":
        raise ValueError(f"{folder} is in the layout {layout}, which has no splits. Leave out --split.")
    chosen = [clip for clip in clips if room_split(clip.name) == split]
    if not chosen:
        splits = sorted({room_split(clip.name) for clip in clips})
        raise ValueError(f"{folder} has no rooms of split {split!r}, only of {', '.join(splits)}.")
    return chosen


def read_clip(source: ClipSource, options: ReadOptions | None = None) -> PosedClip:
    """Reads the views of a clip.

    Raises:
        ValueError: naming the file, if one is missing or damaged, a pose was lost, or depth and colour do not fit.
    """
    options = options or ReadOptions()
    evenly(2, options.views)
    return LAYOUTS[source.layout].read(source, options)


def make_rooms(
    count: int,
    split: str = "test",
    workers: int = 1,
    cache: Path | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> list[ClipSource]:
    """Clips of the first rooms of a split, made if need be and stored in the cache that `vega3d evaluate` uses too.

    Args:
        count: how many rooms.
        split: `train`, `validation` or `test`.
        workers: processes that make rooms.
        cache: where the rooms are stored; by default below `HF_HOME`.
        on_progress: called with 1 for each room that is there.
    """
    settings = DatasetSettings(split=split)  # type: ignore[arg-type]  # it refuses what is no split
    advance = None if on_progress is None else lambda _: on_progress(1)
    with stored_rooms(settings, count, workers, cache, advance) as table:
        folder = table.parent
    names = [name for room in range(count) for name in settings.walkthrough_names(room)]
    return [room_source(folder, name) for name in names]
