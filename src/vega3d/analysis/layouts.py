"""Posed RGB-D clips on disk: data sets of rooms, and folders in the layouts of ScanNet, 7-Scenes and TUM RGB-D.

`rooms`: data sets of `vega3d synthesize`, `rooms/NAME.mp4` and `arrays/NAME.npz`.

`scannet`: exported scans, `color/N.jpg`, `depth/N.png` [mm], `pose/N.txt`, `intrinsic/intrinsic_{color,depth}.txt`.
Colour and depth differ in size and intrinsics; their cameras are taken to be one, as ScanNet's own tools do (the
exported extrinsics are the identity). Poses are camera-to-world; of frames where tracking was lost they are infinite.
Where the scan's own `NAME.txt` has an `axisAlignment`, they are turned into the aligned world, in which the boxes of
its benchmarks are.

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
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from vega3d.analysis.clips import DEFAULT_VIEWS, ClipSource, PosedClip, ReadOptions, checked_intrinsics, evenly
from vega3d.extras import optional_module
from vega3d.files import check_input, inside
from vega3d.processing.video_vega3d import VideoClip, read_video
from vega3d.rooms.dataset import DatasetSettings
from vega3d.rooms.dataset.dataset import stored_rooms
from vega3d.rooms.dataset.files import read_geometry
from vega3d.scannet import axis_alignment

COLOUR_SUFFIXES = (".png", ".jpg", ".jpeg")
DEPTH_SUFFIXES = (".png", ".pgm")
MILLIMETRES = 1000.0  # units a metre
DEEPEST = 2  # levels of folders below the data's own in which clips lie
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

    files: str  # what a message says of its files
    # the clips of a folder, in alphabetical order; none if the folder is of another layout
    find: Callable[[Path], list[ClipSource]]
    read: Callable[[ClipSource, ReadOptions], PosedClip]  # the views of a clip; raises ValueError as `read_clip` does


def find_folders(
    folder: Path, layout: str, is_clip: Callable[[Path], bool], scene: Callable[[Path], str]
) -> list[ClipSource]:
    """The folder itself if it is a clip, else the clips up to two levels below it, named by their place below it."""
    level, paths = [folder], [folder] if is_clip(folder) else []
    for _ in range(0 if paths else DEEPEST):
        level = sorted(path for parent in level if not is_clip(parent) for path in parent.iterdir() if path.is_dir())
        paths += [path for path in level if is_clip(path)]
    names = ["_".join(path.relative_to(folder).parts) or path.resolve().name for path in paths]
    return [ClipSource(layout, path, name, scene(path)) for path, name in zip(paths, names, strict=True)]


def files_by_stem(folder: Path, kind: str, suffixes: Sequence[str]) -> dict[str, Path]:
    """Files of a folder by what their names have before a kind such as `.color` and a suffix, in any case."""
    found: dict[str, Path] = {}
    endings = [f"{kind}{suffix}" for suffix in suffixes]
    for path in sorted(folder.iterdir()):
        ending = next((ending for ending in endings if path.name.lower().endswith(ending)), None)
        if ending is None:
            continue
        stem = path.name[: -len(ending)]
        if stem in found:
            raise ValueError(f"{found[stem]} and {path} are of one frame. Leave one of them out.")
        found[stem] = path
    return found


def chosen_files(stems: Sequence[str], found: Mapping[str, Path], usual: Callable[[str], Path]) -> list[Path]:
    """A file for each stem; raises ValueError, with the usual name of the file, if there is none."""
    for stem in stems:
        if stem not in found:
            raise missing(usual(stem))
    return [found[stem] for stem in stems]


def missing(path: Path) -> ValueError:
    """The error for a file that a frame needs."""
    return ValueError(f"{path} is missing. Each frame needs colour, depth and pose: export the clip again.")


def read_text(path: Path) -> str:
    """Raises ValueError, naming the file, if it is missing, no regular file, or no text."""
    if not path.exists():
        raise missing(path)
    try:
        return check_input(path).read_text(encoding="utf-8")
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error}. Export it again.") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no text: {error}. Export it again.") from error


def read_rgb(path: Path) -> np.ndarray:
    """uint8[H, W, 3]; raises ValueError if the file is missing or no image."""
    image = open_image(path)
    if image.mode.startswith(("I", "F")):  # of more than 8 bits, which would be cut off, not scaled
        raise ValueError(f"{path} has pixels of the kind {image.mode}, but colour has 8 bits. Export it again.")
    return np.asarray(image.convert("RGB"))


def read_depth(path: Path, units_per_metre: float = MILLIMETRES) -> np.ndarray:
    """float32[H, W] [m] of a 16-bit image; raises ValueError if the file is missing or of another kind."""
    image = np.asarray(open_image(path))
    if image.ndim != 2 or image.dtype.kind not in "ui" or image.dtype.itemsize < 2:
        raise ValueError(f"{path} is {image.dtype}{list(image.shape)}, but depth is one channel of 16 bits.")
    return (image / units_per_metre).astype(np.float32)


def open_image(path: Path) -> Image.Image:
    """The decoded image; raises ValueError if the file is missing or no image."""
    if not path.exists():
        raise missing(path)
    try:
        image = Image.open(check_input(path))
        image.load()
        return image
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path} cannot be read as an image: {error}. Export it again.") from error


def read_matrix(path: Path) -> np.ndarray:
    """float64[4, 4], whatever its numbers; raises ValueError if the file is missing or holds something else."""
    words = read_text(path).split()
    try:
        values = np.array(words, float)
    except ValueError as error:
        raise ValueError(f"{path} is no table of numbers: {error}. Export it again.") from error
    if values.size not in (9, 16):
        raise ValueError(f"{path} has {values.size} numbers, but a matrix of 4 x 4 has 16.")
    side = 3 if values.size == 9 else 4
    matrix = np.eye(4)
    matrix[:side, :side] = values.reshape(side, side)
    return matrix


def pixel_centres_at_half(matrix: np.ndarray) -> np.ndarray:
    """float64[3, 3], from intrinsics that put the first pixel's centre at (0, 0), as OpenCV's calibration does."""
    intrinsics = matrix[:3, :3].copy()
    intrinsics[:2, 2] += 0.5
    return intrinsics


def chosen_views(
    names: Sequence[str], pose_files: Sequence[Path], options: ReadOptions, source: Path
) -> tuple[list[str], np.ndarray, tuple[str, ...]]:
    """Frames with a pose, taken evenly, their poses float64[n, 4, 4], and the names of frames without.

    Raises:
        ValueError: if poses are lost and `options` does not say to leave such frames out, or fewer than two are left.
    """
    poses = np.stack([read_matrix(path) for path in pose_files])
    known = np.isfinite(poses).all(axis=(1, 2))
    lost = tuple(name for name, usable in zip(names, known, strict=True) if not usable)
    if lost and not options.skip_lost:
        raise ValueError(
            f"{source}: the poses of {len(lost)} of {len(names)} frames are NaN or infinite (tracking was lost), the "
            f"first is {lost[0]}. Leave these frames out with --skip-lost."
        )
    if known.sum() < 2:
        raise ValueError(
            f"{source} has {known.sum()} frames with a pose, but at least 2 are needed. Give another clip."
        )
    usable = np.flatnonzero(known)
    chosen = usable[evenly(len(usable), options.views)]
    return [names[frame] for frame in chosen], poses[chosen], lost


def same_size(frames: np.ndarray, depth: np.ndarray, source: str) -> None:
    """Raises ValueError unless depth has the frames' size, in layouts that have one set of intrinsics for both."""
    if frames.shape[1:3] != depth.shape[1:3]:
        raise ValueError(
            f"{source}: frames have {frames.shape[2]} x {frames.shape[1]} px and depth {depth.shape[2]} x "
            f"{depth.shape[1]}, and this layout does not say how they map. Register depth to colour first."
        )


