"""A folder of walkthroughs with their geometry and their questions, in VSI-Bench's published layout.

    OUT/settings.json                    what the folder was made with; a folder of other settings is refused
    OUT/rooms/{scene}.mp4                one walkthrough
    OUT/arrays/{scene}.npz               depth, instance ids, poses, intrinsics, boxes, correspondences
    OUT/scenes/{scene}.json              its questions and annotations; written last
    OUT/{split}.parquet                  all questions, written when all scenes are there
    OUT/annotations/{split}_*.parquet    referring expressions, captions, attribute questions, grounding
    OUT/README.md, statistics.json       the data set's card and what it counts
    OUT/preview.png                      a contact sheet, if one was asked for

No times, hosts or worker counts: two runs on one machine give the same bytes.

Rooms made when they are asked for (`stored_rooms`) lie below the Hub's own cache, in a folder for each setting.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

from filelock import FileLock, Timeout
from huggingface_hub import constants

from vega3d.configs import check_count
from vega3d.files import check_folder, is_free, only_run, read_json, write_whole
from vega3d.rooms.dataset import ON_DISK, DatasetSettings
from vega3d.rooms.dataset.card import dataset_card, draw_preview
from vega3d.rooms.dataset.files import (
    ARRAYS,
    FPS,
    check_record,
    is_whole_archive,
    is_whole_video,
    table_file,
    walkthrough_record,
    write_arrays,
    write_json,
    write_tables,
)
from vega3d.rooms.dataset.grounding import grounding_rows
from vega3d.rooms.dataset.workers import run_all
from vega3d.rooms.questions.observation import observe
from vega3d.rooms.questions.questions import make_questions
from vega3d.rooms.render import Clip
from vega3d.rooms.render.embree import EmbreeRenderer
from vega3d.rooms.render.light import use_one_thread
from vega3d.rooms.scene import UNSEEN_SPLIT, scene_seed
from vega3d.rooms.scene.furniture import PACK, furniture_for
from vega3d.rooms.scene.scene import Scene, sample_scene
from vega3d.rooms.scene.trajectory import sample_trajectory
from vega3d.runs import check_same_run, sha256
from vega3d.video_files import write_video

FORMAT = 6
SETTINGS = "settings.json"
# SHA-256 of a pack, and of the same arrays packed anew: data sets of the earlier go on with the later.
PACKED_ANEW = {
    "80434f2db6c1f6f9d46ba9df18c10d89d8e07070fbd619b4281f34e072889644": (
        "7df45509aef73438db4558c8e50159c9a7740300bbca153117411f81a7b75ba9"
    )
}
PREVIEWED = 8  # walkthroughs on the contact sheet
logger = logging.getLogger(__name__)


class Walkthrough(NamedTuple):
    """One walkthrough of a room, and all that is said of it."""

    name: str
    trajectory: int  # its number in the room
    scene: Scene
    clip: Clip | None  # None without videos
    record: dict  # what its file in `scenes/` holds: rows of each table (`files.TABLES`)


def make_walkthroughs(
    number: int, settings: DatasetSettings, trajectories: Sequence[int] | None = None, pack: Path | None = None
) -> Iterator[Walkthrough]:
    """The walkthroughs of room `number`, made in memory; all of them, or those with the numbers `trajectories`."""
    scene = sample_scene(scene_seed(settings.split, number), furniture_for(settings.split, pack))
    renderer, observation, per_type = EmbreeRenderer(scene), None, settings.questions_per_type
    for trajectory in range(settings.trajectories) if trajectories is None else trajectories:
        name = settings.walkthrough_names(number)[trajectory]
        path, clip = sample_trajectory(scene, trajectory, settings.num_frames), None
        if settings.videos:
            clip = renderer.render(path, settings.size, settings.size)
        instance = renderer.geometry(path, settings.size, settings.size)[1] if clip is None else clip.instance
        observation = observe(scene, instance, observation)
        questions = make_questions(observation, (scene.seed, 3, trajectory), per_type)
        record = walkthrough_record(observation, scene, name, questions)
        record |= grounding_rows(observation, name, (scene.seed, 6, trajectory), per_type)
        yield Walkthrough(name, trajectory, scene, clip, record)


def make_room(number: int, output: Path, settings: DatasetSettings, pack: Path | None = None) -> None:
    """Makes the walkthroughs of one room that are not there yet; a damaged record is an error here, not at the end."""
    names = settings.walkthrough_names(number)
    missing = [trajectory for trajectory, name in enumerate(names) if not is_made(output, name, settings)]
    for made in make_walkthroughs(number, settings, missing, pack) if missing else ():
        if made.clip is not None:
            write_whole(output / "rooms" / f"{made.name}.mp4", partial(write_video, frames=made.clip.rgb, fps=FPS))
            arrays = partial(write_arrays, scene=made.scene, clip=made.clip, trajectory=made.trajectory)
            write_whole(output / "arrays" / f"{made.name}.npz", arrays)
        write_json(record_file(output, made.name), made.record)
    for name in names:
        read_record(output, name)


def is_made(output: Path, name: str, settings: DatasetSettings) -> bool:
    if not record_file(output, name).is_file():
        return False
    video, arrays = output / "rooms" / f"{name}.mp4", output / "arrays" / f"{name}.npz"
    return not settings.videos or (is_whole_video(video) and is_whole_archive(arrays, ARRAYS))


def record_file(output: Path, name: str) -> Path:
    return output / "scenes" / f"{name}.json"


def read_record(output: Path, name: str) -> dict:
    """What is said of a walkthrough; raises ValueError if its file is damaged."""
    path = record_file(output, name)
    try:
        record = read_json(path)
        check_record(record, name)
    except ValueError as error:
        remedy = "Delete it, and run the same command to make it anew."
        raise ValueError(f"{path} is damaged ({error}). {remedy}") from error
    return record


def synthesize(
    output: str | Path,
    settings: DatasetSettings,
    num_scenes: int,
    workers: int = 1,
    on_progress: Callable[[int], None] | None = None,
    furniture: str | Path | None = None,
    preview: bool = False,
    first: int = 0,
) -> Path:
    """Makes a data set, or what is missing of one; returns the table of all questions.

    Args:
        output: folder; empty, not there yet, or of an earlier run with the same settings.
        settings: what rooms are made, and what is written of them.
        num_scenes: how many rooms.
        workers: processes; the result does not depend on their number.
        on_progress: called with 1 for each room that is done.
        furniture: a pack (`furniture_for`); needed for `test_unseen`.
        preview: whether to draw a contact sheet.
        first: number of the first room in its split.

    Raises:
        ValueError: if the folder holds something else, another run writes it, or an argument is out of range.
    """
    check_count("num_scenes", num_scenes)
    check_count("workers", workers)
    check_folder(output)
    if preview and not settings.videos:
        raise ValueError("A preview shows frames, but videos=False makes none. Leave one of them out.")
    output, pack = Path(output), None if furniture is None else Path(furniture)
    scene_seed(settings.split, first), scene_seed(settings.split, first + num_scenes - 1)
    furniture_for(settings.split, pack)
    with claimed(output, settings, pack):
        make = partial(make_room, output=output, settings=settings, pack=pack)
        for _ in run_all(make, num_scenes, workers, use_one_thread, first):
            if on_progress is not None:
                on_progress(1)
        write_whole_set(output, settings, range(first, first + num_scenes), preview)
    return output / table_file(settings.split, "questions")


def write_whole_set(output: Path, settings: DatasetSettings, rooms: Iterable[int], preview: bool) -> None:
    """Writes tables, statistics, card and contact sheet of all rooms."""
    names = [name for room in rooms for name in settings.walkthrough_names(room)]
    statistics = write_tables(output, settings.split, (read_record(output, name) for name in names))
    write_json(output / "statistics.json", statistics)
    seeds = [scene_seed(settings.split, room) for room in rooms]
    license_name = "cc-by-3.0" if settings.split == UNSEEN_SPLIT else "apache-2.0"
    card = dataset_card(settings.as_json(), statistics, seeds, license_name)
    write_whole(output / "README.md", partial(Path.write_text, data=card))
    if preview:
        drawn = {name: read_record(output, name) for name in names[:: settings.trajectories][:PREVIEWED]}
        write_whole(output / "preview.png", partial(draw_preview, output, drawn))


@contextmanager
def claimed(output: Path, settings: DatasetSettings, pack: Path | None) -> Iterator[None]:
    """Holds the folder of a data set while it is written; makes it if it is not there."""
    digest = sha256(PACK if pack is None else pack)
    wanted = {"format": FORMAT, **settings.as_json(), "furniture_sha256": digest}
    check_free(output, wanted)
    output.mkdir(parents=True, exist_ok=True)
    with only_run(output):
        check_free(output, wanted)  # another run may have begun just before
        if not (output / SETTINGS).is_file():
            write_json(output / SETTINGS, wanted)
        yield


def check_free(output: Path, wanted: dict) -> None:
    """Raises ValueError unless the folder is free, or was made with the same settings and furniture."""
    file = output / SETTINGS
    if file.exists():
        found = read_json(file, f"Choose another folder than {output}.")
        digest = found.get("furniture_sha256")
        found = {**found, "furniture_sha256": PACKED_ANEW.get(str(digest), digest)}
        names = {on_disk: name for name, on_disk in ON_DISK.items()}
        found, wanted = ({names.get(name, name): values[name] for name in values} for values in (found, wanted))
        check_same_run(found, wanted, f"{output} was made with other settings", "Choose another folder.")
        return
    if not is_free(output):
        raise ValueError(f"{output} is not empty and holds no data set of ours. Choose another folder.")


def default_cache() -> Path:
    return Path(constants.HF_HOME) / "vega3d" / "rooms"


def folder_name(settings: DatasetSettings) -> str:
    """The name of a data set's folder in the store: its format and settings."""
    values = "-".join(f"{name}={value}" for name, value in settings.as_json().items())
    return f"format={FORMAT}-{values}"


