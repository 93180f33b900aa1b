"""`EpisodeWriter`, which writes demonstrations in the LeRobot layout, version 3, without lerobot."""

import contextlib
import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from vega3d.extras import check_installed, optional_module
from vega3d.files import check_folder, is_free, only_run, read_json, read_rows, write_json, write_whole
from vega3d.robotics.lerobot_dataset import reading
from vega3d.robotics.lerobot_layout import (
    ACTION,
    CAMERA,
    CHUNK,
    COUNTERS,
    DATA,
    EPISODES,
    INFO,
    SEEN_EVERY,
    STATE,
    STATS,
    TASKS,
    VERSION,
    VIDEO,
    Statistics,
    camera_statistics,
    check_seen_every,
    feature_statistics,
    merged_statistics,
)
from vega3d.video_files import PIXELS, write_video

KEYFRAMES = 8  # frames between two places from which a video can be decoded
OTHER = "Give a new folder."


class EpisodeWriter:
    """Writes episodes into a folder in the LeRobot layout, version 3: each whole or not there.

    An episode has a file of steps, a video for each camera, and a row in a file of `meta/episodes`, which is written
    last. A writer that is opened on the folder of another, also of a killed one, goes on after its last episode.

    Example:

    ```python
    with EpisodeWriter("reach", fps=20) as writer:
        writer.write({"front": frames}, states, actions, "reach the red ball")
    ```

    Args:
        folder: a new one, an empty one, or one that an `EpisodeWriter` has made.
        fps: steps a second.
        robot_type: of the robot, for those who read the data set.
        state_names, action_names: what each number is.
        seen_every: n, if frames are new at the steps 0, n, 2n, ... alone; only these become rows of a policy.

    Raises:
        ValueError: if the folder holds something else, or episodes of other settings; if another writer holds it.
        MissingExtraError: without pyarrow.
    """

    def __init__(
        self,
        folder: str | Path,
        fps: int,
        robot_type: str | None = None,
        state_names: Sequence[str] | None = None,
        action_names: Sequence[str] | None = None,
        seen_every: int = 1,
    ):
        check_installed("pyarrow")
        if isinstance(fps, bool) or not isinstance(fps, int) or fps < 1:
            raise ValueError(f"fps is {fps!r}, but must be a whole number of steps a second, at least 1.")
        check_seen_every(seen_every, "seen_every")
        self.folder = check_folder(folder)
        self._fps, self._robot_type = fps, robot_type
        self._seen = {SEEN_EVERY: seen_every} if seen_every > 1 else {}
        self._names = {STATE: state_names, ACTION: action_names}
        self._features: dict[str, Any] = {}
        self._stats: dict[str, Statistics] = {}
        self._tasks: list[str] = []
        self._count = self._steps = 0  # of finished episodes
        if not is_free(self.folder) and not (self.folder / INFO).is_file():
            raise ValueError(f"{folder} holds other files, and no {INFO}. {OTHER}")
        self.folder.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as stack:
            stack.enter_context(only_run(self.folder))
            if (self.folder / INFO).is_file():
                self._go_on()
            self._held = stack.pop_all()

    def __enter__(self) -> "EpisodeWriter":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Lets others write into the folder; all episodes are on the disk already."""
        self._held.close()

    def __len__(self) -> int:
        """How many episodes are finished."""
        return self._count

    def write(self, frames: Mapping[str, np.ndarray], states: np.ndarray, actions: np.ndarray, task: str) -> int:
        """Writes one episode, and returns its number.

        Args:
            frames: uint8[T, H, W, 3] of each camera, H and W even, as the robot saw them before each action.
            states: float[T, P].
            actions: float[T, A].
            task: what the robot is told to do.

        Raises:
            ValueError: if anything has another shape than it must, or than in the first episode; for numbers that are
                not finite, or an empty task.
        """
        number, steps = self._count, len(actions)
        check_episode(f"Episode {number}", frames, states, actions, task)
        vectors = {STATE: np.asarray(states, np.float32), ACTION: np.asarray(actions, np.float32)}
        self._check_features(self._features_of(frames, vectors))
        tasks = self._tasks if task in self._tasks else [*self._tasks, task]
        columns = vectors | {
            "timestamp": np.arange(steps) / self._fps,
            "frame_index": np.arange(steps),
            "episode_index": np.full(steps, number),
            "index": np.arange(self._steps, self._steps + steps),
            "task_index": np.full(steps, tasks.index(task)),
        }
        stats = {name: feature_statistics(values.reshape(steps, -1)) for name, values in columns.items()}
        for name, video in frames.items():
            stats[CAMERA + name] = camera_statistics(video)
            path = self.folder / VIDEO.format(video_key=CAMERA + name, **place_of(number))
            write_whole(path, partial(write_video, frames=video, fps=self._fps, keyframes=KEYFRAMES))
        write_table(self.folder / DATA.format(**place_of(number)), step_columns(columns))
        if tasks is not self._tasks:
            write_tasks(self.folder / TASKS, tasks)
        row = self._row(steps, task, list(frames)) | {
            f"stats/{name}/{key}": value.tolist() for name, found in stats.items() for key, value in found.items()
        }
        write_table(self.folder / EPISODES.format(**place_of(number)), {name: [value] for name, value in row.items()})
        self._tasks = tasks
        self._add(steps, stats)
        self._write_summary()
        return number

    def _add(self, steps: int, stats: Mapping[str, Statistics]) -> None:
        """Counts an episode that is finished."""
        self._count, self._steps = self._count + 1, self._steps + steps
        before = self._stats
        self._stats = {
            name: merged_statistics([before[name], one] if before else [one]) for name, one in stats.items()
        }

    def _features_of(self, frames: Mapping[str, np.ndarray], vectors: Mapping[str, np.ndarray]) -> dict[str, Any]:
        """The features of an episode as `info.json` has them."""
        features: dict[str, Any] = {}
        for name, values in vectors.items():
            given, size = self._names[name], values.shape[1]
            if given is not None and len(given) != size:
                raise ValueError(f"{name} has {size} numbers, but {len(given)} names: {list(given)}.")
            features[name] = {"dtype": "float32", "shape": [size], "names": None if given is None else list(given)}
        for name, video in frames.items():
            shape = list(video.shape[1:])
            about = dict(zip(("video.height", "video.width", "video.channels"), shape, strict=True))
            about |= {"video.codec": "h264", "video.pix_fmt": PIXELS, "video.fps": self._fps}
            about |= {"has_audio": False, "is_depth_map": False}
            names = ["height", "width", "channels"]
            features[CAMERA + name] = {"dtype": "video", "shape": shape, "names": names, "info": about}
        return features | {name: {"dtype": kind, "shape": [1], "names": None} for name, kind in COUNTERS.items()}

    def _check_features(self, features: dict[str, Any]) -> None:
        """Raises ValueError if they are others than before; those of the first episode are written down."""
        if not self._features:
            self._features = features
            (self.folder / INFO).parent.mkdir(exist_ok=True)
            write_json(self.folder / INFO, self._info())
        elif features != self._features:
            now, before = (
                {name: value["shape"] for name, value in one.items() if name not in COUNTERS}
                for one in (features, self._features)
            )
            raise ValueError(
                f"Episode {self._count} has {now}, but those before it in {self.folder} have {before}, or other "
                f"names. {OTHER}"
            )

    def _row(self, steps: int, task: str, cameras: Sequence[str]) -> dict[str, Any]:
        """The row of the next episode in `meta/episodes`, without statistics."""
        place = place_of(self._count)
        row: dict[str, Any] = {"episode_index": self._count, "tasks": [task], "length": steps}
        row |= {f"data/{name}": value for name, value in place.items()}
        row |= {"dataset_from_index": self._steps, "dataset_to_index": self._steps + steps}
        for name in cameras:
            prefix = f"videos/{CAMERA}{name}"
            row |= {f"{prefix}/{key}": value for key, value in place.items()}
            row |= {f"{prefix}/from_timestamp": 0.0, f"{prefix}/to_timestamp": steps / self._fps}
        return row | {f"meta/episodes/{name}": value for name, value in place.items()}

    def _info(self) -> dict[str, Any]:
        return self._seen | {
            "codebase_version": VERSION,
            "fps": self._fps,
            "features": self._features,
            "total_episodes": self._count,
            "total_frames": self._steps,
            "total_tasks": len(self._tasks),
            "chunks_size": CHUNK,
            "data_files_size_in_mb": 100,
            "video_files_size_in_mb": 200,
            "data_path": DATA,
            "video_path": VIDEO,
            "robot_type": self._robot_type,
            "splits": {"train": f"0:{self._count}"} if self._count else {},
        }

    def _write_summary(self) -> None:
        """`stats.json` and `info.json` of the episodes so far."""
        lists = {name: {key: value.tolist() for key, value in found.items()} for name, found in self._stats.items()}
        write_json(self.folder / STATS, lists)
        write_json(self.folder / INFO, self._info())

    def _go_on(self) -> None:
        """Takes up the episodes that are finished, and removes what is left of one that is not."""
        info = read_json(self.folder / INFO, OTHER)
        wanted = {"codebase_version": VERSION, "fps": self._fps, "robot_type": self._robot_type, "data_path": DATA}
        wanted |= {SEEN_EVERY: self._seen.get(SEEN_EVERY)}
        for name, value in wanted.items():
            if info.get(name) != value:
                raise ValueError(
                    f"{self.folder} has {name}={info.get(name)!r}, but {value!r} is to be written. {OTHER}"
                )
        with reading(self.folder):
            self._features = info["features"]
            keys = [name for name, feature in self._features.items() if feature["dtype"] == "video"]
            for path in sorted((self.folder / "meta/episodes").glob("*/*.parquet")):
                for row in read_rows(path):
                    self._take_up(row)
            if self._count < info["total_episodes"]:
                raise ValueError(
                    f"{self.folder} has {info['total_episodes']} episodes by {INFO}, but {self._count} in "
                    f"meta/episodes. Copy it again. {OTHER}"
                )
            if self._count:
                rows = sorted(read_rows(self.folder / TASKS), key=lambda row: row["task_index"])
                self._tasks = [row["task"] for row in rows]
                self._write_summary()
        unfinished = [DATA.format(**place_of(self._count))]
        unfinished += [VIDEO.format(video_key=key, **place_of(self._count)) for key in keys]
        for name in unfinished:
            (self.folder / name).unlink(missing_ok=True)

    def _take_up(self, row: Mapping[str, Any]) -> None:
        number, place = self._count, (row["data/chunk_index"], row["data/file_index"])
        if row["episode_index"] != number or place != tuple(place_of(number).values()):
            raise ValueError(
                f"{self.folder}: episode {row['episode_index']} lies in file {place}, so the folder was not made by "
                f"an EpisodeWriter. {OTHER}"
            )
        names = [name.removeprefix("stats/").rsplit("/", 1) for name in row if name.startswith("stats/")]
        stats: dict[str, Statistics] = {}
        for name, key in names:
            stats.setdefault(name, {})[key] = np.asarray(row[f"stats/{name}/{key}"])
        self._add(row["length"], stats)


def check_episode(
    where: str, frames: Mapping[str, np.ndarray], states: np.ndarray, actions: np.ndarray, task: str
) -> None:
    """Raises ValueError for what no episode can have."""
    if not isinstance(task, str) or not task.strip():
        raise ValueError(f"{where}: the task is {task!r}, but must say what the robot is told to do.")
    for name, values in (("states", np.asarray(states)), ("actions", np.asarray(actions))):
        if values.ndim != 2 or not values.size or values.dtype.kind not in "fiu" or not np.isfinite(values).all():
            raise ValueError(
                f"{where}: {name} are {values.dtype}{list(values.shape)}, but must be finite numbers [steps, size], "
                "one step at least."
            )
    if len(states) != len(actions):
        raise ValueError(f"{where} has {len(states)} states and {len(actions)} actions. Give one each a step.")
    if not frames:
        raise ValueError(f"{where} has no camera. Give the frames of one at least.")
    for name, video in frames.items():
        steps, *size, channels = video.shape if video.ndim == 4 else (0, 0, 0)
        fits = (steps, channels, video.dtype) == (len(actions), 3, np.uint8) and all(n and n % 2 == 0 for n in size)
        if not name or "/" in name or not fits:
            raise ValueError(
                f"{where}: the frames of the camera {name!r} are {video.dtype}{list(video.shape)}, but must be "
                f"uint8[{len(actions)}, H, W, 3], H and W even, and its name without a slash."
            )


def place_of(number: int) -> dict[str, int]:
    """Which file an episode is in: one of its own."""
    return {"chunk_index": number // CHUNK, "file_index": number % CHUNK}


def step_columns(columns: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Columns of steps as arrow arrays of the types that LeRobot reads: a vector of one number is a number."""
    arrow = optional_module("pyarrow")
    arrays = {}
    for name, values in columns.items():
        kind = arrow.from_numpy_dtype(np.dtype(COUNTERS.get(name, "float32")))
        flat = arrow.array(values.reshape(-1), kind)
        is_vector = values.ndim == 2 and values.shape[1] > 1
        arrays[name] = arrow.FixedSizeListArray.from_arrays(flat, values.shape[1]) if is_vector else flat
    return arrays


def write_table(path: Path, columns: Mapping[str, Any]) -> None:
    arrow, parquet = optional_module("pyarrow"), optional_module("pyarrow.parquet")
    write_whole(path, partial(parquet.write_table, arrow.table(dict(columns))))


def write_tasks(path: Path, tasks: Sequence[str]) -> None:
    """The tasks, with their texts as the index of a table of pandas, as LeRobot reads them."""
    arrow, parquet = optional_module("pyarrow"), optional_module("pyarrow.parquet")
    kinds = {"task_index": ("int64", "int64"), "task": ("unicode", "object")}
    about = [
        {"name": name, "field_name": name, "pandas_type": kind, "numpy_type": numpy, "metadata": None}
        for name, (kind, numpy) in kinds.items()
    ]
    pandas = {"index_columns": ["task"], "column_indexes": [], "columns": about, "pandas_version": "2.0.0"}
    table = arrow.table({"task_index": list(range(len(tasks))), "task": list(tasks)})
    write_whole(path, partial(parquet.write_table, table.replace_schema_metadata({"pandas": json.dumps(pandas)})))