def read_stack(paths: Sequence[Path], read: Callable[[Path], np.ndarray]) -> np.ndarray:
    """The images of several files as one array; raises ValueError, naming the file, if one has another size."""
    images = [read(path) for path in paths]
    for image, path in zip(images, paths, strict=True):
        if image.shape != images[0].shape:
            raise ValueError(
                f"{path} is {list(image.shape)}, but {paths[0]} is {list(images[0].shape)}. Mend the clip."
            )
    return np.stack(images)


def read_timed_rows(path: Path, columns: int) -> tuple[np.ndarray, list[list[str]]]:
    """Timestamps float64[n] [s], increasing, and the other columns; lines that begin with # are comments."""
    rows = [line.split() for line in read_text(path).splitlines() if line.strip() and not line.startswith("#")]
    wrong = [row for row in rows if len(row) != columns]
    if not rows or wrong:
        found = f"a row {' '.join(wrong[0])!r}" if wrong else "no rows"
        raise ValueError(f"{path} has {found}, but needs rows of {columns} columns, the first a timestamp [s].")
    try:
        times = np.array([row[0] for row in rows], float)
    except ValueError as error:
        raise ValueError(f"{path}: {error}. The first column is a timestamp [s].") from error
    if not np.isfinite(times).all() or (np.diff(times) <= 0).any():
        raise ValueError(f"{path}: timestamps must be finite and increase. Sort the rows.")
    return times, [row[1:] for row in rows]


