"""A folder of walkthroughs with their geometry and their questions, in VSI-Bench's published layout.

    OUT/settings.json                    what the folder was made with; a folder of other settings is refused
    OUT/rooms/{scene}.mp4                one walkthrough
    OUT/arrays/{scene}.npz               depth, instance ids, poses, intrinsics, boxes, correspondences
    OUT/scenes/{scene}.json              its questions and annotations; written last
    OUT/{split}.parquet                  all questions, written when all scenes are there
    OUT/annotations/{split}_*.parquet    referring expressions, captions, attribute questions
    OUT/README.md, statistics.json       the data set's card and what it counts
    OUT/preview.png                      a contact sheet, if one was asked for

No times, hosts or worker counts: two runs on one machine give the same bytes.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cache, partial
from pathlib import Path

from vega3d.configs import check_count
from vega3d.files import check_folder, is_free, only_run, read_json, write_whole
from vega3d.rooms.dataset.dataset_card import dataset_card
from vega3d.rooms.dataset.dataset_files import (
    ARRAYS,
    check_record,
    table_file,
    walkthrough_record,
    write_arrays,
    write_json,
    write_tables,
    write_video,
)
from vega3d.rooms.dataset.preview import draw_preview
from vega3d.rooms.dataset.resumable import run_all
from vega3d.rooms.dataset.whole import is_whole_archive, is_whole_video
from vega3d.rooms.questions.observation import observe
from vega3d.rooms.questions.questions import make_questions
from vega3d.rooms.render.embree import EmbreeRenderer
from vega3d.rooms.render.raycast import use_one_thread
from vega3d.rooms.scene.furniture import PACK, UNSEEN_SPLIT, Furniture, furniture_for
from vega3d.rooms.scene.scene import sample_scene, scene_seed
from vega3d.rooms.scene.trajectory import sample_walk
from vega3d.runs import check_same_run, sha256

FORMAT = 2
SETTINGS = "settings.json"
PREVIEWED = 8  # walkthroughs on the contact sheet


@dataclass(frozen=True)
class DatasetSettings:
    """
    Args:
        split: `train`, `validation`, `test` or `test_unseen`; their seeds are disjoint.
        size: edge of the square frames [px].
        num_frames: of a walkthrough.
        walks: walkthroughs of a room, which share its light.
        questions_per_type: most questions of one type about a walkthrough.
        videos: whether videos and arrays are written; without, only tables, in a tenth of the time.

    Raises:
        ValueError: for a value out of range.
    """

    split: str = "train"
    size: int = 192
    num_frames: int = 17
    walks: int = 1
    questions_per_type: int = 2
    videos: bool = True

    def __post_init__(self):
        scene_seed(self.split, 0)
        limits = {"size": (128, 640), "num_frames": (2, 512), "walks": (1, 64), "questions_per_type": (1, 100)}
        for name, (low, high) in limits.items():
            check_count(name, asdict(self)[name], low, high)
        if self.size % 2:
            raise ValueError(
                f"size is {self.size}, but video frames have an even number of pixels. Use {self.size + 1}."
            )

    def names_of(self, room: int) -> list[str]:
        """Of the walkthroughs of a room."""
        return [f"{self.split}_{room:06d}_{walk:02d}" for walk in range(self.walks)]


@cache
def cached_furniture(split: str, pack: Path | None) -> list[Furniture]:
    return furniture_for(split, pack)


def make_room(number: int, output: Path, settings: DatasetSettings, pack: Path | None = None) -> int:
    """Makes the walkthroughs of one room that are not there yet; returns how many questions they have."""
    names = settings.names_of(number)
    missing = [walk for walk, name in enumerate(names) if not is_made(output, name, settings)]
    if missing:
        scene = sample_scene(scene_seed(settings.split, number), cached_furniture(settings.split, pack))
        renderer, observation = EmbreeRenderer(scene), None
        for walk in missing:
            name, path = names[walk], sample_walk(scene, walk, settings.num_frames)
            if settings.videos:
                clip = renderer.render(path, settings.size, settings.size)
                instance = clip.instance
                write_whole(output / "rooms" / f"{name}.mp4", partial(write_video, frames=clip.rgb))
                arrays = partial(write_arrays, scene=scene, clip=clip, walk=walk)
                write_whole(output / "arrays" / f"{name}.npz", arrays)
            else:
                _, instance = renderer.geometry(path, settings.size, settings.size)
            observation = observe(scene, instance, observation)
            questions = make_questions(observation, (scene.seed, 3, walk), settings.questions_per_type)
            write_json(record_file(output, name), walkthrough_record(observation, scene, name, questions))
    return sum(len(read_record(output, name)["questions"]) for name in names)


def is_made(output: Path, name: str, settings: DatasetSettings) -> bool:
    if not record_file(output, name).is_file():
        return False
    video, arrays = output / "rooms" / f"{name}.mp4", output / "arrays" / f"{name}.npz"
    return not settings.videos or (is_whole_video(video) and is_whole_archive(arrays, ARRAYS))


def record_file(output: Path, name: str) -> Path:
    return output / "scenes" / f"{name}.json"


def read_record(output: Path, name: str) -> dict:
    """Raises ValueError if the file is damaged."""
    path = record_file(output, name)
    try:
        record = read_json(path)
        check_record(record, name)
    except ValueError as error:
        raise ValueError(
            f"{path} is damaged ({error}). Delete it, and run the same command to make it anew."
        ) from error
    return record


def synthesize(
    output: str | Path,
    settings: DatasetSettings,
    num_scenes: int,
    workers: int = 1,
    on_scene: Callable[[int], None] | None = None,
    furniture: str | Path | None = None,
    preview: bool = False,
) -> Path:
    """Makes a data set, or what is missing of one; the result does not depend on `workers`.

    Args:
        output: folder; empty, not there yet, or of an earlier run with the same settings.
        settings: of the data set.
        num_scenes: rooms, numbered from 0 in their split.
        workers: processes.
        on_scene: called with the number of questions of each room that is done.
        furniture: a pack (`furniture_for`); needed for `test_unseen`.
        preview: whether to draw a contact sheet.

    Returns:
        The table of all questions.

    Raises:
        ValueError: if the folder holds something else, another run writes it, or an argument is out of range.
    """
    check_count("num_scenes", num_scenes)
    check_count("workers", workers)
    check_folder(output)
    if preview and not settings.videos:
        raise ValueError("A preview shows frames, but videos=False makes none. Leave one of them out.")
    output, pack = Path(output), None if furniture is None else Path(furniture)
    scene_seed(settings.split, num_scenes - 1)
    cached_furniture(settings.split, pack)
    with claimed(output, settings, pack):
        make = partial(make_room, output=output, settings=settings, pack=pack)
        for count in run_all(make, num_scenes, workers, use_one_thread):
            if on_scene is not None:
                on_scene(count)
        write_whole_set(output, settings, num_scenes, preview)
    return output / table_file(settings.split, "questions")


def write_whole_set(output: Path, settings: DatasetSettings, num_scenes: int, preview: bool) -> None:
    """Tables, statistics, card and contact sheet of all rooms."""
    names = [name for room in range(num_scenes) for name in settings.names_of(room)]
    statistics = write_tables(output, settings.split, (read_record(output, name) for name in names))
    write_json(output / "statistics.json", statistics)
    seeds = [scene_seed(settings.split, room) for room in range(num_scenes)]
    license_name = "cc-by-3.0" if settings.split == UNSEEN_SPLIT else "apache-2.0"
    card = dataset_card(asdict(settings), statistics, seeds, license_name)
    write_whole(output / "README.md", partial(Path.write_text, data=card))
    if preview:
        drawn = {name: read_record(output, name) for name in names[:: settings.walks][:PREVIEWED]}
        write_whole(output / "preview.png", partial(draw_preview, output, drawn))


@contextmanager
def claimed(output: Path, settings: DatasetSettings, pack: Path | None) -> Iterator[None]:
    """Holds the folder of a data set while it is made; it is made if it is not there.

    Raises:
        ValueError: if another run holds it, it is not free, or it was made with other settings or furniture.
    """
    digest = sha256(PACK if pack is None else pack)
    wanted = {"format": FORMAT, **asdict(settings), "furniture_sha256": digest}
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
        check_same_run(found, wanted, f"{output} was made with other settings", "Choose another folder.")
        return
    if not is_free(output):
        raise ValueError(f"{output} is not empty and holds no data set of ours. Choose another folder.")
