"""`EpisodeFolder`, demonstrations as plain files: a folder an episode, with pictures or a video of each camera."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vega3d.files import check_input, inside, read_json, read_rows
from vega3d.processing.media_files_vega3d import list_pictures, read_picture
from vega3d.robotics.demonstrations import Demonstrations, checked_numbers, frames_by_number
from vega3d.robotics.lerobot_dataset import LeRobotFolder
from vega3d.robotics.lerobot_layout import INFO
from vega3d.rooms.archives import LARGEST, read_archive

ABOUT, EPISODE = "dataset.json", "episode.json"
NUMBERS = ("numbers.npz", "numbers.parquet")
ARRAYS = ("states", "actions")
SEE = "docs/manipulation.md says what it holds."


class EpisodeFolder(Demonstrations):
    """Demonstrations as plain files.

        FOLDER/dataset.json                  {"fps": 10, "cameras": ["front", "wrist"]}
        FOLDER/EPISODE/episode.json          {"task": "reach the ball"}
        FOLDER/EPISODE/numbers.npz           states float[T, P] and actions float[T, A]; or numbers.parquet
        FOLDER/EPISODE/front/                a picture for each step, in natural order; or front.mp4

    Each folder in it is an episode, in the order of their names.

    Raises:
        ValueError: if files are missing or hold something else, or no episode has actions.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        about = read_json(self.folder / ABOUT, SEE)
        fps: Any = about.get("fps")
        cameras: Any = about.get("cameras")
        is_rate = isinstance(fps, (int, float)) and not isinstance(fps, bool) and fps > 0
        if not is_rate or not isinstance(cameras, list) or not cameras or not all(isinstance(c, str) for c in cameras):
            raise ValueError(
                f"{self.folder / ABOUT} has fps={fps!r} and cameras={cameras!r}, but must have both. {SEE}"
            )
        self.fps, self.cameras = float(fps), tuple(cameras)
        folders = (entry for entry in self.folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
        self.episodes = sorted(folders)
        self._numbers = [self._read(episode) for episode in self.episodes]
        self.lengths = [len(actions) for _, actions in self._numbers]
        first = next((number for number, length in enumerate(self.lengths) if length), None)
        if first is None:
            raise ValueError(f"{folder} has {len(self.episodes)} episodes, and none has actions. {SEE}")
        self.state_size, self.action_size = (values.shape[-1] for values in self._numbers[first])
        self._tasks: list[Any] = [read_json(episode / EPISODE, SEE).get("task") for episode in self.episodes]
        for episode, task in zip(self.episodes, self._tasks, strict=True):
            if not isinstance(task, str):
                raise ValueError(f"{episode / EPISODE} has task={task!r}, but must say what the robot is told to do.")

    def _read(self, episode: Path) -> tuple[np.ndarray, np.ndarray]:
        """States and actions as they are written; of no steps where there is no file."""
        archive, table = (episode / name for name in NUMBERS)
        if archive.is_file():
            found = read_archive(archive, ARRAYS, largest=LARGEST, remedy=SEE)
        elif table.is_file():
            rows = read_rows(table)
            lacking = [name for name in ARRAYS if rows and name not in rows[0]]
            if lacking:
                raise ValueError(f"{table} has no column {', '.join(lacking)}. {SEE}")
            found = {name: np.array([row[name] for row in rows]) for name in ARRAYS}
        else:
            return np.zeros((0, 0)), np.zeros((0, 0))
        return found["states"], found["actions"]

    def number_files(self) -> list[Path]:
        names = (ABOUT, *(f"{episode.name}/{name}" for episode in self.episodes for name in (EPISODE, *NUMBERS)))
        return [self.folder / name for name in names if (self.folder / name).is_file()]

    def task(self, episode: int, step: int = 0) -> str:
        return self._tasks[episode]

    def numbers(self, episode: int) -> tuple[np.ndarray, np.ndarray]:
        return checked_numbers(self.folder, episode, *self._numbers[episode], (self.state_size, self.action_size))

    def frames(self, episode: int, camera: str, steps: Sequence[int]) -> np.ndarray:
        place = inside(self.episodes[episode], camera)
        if not place.is_dir():
            return frames_by_number(check_input(place.with_name(f"{place.name}.mp4")), steps)
        pictures = list_pictures(place)
        if len(pictures) != self.lengths[episode]:
            raise ValueError(f"{place} has {len(pictures)} pictures, but the episode {self.lengths[episode]} steps.")
        return np.stack([read_picture(pictures[step]) for step in steps])


def is_demonstrations(folder: str | Path) -> bool:
    """Whether a folder holds demonstrations, in the LeRobot layout or as plain files."""
    return any((Path(folder) / name).is_file() for name in (INFO, ABOUT))


def open_demonstrations(folder: str | Path) -> Demonstrations:
    """The demonstrations in a folder, whichever its layout; raises ValueError if there are none."""
    if not is_demonstrations(folder):
        raise ValueError(f"{folder} holds no demonstrations: it has neither {INFO} (LeRobot) nor {ABOUT}. {SEE}")
    reader: Any = LeRobotFolder if (Path(folder) / INFO).is_file() else EpisodeFolder
    return reader(folder)