def quaternion_poses(rows: Sequence[Sequence[str]], path: Path) -> np.ndarray:
    """float64[n, 4, 4] world_from_camera of rows tx ty tz qx qy qz qw."""
    try:
        values = np.array(rows, float)
    except ValueError as error:
        raise ValueError(f"{path}: {error}. Rows are: timestamp tx ty tz qx qy qz qw.") from error
    norms = np.linalg.norm(values[:, 3:], axis=1)
    if not np.isfinite(values).all() or (np.abs(norms - 1) > 0.01).any():
        bad = int(np.flatnonzero(~np.isfinite(values).all(axis=1) | ~(np.abs(norms - 1) <= 0.01))[0])
        raise ValueError(
            f"{path}: the pose {' '.join(rows[bad])!r} is not finite with a unit quaternion. Remove the row."
        )
    rotation = optional_module("scipy.spatial.transform").Rotation
    poses = np.tile(np.eye(4), (len(values), 1, 1))
    poses[:, :3, :3] = rotation.from_quat(values[:, 3:]).as_matrix()
    poses[:, :3, 3] = values[:, :3]
    return poses


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
    video = read_video(folder / "rooms" / f"{source.name}.mp4", sys.maxsize)
    frames = video.frames
    depth, instance, poses, intrinsics = read_geometry(folder / "arrays" / f"{source.name}.npz", frames.shape[:3])
    chosen = evenly(len(frames), options.views)
    images = frames[chosen], depth[chosen]
    more = {"instances": instance[chosen], "seconds": video.seconds[chosen]}
    return PosedClip(source.name, source.scene, *images, intrinsics, intrinsics, poses[chosen], **more)


def is_scan(folder: Path) -> bool:
    return all((folder / part).is_dir() for part in ("color", "depth", "pose"))


def scan_scene(folder: Path) -> str:
    """Scans of one place are one scene: `scene0012_01` is of `scene0012`."""
    return folder.resolve().name.split("_")[0]


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
    pose_files = [folder / "pose" / f"{stem}.txt" for stem in stems]
    seen, poses, lost = chosen_views(stems, pose_files, options, folder / "pose")
    depths = files_by_stem(folder / "depth", "", DEPTH_SUFFIXES)
    depth_paths = chosen_files(seen, depths, lambda stem: folder / "depth" / f"{stem}.png")
    return PosedClip(
        source.name,
        source.scene,
        read_stack([colours[stem] for stem in seen], read_rgb),
        read_stack(depth_paths, read_depth),
        pixel_centres_at_half(read_matrix(folder / "intrinsic" / "intrinsic_color.txt")),
        pixel_centres_at_half(read_matrix(folder / "intrinsic" / "intrinsic_depth.txt")),
        axis_alignment(folder) @ poses,
        lost,
    )


def is_sequence(folder: Path) -> bool:
    endings = tuple(f".color{suffix}" for suffix in COLOUR_SUFFIXES)
    return any(path.name.lower().endswith(endings) for path in folder.glob("frame-*"))


def sequence_scene(folder: Path) -> str:
    """Sequences `chess/seq-01`, `chess/seq-02` are of one scene."""
    return folder.resolve().parent.name


