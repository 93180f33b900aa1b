"""`LeRobotFolder`, a data set in the LeRobot layout, version 3, read without lerobot."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from vega3d.extras import check_installed, optional_module
from vega3d.files import check_input, inside, read_json, read_rows
from vega3d.processing.media_files_vega3d import picture_pixels
from vega3d.robotics.demonstrations import Demonstrations, checked_numbers, frames_by_time
from vega3d.robotics.lerobot_layout import (
    ACTION,
    COUNTERS,
    INFO,
    SEEN_EVERY,
    STATE,
    TASKS,
    camera_name,
    check_seen_every,
)

OLDER = "Convert it with lerobot's own converter from v2.1 to v3.0 first."
AGAIN = "Download or record the data set again."


class LeRobotFolder(Demonstrations):
    """A data set in the LeRobot layout, version 3: parquet, and videos or images of the cameras.

    Depth cameras are passed over. States and actions of all episodes are kept in memory once they are read.

    Args:
        folder: has `meta/info.json`.

    Raises:
        ValueError: if it is of another version, or lacks states, actions, cameras, or what its tables name.
        MissingExtraError: without pyarrow.
    """

    def __init__(self, folder: str | Path):
        check_installed("pyarrow")
        self.folder = Path(folder)
        self._info = read_json(self.folder / INFO, AGAIN)
        version = str(self._info.get("codebase_version"))
        if not version.startswith("v3."):
            raise ValueError(f"{folder} is of version {version} of the LeRobot layout, but must be v3. {OLDER}")
        self._features = self._checked_features()
        with reading(self.folder):
            self._keys = {camera_name(key): key for key, value in self._features.items() if is_camera(value)}
        if not self._keys:
            raise ValueError(f"{folder} has no camera: no feature in {INFO} has the dtype video or image.")
        with reading(self.folder):
            self.fps, self.cameras = float(self._info["fps"]), tuple(self._keys)
            self.seen_every = check_seen_every(self._info.get(SEEN_EVERY, 1), f"{SEEN_EVERY} in {self.folder / INFO}")
            self.state_size, self.action_size = (int(self._features[key]["shape"][0]) for key in (STATE, ACTION))
            self._episodes = read_episodes(self.folder)
            self.lengths = [int(row["length"]) for row in self._episodes]
            self._tasks = {row["task_index"]: task_text(row) for row in read_rows(self.folder / TASKS)}
        self._columns: dict[Path, dict[str, np.ndarray]] = {}

    def _checked_features(self) -> dict[str, Any]:
        features = self._info.get("features")
        lacking = [name for name in ("fps", "data_path") if not self._info.get(name)]
        if not isinstance(features, dict) or lacking:
            raise ValueError(f"{self.folder / INFO} has no {', '.join(lacking) or 'features'}. {AGAIN}")
        for key in (STATE, ACTION):
            shape = features.get(key, {}).get("shape")
            if not isinstance(shape, list) or len(shape) != 1:
                raise ValueError(
                    f"{self.folder} has the features {sorted(features)}, but needs {key} with a shape of one number, "
                    f"and has {shape}. Record or rename it."
                )
        return features

    def number_files(self) -> list[Path]:
        episodes = sorted((self.folder / "meta/episodes").glob("*/*.parquet"))
        data = sorted({self._place(row, "data_path", "data") for row in self._episodes})
        return [self.folder / INFO, self.folder / TASKS, *episodes, *data]

    def task(self, episode: int, step: int = 0) -> str:
        number = int(self._rows(episode)["task_index"][step])
        if number not in self._tasks:
            raise ValueError(f"{self.folder}: episode {episode} has the task {number}, which {TASKS} lacks. {AGAIN}")
        return self._tasks[number]

    def numbers(self, episode: int) -> tuple[np.ndarray, np.ndarray]:
        rows = self._rows(episode)
        sizes = (self.state_size, self.action_size)
        return checked_numbers(self.folder, episode, rows[STATE], rows[ACTION], sizes)

    def frames(self, episode: int, camera: str, steps: Sequence[int]) -> np.ndarray:
        key, row = self._keys[camera], self._episodes[episode]
        with reading(self.folder):
            if self._features[key]["dtype"] == "image":
                return self._images(episode, key, steps)
            start, times = row[f"videos/{key}/from_timestamp"], self._rows(episode)["timestamp"]
            path = self._place(row, "video_path", f"videos/{key}", video_key=key)
        return frames_by_time(path, [start + float(times[step]) for step in steps], self.fps)

    def _place(self, row: Mapping[str, Any], template: str, prefix: str, **names: str) -> Path:
        """The file of an episode by the numbers in its row."""
        with reading(self.folder):
            numbers = {name: row[f"{prefix}/{name}"] for name in ("chunk_index", "file_index")}
            return check_input(inside(self.folder, self._info[template].format(**numbers, **names)))

    def _rows(self, episode: int) -> dict[str, np.ndarray]:
        """Columns of the steps of an episode."""
        path = self._place(self._episodes[episode], "data_path", "data")
        if path not in self._columns:
            self._columns[path] = read_columns(path, [STATE, ACTION, *COUNTERS])
        columns = self._columns[path]
        start, stop = np.searchsorted(columns["episode_index"], [episode, episode + 1])
        if stop - start != self.lengths[episode]:
            raise ValueError(
                f"{path} has {stop - start} steps of episode {episode}, but meta/episodes says "
                f"{self.lengths[episode]}. {AGAIN}"
            )
        return {name: values[start:stop] for name, values in columns.items()}

    def _images(self, episode: int, key: str, steps: Sequence[int]) -> np.ndarray:
        """uint8[n, H, W, 3] of a camera whose images are in the table of steps."""
        path = self._place(self._episodes[episode], "data_path", "data")
        parquet = optional_module("pyarrow.parquet")
        table = parquet.read_table(path, columns=[key], filters=[("episode_index", "=", episode)])
        cells = table.column(key).take(list(steps)).to_pylist()
        return np.stack([picture_pixels(Image.open(BytesIO(cell["bytes"]))) for cell in cells])


@contextmanager
def reading(folder: Path) -> Iterator[None]:
    """Turns what tables that lack columns, or hold other types, end in into a ValueError that names the folder."""
    try:
        yield
    except (LookupError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{folder} is no whole data set of LeRobot ({type(error).__name__}: {error}). {AGAIN}"
        ) from error


def is_camera(feature: Mapping[str, Any]) -> bool:
    """Whether a feature is the frames of a camera, and not of depth."""
    about = feature.get("info") or feature.get("video_info") or {}
    is_depth = about.get("is_depth_map") or about.get("video.is_depth_map")
    return feature.get("dtype") in ("video", "image") and not is_depth


def read_episodes(folder: Path) -> list[dict[str, Any]]:
    """The rows of `meta/episodes`, without statistics; raises ValueError unless they are episodes 0, 1, 2, ..."""
    parquet = optional_module("pyarrow.parquet")
    rows = []
    for path in sorted((folder / "meta/episodes").glob("*/*.parquet")):
        names = [name for name in parquet.read_schema(path).names if not name.startswith("stats/")]
        rows += parquet.read_table(path, columns=names).to_pylist()
    numbers = [row["episode_index"] for row in rows]
    if numbers != list(range(len(rows))):
        raise ValueError(
            f"{folder}: meta/episodes has the episodes {numbers[:20]}, but must have 0, 1, 2, ... {AGAIN}"
        )
    return rows


def read_columns(path: Path, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Columns of a table of steps, [N] or [N, D], in the order of its episodes."""
    parquet, pyarrow = optional_module("pyarrow.parquet"), optional_module("pyarrow")
    try:
        table = parquet.read_table(path, columns=list(names))
    except (OSError, pyarrow.ArrowException) as error:
        raise ValueError(f"{path} cannot be read: {error}. {AGAIN}") from error
    missing = sorted(set(names) - set(table.column_names))
    if missing:
        raise ValueError(f"{path} has no column {', '.join(missing)}. {AGAIN}")
    columns = {name: column_values(table.column(name)) for name in names}
    for name in (STATE, ACTION):
        columns[name] = columns[name].reshape(len(table), -1)
    order = np.argsort(columns["episode_index"], kind="stable")
    return {name: values[order] for name, values in columns.items()}


def column_values(column: Any) -> np.ndarray:
    """[N] or [N, D] of a column of numbers or of lists of them."""
    column = column.combine_chunks()
    lists = (optional_module("pyarrow").types.is_list, optional_module("pyarrow").types.is_fixed_size_list)
    if any(is_list(column.type) for is_list in lists):
        return column.flatten().to_numpy(zero_copy_only=False).reshape(len(column), -1)
    return column.to_numpy(zero_copy_only=False)


def task_text(row: Mapping[str, Any]) -> str:
    """The text of a row of `meta/tasks.parquet`, in the column that pandas wrote its index into."""
    return row.get("task", row.get("__index_level_0__", ""))
