"""Names and places of the LeRobot layout, version 3, and the statistics that it keeps of each feature.

meta/info.json                                  features, frame rate, places of the files
meta/tasks.parquet                              text and number of each task
meta/episodes/chunk-000/file-000.parquet        a row an episode: its length, its tasks, where its files lie
meta/stats.json                                 statistics of all features
data/chunk-000/file-000.parquet                 a row a step
videos/CAMERA/chunk-000/file-000.mp4            episodes one after another, each from a time to a time
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

VERSION = "v3.0"
INFO, STATS, TASKS = "meta/info.json", "meta/stats.json", "meta/tasks.parquet"
PLACE = "chunk-{chunk_index:03d}/file-{file_index:03d}"
EPISODES = f"meta/episodes/{PLACE}.parquet"
DATA = f"data/{PLACE}.parquet"
VIDEO = "videos/{video_key}/" + PLACE + ".mp4"
CHUNK = 1000  # files a folder
SEEN_EVERY = "vega3d_seen_every"  # of INFO: steps from one new frame to the next, if they are more than 1
STATE, ACTION, CAMERA = "observation.state", "action", "observation.images."
COUNTERS = {  # columns of each step beside its state and action
    "timestamp": "float32",
    "frame_index": "int64",
    "episode_index": "int64",
    "index": "int64",
    "task_index": "int64",
}
QUANTILES = {"q01": 0.01, "q10": 0.1, "q50": 0.5, "q90": 0.9, "q99": 0.99}
SAMPLED, LARGEST = 50, 150  # frames of an episode, and pixels of a side, of which the statistics of a camera are
Statistics = dict[str, np.ndarray]


def camera_name(feature: str) -> str:
    """The short name of a camera: that of its feature without `observation.images.` or `observation.`."""
    return feature.removeprefix(CAMERA).removeprefix("observation.")


def feature_statistics(values: np.ndarray) -> Statistics:
    """Of n values float[n, D]: min, max, mean, std and quantiles float64[D], and their count int64[1]."""
    values = values.astype(np.float64)
    found = {"min": values.min(0), "max": values.max(0), "mean": values.mean(0), "std": values.std(0)}
    found |= {name: np.quantile(values, share, axis=0) for name, share in QUANTILES.items()}
    return found | {"count": np.array([len(values)])}


def camera_statistics(frames: np.ndarray) -> Statistics:
    """Of frames uint8[T, H, W, 3], some of them and smaller: those of the channels in [0, 1], float64[3, 1, 1]."""
    few = frames[:: -(-len(frames) // SAMPLED)]
    step = -(-max(few.shape[1:3]) // LARGEST)
    pixels = few[:, ::step, ::step].reshape(-1, 3) / 255
    found = {name: value.reshape(3, 1, 1) for name, value in feature_statistics(pixels).items() if name != "count"}
    return found | {"count": np.array([len(few)])}


def merged_statistics(parts: Sequence[Mapping[str, Any]]) -> Statistics:
    """Statistics of several episodes as one; quantiles are means of those of the episodes, as LeRobot has them."""
    arrays = {name: np.stack([np.asarray(part[name], np.float64) for part in parts]) for name in parts[0]}
    counts = arrays["count"].reshape(-1, *[1] * (arrays["mean"].ndim - 1))
    weights = counts / counts.sum()
    mean = (weights * arrays["mean"]).sum(0)
    variance = (weights * (arrays["std"] ** 2 + (arrays["mean"] - mean) ** 2)).sum(0)
    found = {"min": arrays["min"].min(0), "max": arrays["max"].max(0), "mean": mean, "std": np.sqrt(variance)}
    found |= {name: (weights * arrays[name]).sum(0) for name in QUANTILES}
    return found | {"count": arrays["count"].sum(0).astype(np.int64)}


def check_seen_every(steps: Any, what: str) -> int:
    """Steps from one new frame to the next; raises ValueError, naming `what` says so, unless they are 1 or more."""
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise ValueError(f"{what} is {steps!r}, but must be a whole number of steps, at least 1.")
    return steps