def read_sequence(source: ClipSource, options: ReadOptions) -> PosedClip:
    folder = source.path
    colours = files_by_stem(folder, ".color", COLOUR_SUFFIXES)
    depths = files_by_stem(folder, ".depth", DEPTH_SUFFIXES)
    stems = sorted(stem for stem in colours if stem.startswith("frame-"))
    pose_files = [folder / f"{stem}.pose.txt" for stem in stems]
    seen, poses, lost = chosen_views(stems, pose_files, options, folder)
    depth_paths = chosen_files(seen, depths, lambda stem: folder / f"{stem}.depth.png")
    frames = read_stack([colours[stem] for stem in seen], read_rgb)
    depth = read_stack(depth_paths, read_depth)
    same_size(frames, depth, str(folder))
    intrinsics = sequence_intrinsics(folder, frames, options)
    depth[depth >= np.float32(SEVEN_SCENES_NO_DEPTH)] = 0
    return PosedClip(source.name, source.scene, frames, depth, intrinsics, intrinsics, poses, lost)


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
    seconds = colour_times[chosen] - colour_times[chosen[0]]
    images = frames, depth, intrinsics, intrinsics
    return PosedClip(source.name, source.scene, *images, chosen_poses, left_out, seconds=seconds)


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
        partial(find_folders, layout="scannet", is_clip=is_scan, scene=scan_scene),
        read_scan,
    ),
    "7scenes": Layout(
        "frame-*.color.png (or .jpg, .jpeg), frame-*.depth.png (or .pgm) and frame-*.pose.txt",
        partial(find_folders, layout="7scenes", is_clip=is_sequence, scene=sequence_scene),
        read_sequence,
    ),
    "tum": Layout(
        "rgb.txt, depth.txt and groundtruth.txt",
        partial(find_folders, layout="tum", is_clip=is_recording, scene=lambda folder: folder.resolve().name),
        read_recording,
    ),
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
    """The views of a clip; ValueError, naming the file, if one is missing or damaged, or a pose was lost."""
    options = options or ReadOptions()
    evenly(2, options.views)
    return LAYOUTS[source.layout].read(source, options)


def read_posed_video(
    folder: str | Path,
    views: int = DEFAULT_VIEWS,
    layout: str | None = None,
    skip_lost: bool = False,
    intrinsics: Sequence[float] | None = None,
    name: str | None = None,
) -> VideoClip:
    """A posed clip of a folder with its depth and cameras, as `VegaProcessor`, a session and a row take a video.

    Args:
        folder: in one of `LAYOUTS`.
        views: frames taken evenly; a session or a processor may sample fewer of them.
        layout: a name of `LAYOUTS`; by default the one whose files are there.
        skip_lost: leave frames out whose pose was lost, instead of refusing them.
        intrinsics: fx, fy, cx, cy [px], where the layout stores none.
        name: of the clip, where the folder has several.

    Raises:
        ValueError: if there is no such clip, or several may be meant; or as `read_clip` does.
    """
    clips = find_clips(folder, layout)
    names = ", ".join(clip.name for clip in clips[:5])
    if name is not None:
        clips = [clip for clip in clips if clip.name == name]
        if not clips:
            raise ValueError(f"{folder} has no clip {name!r}, but {names}. Give one of them.")
    if len(clips) > 1:
        raise ValueError(f"{folder} has {len(clips)} clips: {names} ... Name one, or give the folder of one.")
    given = None if intrinsics is None else tuple(intrinsics)
    return read_clip(clips[0], ReadOptions(views, skip_lost, given)).video()


def make_rooms(
    count: int,
    split: str = "test",
    workers: int = 1,
    cache: Path | None = None,
    on_progress: Callable[[int], None] | None = None,
    first: int = 0,
    **settings_given: int,
) -> list[ClipSource]:
    """Clips of the rooms of a split, made if need be and stored in the cache that `vega3d evaluate` uses too.

    The arguments are those of `stored_rooms`, and fields of `DatasetSettings`, such as `trajectories`.
    """
    settings = DatasetSettings(split=split, **settings_given)  # type: ignore[arg-type]  # it refuses what is no split
    with stored_rooms(settings, count, workers, cache, on_progress, first) as table:
        folder = table.parent
    names = [name for room in range(first, first + count) for name in settings.walkthrough_names(room)]
    return [room_source(folder, name) for name in names]
