"""Rooms made when they are asked for, and stored for the next time, in a folder of their own for each setting.

The folder lies below the Hub's own cache; several processes may use it at once.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout
from huggingface_hub import constants

from vega3d.rooms.dataset.dataset import FORMAT, synthesize
from vega3d.rooms.dataset.settings import DatasetSettings

logger = logging.getLogger(__name__)


def default_cache() -> Path:
    """`vega3d/rooms` in the Hub's own cache."""
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
) -> Iterator[Path]:
    """The table of the first `count` rooms; those that are not in the store are made.

    The table is written anew for each number of rooms: it stays as it is until the context ends.

    Args:
        settings: which rooms; each setting has a folder of its own.
        count: how many rooms the table covers, from the first one on.
        workers: processes that make rooms.
        cache: folder of the store; by default below `HF_HOME`.
        on_progress: called with 1 for each room that is there.

    Raises:
        ValueError: if `count` is below 1, or the store holds something else.
    """
    cache = default_cache() if cache is None else cache
    cache.mkdir(parents=True, exist_ok=True)
    name = folder_name(settings)
    with waited_for(FileLock(cache / f"{name}.lock")):
        yield synthesize(cache / name, settings, count, workers, on_progress)


def waited_for(lock: FileLock):
    """The lock, once it is free; says so if it is not at once."""
    try:
        return lock.acquire(timeout=1)
    except Timeout:
        logger.warning("Another process is making rooms in %s; waiting for it.", Path(lock.lock_file).parent)
        return lock.acquire()
