"""Statistics of the states and actions of demonstrations, computed once in two passes and kept in a cache."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from huggingface_hub import constants

from vega3d.files import read_json, write_json
from vega3d.robotics.demonstrations import Demonstrations

BINS = 8192  # of the histograms that quantiles are read off: exact to the range / 8192
QUANTILES = {"q01": 0.01, "q99": 0.99}
FORMAT = 1  # of what is stored
NAMES = ("state", "action")


def default_folder() -> Path:
    """Where statistics are kept, beside the cache of features."""
    return Path(constants.HF_HOME) / "vega3d" / "robotics"


def dataset_statistics(
    data: Demonstrations, episodes: Sequence[int] | None = None, folder: Path | None = None
) -> dict[str, Any]:
    """Statistics of the states and actions of some episodes, as `VegaForActionPrediction.from_reasoning` takes them.

    Args:
        data: of which all states and actions are read, twice.
        episodes: their numbers, by default all; as `check_demonstrations` gives them.
        folder: where they are looked up and kept; by default the cache, and never the data set's own folder.

    Returns:
        `dataset`, the name of its folder; `content`, a hash of states and actions; `episodes` and `frames`, how many;
        of `state` and of `action` `mean`, `std`, `min`, `max`, `q01` and `q99`, a list of numbers each.
    """
    chosen = list(range(len(data))) if episodes is None else list(episodes)
    kept = (folder or default_folder()) / f"{fingerprint(data, chosen)}.json"
    if kept.is_file():
        try:
            return read_json(kept)
        except ValueError:
            kept.unlink()  # damaged: ours, and computed again
    found = computed_statistics(data, chosen)
    kept.parent.mkdir(parents=True, exist_ok=True)
    write_json(kept, found)
    return found


def fingerprint(data: Demonstrations, episodes: Sequence[int]) -> str:
    """What the statistics depend on: where the files are, their sizes and times, and the episodes."""
    files = [(str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns) for file in data.number_files()]
    return hashlib.sha256(json.dumps([FORMAT, files, list(episodes)]).encode()).hexdigest()


def computed_statistics(data: Demonstrations, episodes: Sequence[int]) -> dict[str, Any]:
    moments = {name: Moments() for name in NAMES}
    digest = hashlib.sha256()
    for episode in episodes:
        for name, values in zip(NAMES, data.numbers(episode), strict=True):
            moments[name].add(values.astype(np.float64))
            digest.update(values.tobytes())
    histograms = {name: Histogram(moments[name].low, moments[name].high) for name in NAMES}
    for episode in episodes:
        for name, values in zip(NAMES, data.numbers(episode), strict=True):
            histograms[name].add(values.astype(np.float64))
    of_each = {
        name: {
            "mean": moments[name].mean.tolist(),
            "std": moments[name].std.tolist(),
            "min": moments[name].low.tolist(),
            "max": moments[name].high.tolist(),
            **{key: histograms[name].quantile(share).tolist() for key, share in QUANTILES.items()},
        }
        for name in NAMES
    }
    about = {"dataset": data.folder.resolve().name, "content": digest.hexdigest()}
    return {**about, "episodes": len(episodes), "frames": moments["action"].count, **of_each}


class Moments:
    """Mean, spread and extremes float64[D] of values that come in parts."""

    def __init__(self) -> None:
        self.count = 0
        self.mean: Any = 0.0
        self._squares: Any = 0.0
        self.low: Any = np.inf
        self.high: Any = -np.inf

    def add(self, values: np.ndarray) -> None:
        """Counts float64[n, D]; the means of both parts are merged as Chan, Golub and LeVeque do."""
        count, mean = len(values), values.mean(0)
        away, total = mean - self.mean, self.count + count
        self._squares = self._squares + ((values - mean) ** 2).sum(0) + away**2 * self.count * count / total
        self.mean = self.mean + away * count / total
        self.count = total
        self.low, self.high = np.minimum(self.low, values.min(0)), np.maximum(self.high, values.max(0))

    @property
    def std(self) -> np.ndarray:
        return np.sqrt(self._squares / self.count)


class Histogram:
    """How often values float64[n, D] fall between their extremes, in `BINS` bins of one width."""

    def __init__(self, low: np.ndarray, high: np.ndarray):
        self._low, self._range = low, np.where(high > low, high - low, 1.0)
        self._counts = np.zeros((len(low), BINS), np.int64)

    def add(self, values: np.ndarray) -> None:
        places = ((values - self._low) / self._range * BINS).astype(np.int64).clip(0, BINS - 1)
        for dimension, column in enumerate(places.T):
            self._counts[dimension] += np.bincount(column, minlength=BINS)

    def quantile(self, share: float) -> np.ndarray:
        """float64[D]: the middle of the bin in which this share of the values is reached."""
        reached = self._counts.cumsum(1) >= share * self._counts.sum(1, keepdims=True)
        middles = (reached.argmax(1) + 0.5) / BINS
        constant = (self._counts > 0).sum(1) == 1
        return self._low + np.where(constant, 0.0, middles * self._range)
