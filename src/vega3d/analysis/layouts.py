"""Posed RGB-D clips on disk: data sets of rooms, and folders in the layouts of ScanNet, 7-Scenes and TUM RGB-D."""

from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType

from vega3d.analysis import layout_rooms, layout_scannet, layout_seven_scenes, layout_tum
from vega3d.analysis.clips import ClipSource, PosedClip, ReadOptions, evenly
from vega3d.rooms.dataset.settings import DatasetSettings
from vega3d.rooms.dataset.store import stored_rooms

LAYOUTS: dict[str, ModuleType] = {
    "rooms": layout_rooms,
    "scannet": layout_scannet,
    "7scenes": layout_seven_scenes,
    "tum": layout_tum,
}


def find_clips(
    folder: str | Path, layout: str | None = None, split: str | None = None, limit: int | None = None
) -> list[ClipSource]:
    """The clips of a folder, in alphabetical order.

    Args:
        folder: a clip, or a folder of clips up to two levels deep.
        layout: a name of `LAYOUTS`; by default the one whose files are there.
        split: only the rooms of this split; other layouts have none.
        limit: the most clips.

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
        known = "; ".join(f"{name}: {LAYOUTS[name].FILES}" for name in candidates)
        raise ValueError(f"{folder} has no clips. Looked for {known}.")
    if len(found) > 1:
        raise ValueError(f"{folder} has clips in the layouts {' and '.join(found)}. Say which with --layout.")
    name, clips = found.popitem()
    if split is not None:
        clips = clips_of_split(clips, name, split, folder)
    return clips[:limit]


def clips_of_split(clips: Sequence[ClipSource], layout: str, split: str, folder: Path) -> list[ClipSource]:
    if layout != "rooms":
        raise ValueError(f"{folder} is in the layout {layout}, which has no splits. Leave out --split.")
    chosen = [clip for clip in clips if layout_rooms.split_of(clip.name) == split]
    if not chosen:
        splits = sorted({layout_rooms.split_of(clip.name) for clip in clips})
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
    on_room: Callable[[int], None] | None = None,
) -> list[ClipSource]:
    """Clips of the first rooms of a split, made if need be and kept in the cache that `vega3d evaluate` uses too.

    Args:
        count: rooms.
        split: `train`, `validation` or `test`.
        workers: processes that make rooms.
        cache: folder for the rooms; by default below `HF_HOME`.
        on_room: called with 1 for each room that is there.
    """
    settings = DatasetSettings(split=split)
    advance = None if on_room is None else lambda _: on_room(1)
    with stored_rooms(settings, count, workers, cache, advance) as table:
        folder = table.parent
    names = [name for room in range(count) for name in settings.walkthrough_names(room)]
    return [layout_rooms.source(folder, name) for name in names]
