"""The benchmark `rooms-grounding`: referring expressions about simulated rooms, with the boxes to choose from."""

from pathlib import Path

from vega3d.evaluation.benchmarks import ROOMS, OnProgress, read_rooms
from vega3d.evaluation.rules import SCENE_RULES
from vega3d.evaluation.scenes.records import GroundingRecord
from vega3d.evaluation.scenes.sources import WITHOUT_PROPOSALS
from vega3d.evaluation.scenes.tables import PROMPTS, ROOMS_GROUNDING
from vega3d.evaluation.vsibench import balanced_places
from vega3d.files import read_json
from vega3d.rooms.dataset.dataset import SETTINGS
from vega3d.rooms.dataset.files import DATASET
from vega3d.rooms.dataset.grounding import load_grounding

DETECTED = "detected"
SOURCES = (DETECTED, "true", WITHOUT_PROPOSALS)


def load_room_grounding(
    data: Path | None = None,
    proposals: str | None = None,
    limit: int | None = None,
    needs_videos: bool = True,
    seed: int = 0,
    workers: int = 1,
    on_progress: OnProgress | None = None,
) -> list[GroundingRecord]:
    """The expressions of a data set of rooms, or of the first rooms of split `test`, as many as the limit needs.

    Args:
        data: folder of a data set; without one, rooms are made and stored, those of the benchmark `rooms`.
        proposals: one of `SOURCES`, `detected` by default; `none` for a model that needs none.
        limit: most questions, balanced over the kinds and drawn by `seed`; None for all.
        needs_videos: whether a walkthrough is of use without its video.
        workers: processes that make rooms.

    Raises:
        ValueError: for other proposals, a folder that is no data set of rooms, or videos that are missing.
    """
    source = DETECTED if proposals is None else proposals
    if source not in SOURCES:
        raise ValueError(
            f"--proposals is {source!r}, but of {ROOMS_GROUNDING} it must be one of {', '.join(SOURCES)}."
        )
    kinds = SCENE_RULES[ROOMS_GROUNDING].types
    if data is None:
        settings = ROOMS.settings

        def read(table: Path) -> list[GroundingRecord]:
            return room_records(table.parent, settings.split, source)

        records = read_rooms(ROOMS, read, kinds, limit, workers, on_progress=on_progress)
    else:
        records = room_records(data, split_of(data), source)
    if needs_videos:
        check_videos(records)
    if limit is not None:
        places = balanced_places([record.kind for record in records], kinds, limit, seed)
        records = [records[place] for place in places]
    return records


def split_of(folder: Path) -> str:
    """The split of a data set of rooms; raises ValueError if the folder is none."""
    remedy = f"Give a folder that `vega3d synthesize` made, or leave --data out of {ROOMS_GROUNDING}."
    split = read_json(folder / SETTINGS, remedy).get("split")
    if not isinstance(split, str):
        raise ValueError(f"{folder / SETTINGS} names no split. {remedy}")
    return split


def room_records(folder: Path, split: str, source: str) -> list[GroundingRecord]:
    """All expressions of a data set, with the boxes of one of `SOURCES`."""
    questions = load_grounding(folder, split, DETECTED if source == WITHOUT_PROPOSALS else source)
    return [
        GroundingRecord(
            id=question.id,
            scene=question.scene.rpartition("_")[0],  # trajectories through one room are one scene
            scan=question.scene,
            dataset=DATASET,
            folder=folder,
            kind=question.kind,
            prompt=PROMPTS[ROOMS_GROUNDING].format(question.expression),
            expression=question.expression,
            boxes=question.boxes[:0] if source == WITHOUT_PROPOSALS else question.boxes,
            targets=question.targets,
        )
        for question in questions
    ]


def check_videos(records: list[GroundingRecord]) -> None:
    """Raises ValueError if a walkthrough has no video, as of `vega3d synthesize --no-videos`."""
    scans = {(record.folder, record.scan) for record in records}
    missing = sorted(
        scan for folder, scan in scans if folder is None or not (folder / DATASET / f"{scan}.mp4").is_file()
    )
    if missing:
        raise ValueError(
            f"{len(missing)} of {len(scans)} walkthroughs have no video, the first is {missing[0]}. Make the data set "
            "with videos, or ask a --baseline."
        )