@contextmanager
def stored_rooms(
    settings: DatasetSettings,
    count: int,
    workers: int = 1,
    cache: Path | None = None,
    on_progress: Callable[[int], None] | None = None,
    first: int = 0,
) -> Iterator[Path]:
    """The table of `count` rooms; those that are not in the store are made.

    The table is written anew for each choice of rooms: it stays as it is until the context ends.

    Args:
        settings: which rooms; each setting has a folder of its own.
        count: how many rooms the table covers.
        workers: processes that make rooms.
        cache: folder of the store; by default below `HF_HOME`.
        on_progress: called with 1 for each room that is there.
        first: number of the first room in its split.

    Raises:
        ValueError: if `count` is below 1, or the store holds something else.
    """
    cache = default_cache() if cache is None else cache
    cache.mkdir(parents=True, exist_ok=True)
    name = folder_name(settings)
    with waited_for(FileLock(cache / f"{name}.lock")):
        yield synthesize(cache / name, settings, count, workers, on_progress, first=first)


def waited_for(lock: FileLock):
    """The lock, once it is free; says so if it is not at once."""
    try:
        return lock.acquire(timeout=1)
    except Timeout:
        logger.warning("Another process is making rooms in %s; waiting for it.", Path(lock.lock_file).parent)
        return lock.acquire()
